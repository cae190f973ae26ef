"""Servers that go away and come back, and the workers that wait for them."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection
from test_faults import ask, ended

from jobs import services
from jobs.models import Job
from jobs.work import execute
from servers import Process, Redis, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def away(database_url: str) -> Iterator[None]:
    """Every connection to the database is cut, and it takes no new ones."""
    address, _, name = database_url.rpartition("/")
    connection.close()
    with psycopg.connect(f"{address}/template1", autocommit=True) as elsewhere:
        elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            elsewhere.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            yield
        finally:
            elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize(("lane", "patience_s"), [("cpu", "30"), ("io", "30"), ("quick", "30"), ("io", "0.5")])
def test_claim_waits_for_the_database_and_then_gives_its_message_back(
    lane: str,
    patience_s: str,
    user: Any,
    start_worker: Callable[..., Process],
    empty_broker: Redis,
    database_url: str,
) -> None:
    """There is no sweeper here: a message that was dropped would never run."""
    worker = start_worker(lane, HEADRACE_LEASE_S=patience_s)
    worker.signal(signal.SIGSTOP)
    job_id = ask(user, "wait", lane=lane, ms=1)
    with away(database_url):
        worker.signal(signal.SIGCONT)
        wait_until(lambda: worker.output().count("database away, trying again") >= 6, why="the claim waits")
    done = ended(job_id)
    assert (done.state, done.attempt) == ("succeeded", 1), done.error


def test_claim_whose_answer_was_lost_is_given_up(
    user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, claim = ask(user, "digest"), services.claim

    def answer_lost(*args: Any) -> None:
        monkeypatch.setattr(services, "claim", claim)
        claim(*args)
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(services, "claim", answer_lost)
    execute(job_id, "w@h")
    job = Job.objects.get(pk=job_id)
    assert (job.state, job.attempt, job.lease_until) == ("queued", 1, None)
    execute(job_id, "w@h")
    assert ended(job_id).attempt == 2
