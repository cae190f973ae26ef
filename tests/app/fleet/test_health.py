"""What load balancers and Prometheus ask."""

import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.db import connection
from django.test import Client

from fleet.models import Worker
from harness.waiting import wait_until
from jobs import room, services
from jobs.backpressure import GATE
from jobs.leader import lead
from jobs.models import Job
from jobs.submit import Submission, submit
from kinds.base import Artifact
from tests.app.jobs.client import Api, problem
from tests.app.ledger import succeeded, text_of

pytestmark = pytest.mark.django_db(transaction=True)


def test_process_answers() -> None:
    response = Client().get("/healthz")
    assert (response.status_code, response.content) == (200, b"ok")


def test_ready() -> None:
    response = Client().get("/readyz")
    assert (response.status_code, response.json()) == (200, {"database": "ok", "broker": "ok"})


def test_hung_broker_is_reported_soon_and_does_not_make_it_unready(broker: Any) -> None:
    with broker.paused():
        began = time.monotonic()
        response = Client().get("/readyz")
        took = time.monotonic() - began
    assert (response.status_code, response.json()["broker"]) == (200, "down")
    assert took < 3
    assert Client().get("/readyz").json()["broker"] == "ok"


def test_broker_that_refuses_writes_is_said_everywhere_and_published_nothing_to(user: Any, empty_broker: Any) -> None:
    client = redis.Redis.from_url(empty_broker.url)
    page = Client()
    page.force_login(user)
    client.config_set("min-replicas-to-write", 1)
    try:
        assert Client().get("/readyz").json()["broker"] == "refuses writes"
        assert "headrace_broker_writable 0.0" in Client().get("/metrics").content.decode().splitlines()
        assert "Broker refuses writes jobs wait in the ledger" in text_of(page.get("/fleet/"))
        GATE.look()
        [(job, _)] = submit(user.pk, [Submission("digest", {})])
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert Job.objects.get(pk=job.pk).published_at is None
    assert Client().get("/readyz").json()["broker"] == "ok"


def taking(mb: float) -> None:
    """The database may take so much, as this connection has it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('headrace.database_max_mb', %s, false)", [str(int(mb))])


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The room is asked for each time, and nobody remembers."""
    if connection.vendor != "postgresql":
        pytest.skip("it is about PostgreSQL's files")
    monkeypatch.setattr(room, "SEEN_FOR_S", 0)
    monkeypatch.setattr(room, "_seen", (0.0, room.Room()))
    yield
    taking(0)


def test_full_database_is_said_everywhere_and_takes_no_more_jobs(user: Any, watched: None) -> None:
    page = Client()
    page.force_login(user)
    taking(1)
    response = Client().get("/readyz")
    assert (response.status_code, response.json()["database"]) == (200, "full")
    lines = Client().get("/metrics").content.decode().splitlines()
    assert {"headrace_database_full 1.0", "headrace_database_max_bytes 1.048576e+06"} <= set(lines)
    assert "Database full new jobs are refused" in text_of(page.get("/fleet/"))
    refused = Api(user).submit()
    assert "no room for more jobs" in problem(refused, 503)["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    taking(10**6)
    assert Client().get("/readyz").json()["database"] == "ok"
    assert Api(user).submit().status_code == 202


def test_what_deleted_jobs_have_left_in_the_files_is_room(user: Any, watched: None) -> None:
    files = [succeeded(user, file=Artifact(secrets.token_bytes(size), "image/png", "x")) for size in (2**24, 2**10 * 9)]
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE jobs_job, jobs_jobartifact")
    full_mb = room.room().used / 2**20
    taking(full_mb - 8)
    assert room.room().full
    services._delete(files[:1])  # what comes after it in the file keeps that as long as it is
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE jobs_job, jobs_jobartifact")
        cursor.execute(room.SIZE)
        assert cursor.fetchone()[0] > (full_mb - 1) * 2**20
    wait_until(lambda: not room.room().full, why="there is room")
    assert room.room().used / 2**20 == pytest.approx(full_mb - 16, abs=2)


def test_metrics_tell_of_lanes_workers_and_the_leader(user: Any, empty_broker: Any) -> None:
    submit(user.pk, [Submission("digest", {}) for _ in range(3)])
    Worker.objects.create(name="cpu-1@host", host="host", lane="cpu", pool="prefork", concurrency=4, running=1)
    lead("sweeper", "host:1", 30)
    page = Client().get("/metrics").content.decode()
    for line in (
        'headrace_lane_queued_jobs{lane="quick"} 3.0',
        'headrace_lane_oldest_queued_seconds{lane="cpu"} 0.0',
        'headrace_lane_slots{lane="cpu"} 4.0',
        'headrace_lane_workers{lane="cpu"} 1.0',
        'headrace_leader{holder="host:1",role="sweeper"} 1.0',
        "headrace_broker_up 1.0",
    ):
        assert line in page.splitlines()
