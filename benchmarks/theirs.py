"""What may be in the baseline's place: the careful baseline, the one that people copy, and peers that promise too."""

import importlib.util
import secrets
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import LiteralString

import redis

from benchmarks import NotInstalled
from benchmarks.cases import BASELINE, CAREFUL, OX
from benchmarks.clients import Client, Polling
from benchmarks.stacks import Make, Servers, Side
from config import lanes
from deploy.measure import measure
from deploy.sizing import size_host
from harness import BIN
from harness.processes import until_ready
from harness.waiting import answers, free_ports


@dataclass(frozen=True)
class Variant:
    """Where people's copies differ: gunicorn's workers, and seconds that Django keeps a database connection."""

    web: int = 1
    conn_max_age: int = 60


class Theirs(Side):
    """gunicorn with its defaults, a sync worker; views that submit and say how a task stands."""

    name, database = BASELINE, BASELINE
    settings: str
    tasks = "benchmarks.baseline.tasks"

    def __init__(self, servers: Servers, logs: Path, variant: Variant) -> None:
        self.web = variant.web
        environment = {
            "DJANGO_SETTINGS_MODULE": self.settings,
            "BASELINE_TASKS": self.tasks,
            "BASELINE_DATABASE_URL": servers.database(BASELINE),
            "BASELINE_BROKER_URL": servers.broker(1),
            "BASELINE_SECRET_KEY": secrets.token_hex(32),
            "BASELINE_CONN_MAX_AGE": str(variant.conn_max_age),
        }
        super().__init__(servers, logs, environment)

    def start(self) -> None:
        self.cookie = self.python("-m", "benchmarks.baseline.prepare").split()[-1]
        [self.port] = free_ports(1)
        bind = ["-b", f"127.0.0.1:{self.port}", "--workers", str(self.web)]
        self.spawn("web", [BIN / "gunicorn", "benchmarks.baseline.wsgi", *bind])
        for number, command in enumerate(self.worker_commands(), 1):
            self.spawn(f"worker-{number}", command)
        until_ready(lambda: answers(self.port) and self.serving(), "The baseline", self.units)

    def worker_commands(self) -> list[list[str | Path]]:
        raise NotImplementedError

    def serving(self) -> bool:
        """Whether the workers are ready, where they say so."""
        return True

    def client(self) -> Client:
        return Polling(self.port, self.cookie)


class Celery(Theirs):
    """Celery with its defaults: one process a core, early acknowledgement, results in Redis."""

    settings, broker, ways = "benchmarks.baseline.settings", 1, ("delay", "group")

    def worker_commands(self) -> list[list[str | Path]]:
        return [[BIN / "celery", "-A", "benchmarks.baseline.celery", "worker", "-l", "INFO"]]

    def serving(self) -> bool:
        return self.ready("worker-1")

    def ended(self, ids: list[str]) -> int:
        with redis.Redis.from_url(self.servers.broker(1)) as broker:
            return int(broker.exists(*(f"celery-task-meta-{task_id}" for task_id in ids)))


class Cookiecutter(Celery):
    """cookiecutter-django's settings and start scripts."""

    settings = "benchmarks.baseline.cookiecutter"


class Peer(Theirs):
    """A queue in PostgreSQL. `needs` are its modules, `done` counts which of some tasks have a result."""

    broker, tasks = None, "benchmarks.peers.django_tasks"
    needs: tuple[str, ...]
    done: LiteralString

    def ended(self, ids: list[str]) -> int:
        return self._count(self.done, ids)

    def slots(self) -> tuple[str, str]:
        """Processes for work that computes, and threads for work that waits: as many as our lanes have here."""
        cores, memory_mb = measure()
        [plan] = size_host({"io": lanes.load().lanes["io"]}, cores, memory_mb)
        return str(cores), str(plan.concurrency)


class Ox(Peer):
    """Its page: `--processes N --concurrency 1` for work that computes, threads for work that waits."""

    settings, ways, needs = "benchmarks.peers.ox", ("enqueue", "enqueue_many"), ("django_ox", "django_tasks")
    done = "SELECT count(*) FROM django_ox_oxtask WHERE status = 'SUCCESSFUL' AND id = ANY(%s::uuid[])"

    def worker_commands(self) -> list[list[str | Path]]:
        worker: list[str | Path] = [sys.executable, "-m", "django", "ox_worker", "--queues"]
        processes, threads = self.slots()
        return [[*worker, "cpu", "--processes", processes], [*worker, "io", "--concurrency", threads]]


class TasksDB(Peer):
    """A worker runs one task at a time: one a core, for all queues."""

    settings, ways, needs = "benchmarks.peers.tasks_db", ("enqueue",), ("django_tasks_db", "django_tasks")
    done = (
        "SELECT count(*) FROM django_tasks_database_dbtaskresult WHERE status = 'SUCCESSFUL' AND id = ANY(%s::uuid[])"
    )

    def worker_commands(self) -> list[list[str | Path]]:
        cores, _ = measure()
        return [[sys.executable, "-m", "django", "db_worker", "--queue-name", "*"]] * cores


class Procrastinate(Peer):
    """A process a core for work that computes, and threads for work that waits."""

    settings, tasks = "benchmarks.peers.procrastinate", "benchmarks.peers.procrastinated.tasks"
    ways, needs = ("defer", "batch_defer"), ("procrastinate",)
    done = "SELECT count(*) FROM procrastinated_result WHERE job_id = ANY(%s::bigint[])"

    def worker_commands(self) -> list[list[str | Path]]:
        worker: list[str | Path] = [sys.executable, "-m", "django", "procrastinate", "worker", "--queues"]
        processes, threads = self.slots()
        return [*([[*worker, "cpu"]] * int(processes)), [*worker, "io", "--concurrency", threads]]


AGAINST: dict[str, type[Theirs]] = {
    CAREFUL: Celery,
    "cookiecutter": Cookiecutter,
    OX: Ox,
    "django-tasks-db": TasksDB,
    "procrastinate": Procrastinate,
}


def missing(name: str) -> str:
    """What to do before a peer can be started; nothing, if it can be."""
    side = AGAINST[name]
    if not issubclass(side, Peer) or all(map(importlib.util.find_spec, side.needs)):
        return ""
    if side is Ox and sys.version_info < (3, 12):
        return f"{name} needs Python 3.12 or newer: make an environment with it, and then `make .venv/.peers` in it."
    return f"{name} is not installed here: `make .venv/.peers` installs what requirements/peers.txt asks for."


def make(name: str, variant: Variant) -> Make:
    """How to make the side of this name.

    Raises:
        NotInstalled: it is not.
    """
    if sentence := missing(name):
        raise NotInstalled(sentence)
    return partial(AGAINST[name], variant=variant)
