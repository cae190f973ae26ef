"""The laptop pipeline as the tests see it: a Compose project of their own, beside whatever runs already."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from config import lanes
from deploy.images.app import worker
from harness import ROOT
from harness.waiting import free_port

PROJECT = "headrace-compose-test"
SECRETS = ROOT / "var" / PROJECT  # below the checkout: Docker on a Mac shares no other folders
SITE = "http://site:8080"
WORKERS = {"cpu": "worker-cpu", "io": "worker-io", "quick": "worker-quick"}
ALWAYS = ["edge", "web", "push", *WORKERS.values(), "sweeper", "beat", "redis", "postgres"]
MEND = "sudo deploy/prepare compose (Debian), or install Docker with Compose v2"

ASK = """
import json, sys
from config.celery import app
asked = app.control.inspect(timeout=10, limit=int(sys.argv[1]))  # the first so many: it need not wait for more
print(json.dumps({"stats": asked.stats(), "queues": asked.active_queues()}))
"""


def missing() -> str | None:
    """Why it cannot be tried here, and how to mend that."""
    if shutil.which("docker") is None:
        return f"there is no Docker: {MEND}"
    for command, what in ((["info"], "Docker does not run, or not for you"), (["compose", "version"], "no Compose v2")):
        if subprocess.run(["docker", *command], capture_output=True, check=False).returncode:
            return f"{what}: {MEND}"
    return None


class Pipeline:
    """One project, one folder of secrets, one port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.env = os.environ | {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_FILE": f"docker-compose.yml{os.pathsep}tests/compose/site.yml",
            "SECRETS_FOLDER": str(SECRETS.relative_to(ROOT)),
            "EDGE_PORT": str(self.port),
            "SYNTHETIC_KINDS": "1",
            "FETCH_ALLOW": "site:8080",
        }

    def make_compose(self, *options: str) -> subprocess.CompletedProcess[str]:
        """What `make compose` runs."""
        command = [sys.executable, "deploy/compose.py", *options]
        return subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)

    def compose(self, *options: str, check: bool = True, **env: str | None) -> subprocess.CompletedProcess[str]:
        """`docker compose` itself; an environment variable may be replaced, or (None) taken away."""
        changed = {name: value for name, value in (self.env | env).items() if value is not None}
        command = ["docker", "compose", *options]
        done = subprocess.run(command, cwd=ROOT, env=changed, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def run(self, container: str, *command: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """A command in a container that runs."""
        as_user = ["--user", user] if user else []
        argv = ["docker", "exec", *as_user, container, *command]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """What Docker says of their containers."""
        ids = self.compose("ps", "--all", "--quiet", *services).stdout.split()
        done = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def is_internal(self, network: str) -> bool:
        argv = ["docker", "network", "inspect", "--format", "{{.Internal}}", network]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == "true"

    def ask_workers(self) -> dict[str, dict[str, Any]]:
        """What each live worker says of itself through Celery's inspect, by the host part of its name."""
        workers = self.containers(*WORKERS.values())
        answers = json.loads(self.run(workers[0]["Id"], "python", "-c", ASK, str(len(workers))).stdout)
        return {
            name.partition("@")[2]: {"stats": stats, "queues": answers["queues"][name]}
            for name, stats in answers["stats"].items()
        }

    def http(self) -> httpx2.Client:
        """A client of the API."""
        headers = {"Authorization": f"Bearer {self.token()}"}
        return httpx2.Client(base_url=self.address, headers=headers, timeout=30, trust_env=False)

    def token(self) -> str:
        printed = self.compose("exec", "-T", "web", "python", "manage.py", "create_api_token", "headrace").stdout
        return printed.split()[-1]

    def logs(self) -> str:
        return (
            self.compose("ps", "--all", check=False).stdout + self.compose("logs", "--tail", "40", check=False).stdout
        )


def planned(container: dict[str, Any], lane: str) -> Any:
    """What deploy/sizing.py gives a container with the limits that Docker holds it to."""
    limits = container["HostConfig"]
    cores = min(max(1, int(limits["NanoCpus"] // 1e9)), len(os.sched_getaffinity(0)))
    return worker.plan(lanes.load(), lane, cores, limits["Memory"] // 2**20)


def leftovers() -> dict[str, str]:
    """Whatever of the project Docker still has."""
    lists = {"container": ["ps", "--all"], "volume": ["volume", "ls"], "network": ["network", "ls"]}
    form = {"container": "{{.Names}}", "volume": "{{.Name}}", "network": "{{.Name}}"}
    found = {
        what: subprocess.run(
            ["docker", *command, "--filter", f"name={PROJECT}", "--format", form[what]],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for what, command in lists.items()
    }
    return {what: names for what, names in found.items() if names}


def copy_of_secrets(folder: Path, **changed: str) -> str:
    """A folder of the same secrets, some of them wrong; the path is seen from the checkout."""
    shutil.copytree(SECRETS, folder)
    for name, value in changed.items():
        (folder / name).write_text(value)
    return os.path.relpath(folder, ROOT)
