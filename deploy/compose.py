"""Starts the laptop pipeline: makes what docker-compose.yml needs, brings it up, and says where it is.

    make compose                     build, start, wait until all of it is healthy, print the address and the login
    make compose ARGS='up --scale worker-cpu=3'
    make compose ARGS='load --shape smoke'
                                     load what runs, and audit it; the report comes to var/load
    make compose ARGS=prepare        only what `docker compose up --build` needs: Compose, secrets, images
    make compose ARGS=down           or whatever else `docker compose` takes: ps, 'logs -f web', 'down -v'

docs/compose.md says more. Needs nothing but Python and Docker.
"""

import configparser
import hashlib
import os
import re
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / os.environ.get("SECRETS_FOLDER", "var/secrets/compose")
PULLED = re.compile(r"^(?:FROM| +image:) ((?:debian|nginx|postgres|redis):\S+)", re.MULTILINE)
AUTHORITIES = ["/usr/local/share/ca-certificates/*.crt", "/etc/pki/ca-trust/source/anchors/*"]
USER = "headrace"
CLEAR_LINE = "\x1b[2K"  # Compose writes it even into a pipe


class ComposeError(RuntimeError):
    """A command cannot continue; the message is one sentence for the user."""


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def run(*argv: str) -> int:
    """A program's status; it speaks to the terminal itself."""
    return subprocess.run(argv, cwd=ROOT, check=False).returncode  # noqa: S603


def read(*argv: str) -> str:
    """What a program prints."""
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


# Secrets


def keep(name: str, value: str) -> str:
    """A secret: what its file has, or `value`, which becomes its content."""
    file = FOLDER / name
    return file.read_text().strip() if file.exists() else write(name, value)


def write(name: str, value: str) -> str:
    """Write a secret, readable for every user of a container; on this machine, the folder keeps others out."""
    file = FOLDER / name
    if not file.exists() or file.read_text() != value + "\n":
        file.write_text(value + "\n")
        file.chmod(0o644)
    return value


def make_secrets() -> None:
    """Make the random ones that are missing, and write anew what is composed of them, so that all of it agrees.

    Raises:
        ComposeError: a file of certificates cannot be read.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    FOLDER.chmod(0o700)
    keep("secret_key", secrets.token_urlsafe(48))
    keep("login_password", secrets.token_urlsafe(12))
    database = keep("postgres_password", secrets.token_urlsafe(32))
    broker = keep("redis_password", secrets.token_urlsafe(32))
    write("database_url", f"postgresql://headrace:{database}@postgres:5432/headrace")
    write("broker_url", f"redis://headrace:{broker}@redis:6379/0")
    write("redis_users", broker_users(broker))
    write("extra_ca", extra_authorities())


def broker_users(password: str) -> str:
    """Redis's file of users: ours, with what deploy/broker.ini lets the application do."""
    rules = configparser.ConfigParser()
    rules.read(ROOT / "deploy/broker.ini")
    may, digest = rules["users"], hashlib.sha256(password.encode()).hexdigest()
    return f"user default {may['default']}\nuser headrace on #{digest} {may['application']}"


def extra_authorities() -> str:
    """The certificate authorities that this machine trusts beyond its system's list, for the build behind a proxy."""
    named = os.environ.get("EXTRA_CA")
    files = [Path(named)] if named else [file for glob in AUTHORITIES for file in sorted(Path("/").glob(glob[1:]))]
    try:
        return "\n".join(file.read_text().strip() for file in files)
    except OSError as error:
        raise ComposeError(f"The certificates in {error.filename} cannot be read: {error.strerror}.") from error


def tell_compose() -> None:
    """Name the folder of secrets in .env, which `docker compose` reads; other lines of it stay as they are."""
    if "SECRETS_FOLDER" in os.environ:
        return
    file = ROOT / ".env"
    lines = file.read_text().splitlines() if file.exists() else []
    if not any(line.startswith("SECRETS_FOLDER=") for line in lines):
        file.write_text("\n".join([*lines, f"SECRETS_FOLDER={FOLDER.relative_to(ROOT)}"]) + "\n")


# What it needs


def get_images() -> None:
    """Pull every image that docker-compose.yml and the Dockerfile name, or build its stand-in.

    Raises:
        ComposeError: there is neither.
    """
    texts = [(ROOT / name).read_text() for name in ("docker-compose.yml", "deploy/images/app/Dockerfile")]
    for image in sorted({name for text in texts for name in PULLED.findall(text)}):
        debian = re.fullmatch(r"debian:(\w+)-slim", image)
        script = ["deploy/images/debian", debian[1]] if debian else ["deploy/images/server", image]
        if run(*script):
            raise ComposeError(f"There is no image {image}: see above.")


def prepare() -> None:
    """Do what `docker compose up --build` needs.

    Raises:
        ComposeError: something is missing here, or cannot be had.
    """
    if run("deploy/prepare", "compose"):
        raise ComposeError("Docker or Compose is missing: see above.")
    make_secrets()
    tell_compose()
    get_images()


# The commands


def up(options: list[str]) -> None:
    """Build, start, wait, and say how to go on.

    Raises:
        ComposeError: not all of it is up.
    """
    prepare()
    if run("docker", "compose", "up", "--build", "--detach", "--wait", "--remove-orphans", *options):
        run("docker", "compose", "ps", "--all", "--format", "table {{.Service}}\t{{.Status}}")
        raise ComposeError(what_is_wrong())
    say(welcome(read("docker", "compose", "port", "edge", "8080")))


def load(options: list[str]) -> int:
    """Load what runs, as the user of this machine, so that they own the report; the status of the load test."""
    token = read("docker", "compose", "exec", "-T", "web", "python", "manage.py", "create_api_token", USER)
    if not token:
        raise ComposeError("There is nothing to load: start it first, with `make compose`.")
    if "--fetch" not in options:
        offer_synthetic_kinds()
    (ROOT / "var/load").mkdir(parents=True, exist_ok=True)
    os.environ["HEADRACE_TOKEN"] = token.split()[-1]  # so that no list of processes shows it
    me = f"{os.getuid()}:{os.getgid()}"
    return run("docker", "compose", "--profile", "load", "run", "--rm", "--build", "--user", me, "load", *options)


def offer_synthetic_kinds() -> None:
    """Turn the kinds burn and wait on, which a load test uses, where they are off; each service keeps its number.

    Raises:
        ComposeError: not all of it is up again.
    """
    if read("docker", "compose", "exec", "-T", "web", "printenv", "HEADRACE_SYNTHETIC_KINDS") == "1":
        return
    say("The kinds burn and wait, which the load test uses, are off: turning them on restarts web and workers.")
    os.environ["SYNTHETIC_KINDS"] = "1"
    services = Counter(read("docker", "compose", "ps", "--format", "{{.Service}}").split())
    scales = [f"--scale={name}={count}" for name, count in sorted(services.items()) if count > 1]
    if run("docker", "compose", "up", "--detach", "--wait", *scales):
        raise ComposeError(what_is_wrong())


def what_is_wrong() -> str:
    """Why the start failed: migrate runs before everything else of ours, so its last line says it if it can."""
    if read("docker", "compose", "ps", "--all", "--format", "{{.ExitCode}}", "migrate") in ("", "0"):
        return "Not all of it is up: see the table above, and then docker compose logs SERVICE."
    said = read("docker", "compose", "logs", "--no-log-prefix", "--tail", "1", "migrate").removeprefix(CLEAR_LINE)
    return f"Not all of it is up. migrate says: {said}"


def welcome(address: str) -> str:
    return f"""
Headrace runs at http://{address}/

  sign in       {USER} / {(FOLDER / "login_password").read_text().strip()}
  the fleet     http://{address}/fleet/
  the API       http://{address}/api/docs
  API token     docker compose exec web python manage.py create_api_token {USER}
  more workers  make compose ARGS='up --scale worker-cpu=3'
  load it       make compose ARGS='load --shape smoke'
  the logs      docker compose logs --follow worker-cpu
  the end       make compose ARGS=down        (its data stays; ARGS='down -v' forgets that too)"""


def main() -> int:
    arguments = sys.argv[1:]
    try:
        match arguments:
            case [] | ["up", *_]:
                up(arguments[1:])
            case ["prepare"]:
                prepare()
            case ["load", *options]:
                return load(options)
            case _:
                return run("docker", "compose", *arguments)
    except ComposeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
