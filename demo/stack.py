"""The demo's processes: what runs, in which order, and that all of it ends."""

import asyncio
import contextlib
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from config import lanes
from demo import DemoError
from deploy.measure import measure
from deploy.sizing import LanePlan, SizingError, size_host
from deploy.worker import arguments
from harness import APP, BIN, ROOT, processes, short
from harness.processes import TAIL, Process, until_ready
from harness.servers import Redis
from harness.signals import ignore_signals
from harness.waiting import free_ports

VAR = ROOT / "var" / "demo"
USER = "demo"
STOP_S = 15.0  # what a running job gets to end in, before it is killed
MOST_RESTARTS = 3
GUNICORN = ("--no-control-socket", "--graceful-timeout", "5", "--keep-alive", "75")  # idle connections: as in nginx

Say = Callable[[str], None]


class Stack:
    """Everything that runs, from `start` to the end of the `with` block."""

    def __init__(self, port: int, say: Say) -> None:
        self.port, self.say = port, say
        self.web_port, self.site_port = free_ports(2)
        self.site = f"http://127.0.0.1:{self.site_port}"
        self.address = f"http://127.0.0.1:{port}"
        self.password, self.token = secrets.token_urlsafe(12), ""
        self.secret_key = secrets.token_urlsafe(48)
        self.logs = VAR / "logs" / str(port)  # by port, so that two demos do not write to one file
        self.units: list[Process] = []
        self.http = httpx2.Client(base_url=self.address, timeout=10, trust_env=False)

    def __enter__(self) -> Self:
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            for old in self.logs.glob("*.log"):
                old.unlink()
            self.state = Path(tempfile.mkdtemp(prefix=f"state-{self.port}-", dir=VAR))
        except OSError as error:
            raise DemoError(f"{error.filename} cannot be written: run the demo in a checkout of your own.") from error
        self.redis = Redis(self.state, self.logs / "redis.log")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        ignore_signals()  # it takes STOP_S at most
        last = [unit for unit in self.units if unit.name == "redis"]  # workers still talk to it when they end
        processes.end([unit for unit in self.units if unit not in last], STOP_S)
        processes.end(last, STOP_S)
        shutil.rmtree(self.state, ignore_errors=True)

    # what runs

    def start(self) -> None:
        """Everything, in order. What needs no tables starts before they are made: that takes some seconds."""
        workers = self._worker_commands(plan())
        self.redis.start()
        self.units.append(self.redis.process)
        self._spawn("site", [sys.executable, "-m", "demo.serve_site", str(self.site_port)])
        self._spawn_edge()
        self._manage("migrate", "--verbosity", "0")
        self._spawn_web()
        for name, (lane, command) in workers.items():
            self._spawn(name, command, HEADRACE_LANE=lane)
        self._spawn("sweeper", [sys.executable, "manage.py", "sweep"])
        self._make_user()
        until_ready(self._web_is_ready, "The web process", self.units)
        until_ready(lambda: self._workers_seen() >= len(workers), "Every worker", self.units)
        self._spawn("beat", [BIN / "celery", "-A", "config", "beat", "--pidfile="])

    def _spawn_edge(self) -> None:
        options = ["-k", "asgi", "-b", f"127.0.0.1:{self.port}", *GUNICORN]
        self._spawn("push", [BIN / "gunicorn", "demo.edge:application", *options], DEMO_WEB_PORT=str(self.web_port))

    def _spawn_web(self) -> None:
        options = ["-k", "gthread", "--threads", "8", "-b", f"127.0.0.1:{self.web_port}", *GUNICORN]
        self._spawn("web", [BIN / "gunicorn", "config.wsgi", *options])

    def _worker_commands(self, plans: Iterable[LanePlan]) -> dict[str, tuple[str, list[str | Path]]]:
        table = lanes.load()
        return {
            name: (plan.lane, [BIN / "celery", *arguments(plan, name, table[plan.lane].queues)])
            for plan in plans
            for name in (f"{plan.lane}-{number}" for number in range(1, plan.instances + 1))
        }

    def _environment(self, **more: str) -> dict[str, str]:
        return processes.environment(
            DJANGO_SETTINGS_MODULE="config.settings",
            HEADRACE_SECRET_KEY=self.secret_key,
            HEADRACE_DATABASE_URL=f"sqlite://{self.state / 'db.sqlite3'}",
            HEADRACE_BROKER_URL=self.redis.url,
            HEADRACE_ALLOWED_HOSTS="127.0.0.1,localhost",
            HEADRACE_PLAIN_HTTP="1",
            HEADRACE_FETCH_ALLOW=f"127.0.0.1:{self.site_port}",
            HEADRACE_SYNTHETIC_KINDS="1",
            **more,
        )

    def _spawn(self, name: str, command: Sequence[str | Path], **environment: str) -> None:
        log, env = self.logs / f"{name}.log", self._environment(**environment)
        self.units.append(Process(name, command, log, cwd=APP, env=env))

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
        unchecked = "--skip-checks"  # migrate has run the checks
        who = ["--username", USER, "--email", "demo@localhost.invalid"]
        self._manage("createsuperuser", "--noinput", unchecked, *who, DJANGO_SUPERUSER_PASSWORD=self.password)
        self.token = self._manage("create_api_token", unchecked, USER).split()[-1]

    # what it does once it runs

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

    def _restart(self, unit: Process) -> None:
        if unit.restarts == MOST_RESTARTS:
            raise DemoError(unit.obituary())
        self.say(f"{unit.obituary().splitlines()[0].partition(';')[0]}; it is started again, see {short(unit.log)}.")
        unit.restart()


def plan() -> list[LanePlan]:
    """The workers that deploy/sizing.py plans for this machine."""
    try:
        return size_host(lanes.load().lanes, *measure())
    except SizingError as error:
        raise DemoError(str(error)) from error


def refuse_taken_port(port: int) -> None:
    """Raises DemoError when somebody listens there, or when we may not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a demo that has just ended holds nothing
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            why = "is not for ordinary users" if isinstance(error, PermissionError) else "is in use"
            raise DemoError(f"Port {port} {why}: choose another, as in make demo ARGS='--port 8123'.") from error
