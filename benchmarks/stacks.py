"""The processes of both sides, on one throwaway Redis and one throwaway PostgreSQL."""

import secrets
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg

from benchmarks import VAR, BenchError
from benchmarks.cases import BASELINE, HEADRACE
from benchmarks.clients import Client, OneSocket, Pushed
from benchmarks.meters import Meters
from config import lanes
from deploy.measure import measure
from deploy.sizing import size_host
from deploy.worker import arguments
from harness import APP, BIN, HarnessError, processes
from harness.processes import Process, until_ready
from harness.servers import PostgreSQL, Redis, Server
from harness.signals import ignore_signals
from harness.waiting import answers, free_ports

USER, OTHER = "bench", "other"
THREADS = 8  # of a web process, as deploy/apps/headrace.yml has it
STOP_S = 15.0
COUNTING = (
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.max=10000",
    "pg_stat_statements.save=off",
)
DEEP = 1_000_000  # jobs that may wait in a lane: growth.py puts more there than the lane table would let in
GUNICORN = ("--no-control-socket", "--worker-tmp-dir", "/dev/shm")  # noqa: S108  (no file of ours: what the hosts use)


class Servers:
    """Redis and PostgreSQL, for the whole run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("redis", "postgresql"):
            (directory / name).mkdir()
        self.redis, self.postgresql = (
            Redis(directory / "redis"),
            PostgreSQL(directory / "postgresql", settings=COUNTING),
        )
        self._started: list[Server] = []

    def start(self) -> None:
        for server in (self.redis, self.postgresql):
            server.start()
            self._started.append(server)
        with psycopg.connect(self.postgresql.url, autocommit=True) as connection:
            for name in (BASELINE, "meter"):
                connection.execute(f"CREATE DATABASE {name}")
        self.asked = psycopg.connect(self.database("meter"), autocommit=True)
        self.asked.execute("CREATE EXTENSION pg_stat_statements")

    def stop(self) -> None:
        for server in self._started:
            server.stop()

    def database(self, name: str) -> str:
        return f"{self.postgresql.url.rpartition('/')[0]}/{name}"

    def broker(self, number: int) -> str:
        return f"{self.redis.url.rpartition('/')[0]}/{number}"

    @property
    def roots(self) -> dict[str, list[int]]:
        return {"redis": [self.redis.process.child.pid], "postgres": [self.postgresql.process.child.pid]}


class Side(ABC):
    """One of the two deployments. It starts its units, and is ended by whoever made it."""

    name: str
    database: str
    ways: tuple[str, ...]  # to submit many jobs at once
    broker: int | None  # its database in Redis, if it needs one

    def __init__(self, servers: Servers, logs: Path, environment: dict[str, str]) -> None:
        self.servers, self.logs = servers, logs
        self.environment = processes.environment(**environment)
        self.units: list[Process] = []

    def spawn(self, name: str, command: Sequence[str | Path], **environment: str) -> None:
        """Start a unit; the part of its name before the first dash is its kind."""
        log = self.logs / f"{self.name}-{name}.log"
        self.units.append(Process(name, command, log, cwd=APP, env=self.environment | environment))

    def python(self, *arguments: str) -> str:
        """Run Python to its end; what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=APP,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode:
            raise BenchError(f"{' '.join(arguments[:3])} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout

    def meters(self) -> Meters:
        """Of this side's processes, and of the servers that both use."""
        roots: dict[str, list[int]] = dict(self.servers.roots)
        for unit in self.units:
            roots.setdefault(unit.name.partition("-")[0], []).append(unit.child.pid)
        return Meters(self.servers.redis.url, self.servers.asked, self.database, roots)

    @abstractmethod
    def start(self) -> None:
        """Everything, ready."""

    @abstractmethod
    def client(self) -> Client: ...

    @abstractmethod
    def ended(self, ids: list[str]) -> int:
        """How many of these jobs have a result, asked where results are kept: it costs the side next to nothing."""

    @cached_property
    def _store(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.servers.database(self.database), autocommit=True)

    def _count(self, query: LiteralString, ids: list[str]) -> int:
        [found] = self._store.execute(query, [ids]).fetchone() or (0,)
        return int(found)

    @property
    def workers(self) -> list[Process]:
        return [unit for unit in self.units if unit.name.startswith("worker")]

    def ready(self, log_name: str) -> bool:
        return " ready." in (self.logs / f"{self.name}-{log_name}.log").read_text(errors="replace")


class Headrace(Side):
    """Ours, as the playbooks set a host up. Each lane has the plan that it would have on a host of its own: one lane is
    loaded at a time.
    """

    name, database, broker, ways = HEADRACE, "postgres", 0, ("batch",)

    def __init__(self, servers: Servers, logs: Path) -> None:
        table = logs / "lanes.yml"
        table.write_text(deep_table())
        environment = {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "HEADRACE_SECRET_KEY": secrets.token_hex(32),
            "HEADRACE_DATABASE_URL": servers.postgresql.url,
            "HEADRACE_BROKER_URL": servers.broker(0),
            "HEADRACE_ALLOWED_HOSTS": "127.0.0.1",
            "HEADRACE_PLAIN_HTTP": "1",
            "HEADRACE_SYNTHETIC_KINDS": "1",
            "HEADRACE_LANE_TABLE": str(table),
        }
        super().__init__(servers, logs, environment)
        self.push_workers = max(1, measure()[0] // 2)

    def start(self) -> None:
        self.python("manage.py", "migrate", "--verbosity", "0")
        self.python("manage.py", "shell", "-v", "0", "-c", _MAKE_USERS)
        self.token = self.python("manage.py", "create_api_token", USER).split()[-1]
        self.web_port, self.push_port = free_ports(2)
        self._spawn_web(measure()[0])
        workers = self._spawn_workers()
        self.spawn("sweeper", [sys.executable, "manage.py", "sweep"])
        until_ready(lambda: answers(self.web_port) and answers(self.push_port), "Headrace's web tier", self.units)
        until_ready(lambda: all(self.ready(name) for name in workers), "Every worker of Headrace", self.units)

    def _spawn_web(self, cores: int) -> None:
        """As many processes as deploy/fleet/plan.py plans: one a core, and half as many for push."""
        common = [*GUNICORN, "--keep-alive", "75"]
        web = ["config.wsgi:application", "-k", "gthread", "--threads", str(THREADS), "--workers", str(cores)]
        self.spawn("web", [BIN / "gunicorn", *web, "-b", f"127.0.0.1:{self.web_port}", *common])
        push = ["config.asgi:application", "-k", "asgi", "--workers", str(self.push_workers)]
        self.spawn("push", [BIN / "gunicorn", *push, "-b", f"127.0.0.1:{self.push_port}", *common])

    def _spawn_workers(self) -> list[str]:
        cores, memory_mb = measure()
        names = []
        for lane, facts in lanes.load().lanes.items():
            [plan] = size_host({lane: facts}, cores, memory_mb)
            for number in range(1, plan.instances + 1):
                name = f"worker-{lane}-{number}"
                command: list[str | Path] = [BIN / "celery", *arguments(plan, f"{lane}-{number}", facts.queues)]
                self.spawn(name, command, HEADRACE_LANE=lane)
                names.append(name)
        return names

    def client(self) -> Client:
        return Pushed(self.web_port, self.push_port, self.token)

    def one_socket(self) -> OneSocket:
        return OneSocket(self.web_port, self.push_port, self.token)

    def ended(self, ids: list[str]) -> int:
        return self._count("SELECT count(*) FROM jobs_job WHERE id = ANY(%s::uuid[]) AND state = 'succeeded'", ids)


_MAKE_USERS = f"""
from django.contrib.auth import get_user_model
for name in ({USER!r}, {OTHER!r}):
    get_user_model().objects.create_user(name)
"""


def deep_table() -> str:
    """The lane table, with room for DEEP jobs in every lane."""
    lines = lanes.TABLE.read_text().splitlines()
    return "\n".join(f"    max_backlog: {DEEP}" if "max_backlog:" in line else line for line in lines) + "\n"


Make = Callable[[Servers, Path], Side]


class Bench:
    """Everything that runs, from `start` to the end of the `with` block."""

    def __init__(self, *makes: Make) -> None:
        self.makes = makes

    def __enter__(self) -> Self:
        VAR.mkdir(parents=True, exist_ok=True)
        for log in VAR.glob("*.log"):
            log.unlink()
        self.state = Path(tempfile.mkdtemp(prefix="headrace-bench-"))  # the server's user must reach it
        self.state.chmod(0o755)
        self.sides: dict[str, Side] = {}
        try:
            self.servers = Servers(self.state)
        except HarnessError:
            shutil.rmtree(self.state)
            raise
        return self

    def start(self) -> None:
        self.servers.start()
        for make in self.makes:
            side = make(self.servers, VAR)
            self.sides[side.name] = side
            side.start()

    @property
    def ours(self) -> Headrace:
        side = self.sides[HEADRACE]
        assert isinstance(side, Headrace)  # noqa: S101  (for mypy)
        return side

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        ignore_signals()  # it takes STOP_S and some seconds at most
        try:
            processes.end([unit for side in self.sides.values() for unit in side.units], STOP_S)
        finally:
            self.servers.stop()
            shutil.rmtree(self.state, ignore_errors=True)
