"""Real PostgreSQL and Redis for the tests that need them, and the processes of Headrace as fixtures.

Each test belongs to a tier, and each tier runs alone (`-m unit`): `unit` starts no server; `servers` starts PostgreSQL
and Redis, and what else its fixtures start, or runs a whole playbook; `hosts` starts containers. The tier follows from
the fixtures of a test and from the folder that it is in. Tests run side by side (`-n 4`), each process with servers of
its own.
"""

import fcntl
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import pytest

from deploy.sizing import size_host
from deploy.worker import arguments
from harness import APP, BIN, ROOT
from harness.processes import Process
from harness.servers import PostgreSQL, Redis, Server
from harness.signals import end_on_signals
from harness.waiting import wait_until

pytest_plugins = ["tests.fleets"]
# Short times, so that recovery is seen in seconds; the promises are about the defaults, which drills measure.
QUICK = {"LEASE_S": "3", "RENEW_S": "1", "SWEEP_S": "0.2", "LOST_AFTER_S": "2", "RETRY_BASE_S": "0.1"}
ON_SQLITE = os.environ.get("HEADRACE_TEST_DATABASE") == "sqlite"  # test_on_sqlite.py asks for it
CONTAINERS, DEMOS = ("compose", "hosts", "roles"), ("demo", "e2e")  # folders
NEED_SERVERS = {"broker", "database_url", "db", "demo", "django_db_setup", "process_env", "ran"}
NEED_CONTAINERS = {"clusters", "pipeline"}
# One process takes those of a group, one after the other and before all else: two of them at the same time would be too
# much for two cores. The clusters are the longest, and begin first. What a test has (fixture, tier), and its group:
ONE_BY_ONE = {"clusters": "clusters", "hosts": "containers", "ran": "demo", "demo": "demo"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which cluster the host tests use, and how long the search for a bad order of statements is."""
    parser.addoption(
        "--cluster",
        choices=["fresh", "running"],
        default="fresh",
        help="host tests: bring clusters up and take them down (fresh), or use the one that runs (running)",
    )
    parser.addoption("--examples", type=int, default=15, help="how many runs test_interleavings.py makes")


# ---- tiers ----------------------------------------------------------------------------------------------------------


def tier_of(item: pytest.Item) -> str:
    """What a test starts: nothing (unit), servers, or hosts."""
    fixtures = set(getattr(item, "fixturenames", ()))
    folder = item.path.relative_to(ROOT / "tests").parts[0]
    if fixtures & NEED_CONTAINERS or folder in CONTAINERS:
        return "hosts"
    marked = item.get_closest_marker("django_db") or item.get_closest_marker("servers")
    if fixtures & NEED_SERVERS or marked or folder in DEMOS:
        return "servers"
    return "unit"


def group_of(item: pytest.Item) -> str | None:
    """Tests of one group run in one process, because they share something that is costly to start."""
    fixtures = set(getattr(item, "fixturenames", ()))
    shared = next((group for what, group in ONE_BY_ONE.items() if what in {*fixtures, tier_of(item)}), None)
    costly = [name for name in fixtures if _scope(item, name) == "module"]
    return shared or (str(item.path.relative_to(ROOT)) if costly else None)


def _scope(item: pytest.Item, fixture: str) -> str:
    found = item._fixtureinfo.name2fixturedefs.get(fixture) if hasattr(item, "_fixtureinfo") else None
    return found[-1].scope if found else "function"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its tier and its group. The groups come first, and in that of the clusters the drills last."""
    from tests.fleets import place

    groups = {item: group_of(item) for item in items}
    for item, group in groups.items():
        item.add_marker(tier_of(item))
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
    first = list(dict.fromkeys(ONE_BY_ONE.values()))
    items.sort(key=lambda item: (first.index(groups[item]) if groups[item] in first else len(first), place(item)))


@pytest.fixture(scope="session", autouse=True)
def at_work() -> Iterator[IO[str]]:
    """A lock that each process that runs tests shares with the others until it ends."""
    (ROOT / "var").mkdir(exist_ok=True)
    with (ROOT / "var/tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield lock


# ---- servers --------------------------------------------------------------------------------------------------------


class Servers:
    """The PostgreSQL and the Redis of this process: their addresses are known from the start, they run when needed."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="headrace-tests-"))
        self.directory.chmod(0o755)
        for name in ("redis", "postgresql"):
            (self.directory / name).mkdir()
        self.broker = Redis(self.directory / "redis")
        self.database = None if ON_SQLITE else PostgreSQL(self.directory / "postgresql")
        self._held = [_hold(server) for server in (self.broker, self.database) if server]

    @property
    def environment(self) -> dict[str, str]:
        """What Headrace's processes are told."""
        plain = {
            "SECRET_KEY": secrets.token_hex(32),
            "DATABASE_URL": self.database.url if self.database else f"sqlite://{self.directory}/ledger.sqlite3",
            "BROKER_URL": self.broker.url,
            "ALLOWED_HOSTS": "127.0.0.1,localhost,testserver",
            "PLAIN_HTTP": "1",
            "SYNTHETIC_KINDS": "1",
            "LOG_LEVEL": "INFO",
            **QUICK,
        }
        return {f"HEADRACE_{name}": value for name, value in plain.items()}

    @cached_property
    def started(self) -> bool:
        """Start them, the first time that somebody asks."""
        if self.database and PostgreSQL.find() is None:
            pytest.exit("PostgreSQL is not installed: run `make test`, or `apt install postgresql` first.", 2)
        for port in self._held:
            port.close()
        self.broker.start()
        if self.database:
            self.database.start()
        return True

    def stop(self) -> None:
        """End them, and delete what they wrote."""
        for server in (self.broker, self.database):
            if server and "started" in vars(self):
                server.process.signal(signal.SIGCONT)
                server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def _hold(server: Server) -> socket.socket:
    """Choose the port of a server, and keep it until the server starts, so that nobody else here is given it."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    server.port = holder.getsockname()[1]
    return holder


SERVERS = pytest.StashKey[Servers]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the servers' addresses before Django reads its settings; make each run alike, however it was started."""
    os.umask(0o022)
    os.environ["LC_ALL"] = "C.UTF-8"  # Ansible refuses a locale that is not UTF-8
    with suppress(ValueError):  # an xdist worker that is not in its main thread
        end_on_signals()
    only_sends_tests_out = config.option.dist != "no" and not hasattr(config, "workerinput")
    if config.option.help or only_sends_tests_out:
        return
    servers = Servers()
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        del os.environ[name]
    os.environ.update(servers.environment, DJANGO_SETTINGS_MODULE="config.settings")
    config.stash[SERVERS] = servers

    from django.conf import settings

    assert settings.DATABASES


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start the servers for the first test that needs them."""
    if item.get_closest_marker("servers"):
        assert item.config.stash[SERVERS].started


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVERS in config.stash:
        config.stash[SERVERS].stop()


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: Any) -> None:
    """The whole server is throwaway, so its database is migrated as it is: child processes see the same rows."""
    from django.core.management import call_command

    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Redis:
    """The Redis of this test run."""
    return pytestconfig.stash[SERVERS].broker


@pytest.fixture
def database(pytestconfig: pytest.Config, transactional_db: None) -> Iterator[PostgreSQL]:
    """The PostgreSQL of this test run, to be stopped; it runs again after the test, and nobody here remembers."""
    from django.db import connection

    server = pytestconfig.stash[SERVERS].database
    if server is None:
        pytest.skip("SQLite is never away")
    yield server
    if server.process.child.poll() is not None:
        server.start()
    connection.close()


@pytest.fixture
def empty_broker(broker: Redis) -> Redis:
    """The Redis of this test run, with nothing in it."""
    import redis

    from jobs.backpressure import GATE, Gate

    vars(GATE).update(vars(Gate()))  # nobody remembers what was seen of it
    redis.Redis.from_url(broker.url).flushall()
    return broker


@pytest.fixture(scope="session")
def database_url() -> str:
    return os.environ["HEADRACE_DATABASE_URL"]


@pytest.fixture(scope="session")
def process_env() -> dict[str, str]:
    """The environment of Headrace's own processes in this test run."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


Launch = Callable[..., Process]


@pytest.fixture
def launch(tmp_path: Path, process_env: dict[str, str]) -> Iterator[Launch]:
    """Start one of Headrace's processes; all are ended after the test."""
    started: list[Process] = []

    def start(name: str, *argv: str, **env: str) -> Process:
        program = [str(BIN / argv[0]), *argv[1:]]
        log = tmp_path / f"{name}.log"
        started.append(Process(name, program, log, cwd=APP, env={**process_env, **env}))
        return started[-1]

    yield start
    for process in started:
        process.signal(signal.SIGCONT)
        process.signal(signal.SIGTERM)
    for process in started:
        process.stop()


@pytest.fixture
def sweeper(launch: Launch) -> Process:
    """A running sweeper."""
    return launch("sweeper", "python", "manage.py", "sweep")


@pytest.fixture
def start_worker(launch: Launch, transactional_db: None) -> Callable[..., Process]:
    """Start a worker unit of a lane, and wait until it says that it is here."""
    from config import lanes
    from fleet.models import Worker

    def start(lane: str, name: str = "", slots: int = 1, extra: tuple[str, ...] = (), **env: str) -> Process:
        name = name or f"{lane}-1"
        facts = lanes.load(Path(env.get("HEADRACE_LANE_TABLE", lanes.TABLE)))[lane]
        (plan,) = size_host({lane: facts}, 1, 4096)
        argv = arguments(replace(plan, concurrency=slots), name, facts.queues)
        process = launch(name, "celery", *argv, *extra, HEADRACE_LANE=lane, **env)
        here = Worker.objects.filter(name__startswith=f"{name}@")
        wait_until(lambda: process.alive() and here.exists() and "ready" in process.output(), 60, f"{name} is ready")
        return process

    return start


@pytest.fixture
def user(db: None, django_user_model: Any) -> Any:
    return django_user_model.objects.create_user("ada", password=secrets.token_hex(16))


@pytest.fixture
def other_user(db: None, django_user_model: Any) -> Any:
    return django_user_model.objects.create_user("bob", password=secrets.token_hex(16))
