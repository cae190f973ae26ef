"""Real PostgreSQL and Redis for every test, and the processes of Headrace as fixtures."""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import APP, BIN
from harness.processes import Process
from harness.servers import PostgreSQL, Redis
from harness.signals import end_on_signals
from harness.waiting import wait_until

pytest_plugins = ["tests.fleets"]
# Short times, so that recovery is seen in seconds; the promises are about the defaults, which drills measure.
QUICK = {"LEASE_S": "3", "RENEW_S": "1", "SWEEP_S": "0.2", "LOST_AFTER_S": "2", "RETRY_BASE_S": "0.1"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which cluster the host tests use."""
    parser.addoption(
        "--cluster",
        choices=["fresh", "running"],
        default="fresh",
        help="host tests: bring clusters up and take them down (fresh), or use the one that runs (running)",
    )


def _environment(database_url: str, broker_url: str) -> dict[str, str]:
    plain = {
        "SECRET_KEY": secrets.token_hex(32),
        "DATABASE_URL": database_url,
        "BROKER_URL": broker_url,
        "ALLOWED_HOSTS": "127.0.0.1,localhost,testserver",
        "PLAIN_HTTP": "1",
        "SYNTHETIC_KINDS": "1",
        "LOG_LEVEL": "INFO",
        **QUICK,
    }
    return {f"HEADRACE_{name}": value for name, value in plain.items()}


def _database(directory: Path) -> tuple[str, PostgreSQL | None]:
    """A throwaway PostgreSQL, or SQLite where a test run asks for it (test_on_sqlite.py) or a laptop has no other."""
    if os.environ.get("HEADRACE_TEST_DATABASE") == "sqlite":
        return f"sqlite://{directory}/ledger.sqlite3", None
    if PostgreSQL.find() is None:
        pytest.exit("PostgreSQL is not installed; run `make test`, or `apt install postgresql` first.", returncode=2)
    home = directory / "postgresql"
    home.mkdir()
    server = PostgreSQL(home)
    server.start()
    return server.url, server


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the servers before Django reads its settings."""
    if config.option.collectonly or config.option.help:
        return
    end_on_signals()
    directory = Path(tempfile.mkdtemp(prefix="headrace-tests-"))
    directory.chmod(0o755)
    (directory / "redis").mkdir()
    broker = Redis(directory / "redis")
    broker.start()
    url, server = _database(directory)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        del os.environ[name]
    os.environ.update(_environment(url, broker.url), DJANGO_SETTINGS_MODULE="config.settings")
    os.environ["LC_ALL"] = "C.UTF-8"  # Ansible refuses a locale that is not UTF-8
    config.stash[STATE] = (directory, broker, server)

    from django.conf import settings

    assert settings.DATABASES


def pytest_unconfigure(config: pytest.Config) -> None:
    if STATE in config.stash:
        directory, broker, server = config.stash[STATE]
        broker.process.signal(signal.SIGCONT)
        broker.stop()
        if server:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


STATE = pytest.StashKey[tuple[Path, Redis, PostgreSQL | None]]()


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: Any) -> None:
    """The whole server is throwaway, so its database is migrated as it is: child processes see the same rows."""
    from django.core.management import call_command

    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Redis:
    """The Redis of this test run."""
    return pytestconfig.stash[STATE][1]


@pytest.fixture
def database(pytestconfig: pytest.Config, transactional_db: None) -> Iterator[PostgreSQL]:
    """The PostgreSQL of this test run, to be stopped; it runs again after the test, and nobody here remembers."""
    from django.db import connection

    server = pytestconfig.stash[STATE][2]
    if server is None:
        pytest.skip("SQLite is never away")
    yield server
    if server.process.child.poll() is not None:
        server.start()
    connection.close()


@pytest.fixture
def empty_broker(broker: Redis) -> Redis:
    """The Redis of this test run, with nothing in it but the bindings of the queues."""
    import redis

    from config.celery import app
    from jobs.backpressure import GATE, Gate
    from jobs.publish import bind_queues

    vars(GATE).update(vars(Gate()))  # nobody remembers what was seen of it
    redis.Redis.from_url(broker.url).flushall()
    with app.connection_for_write() as connection:
        bind_queues(connection.default_channel)
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
    from fleet.models import Worker

    def start(lane: str, name: str = "", slots: int = 1, extra: tuple[str, ...] = (), **env: str) -> Process:
        from django.conf import settings

        name = name or f"{lane}-1"
        pool = settings.LANES[lane].pool
        options = ["-n", f"{name}@%h", "-Q", ",".join(settings.LANES[lane].queues), "-P", pool, "-c", str(slots)]
        options += ["--without-gossip", "--without-mingle", "--without-heartbeat", *extra]
        argv = ["celery", "-A", "config", "worker", *options]
        process = launch(name, *argv, HEADRACE_LANE=lane, HEADRACE_WORKER=name, **env)
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
