"""What load balancers and Prometheus ask."""

import time
from typing import Any

import pytest
import redis
from django.test import Client

from fleet.models import Worker
from jobs.backpressure import GATE
from jobs.leader import lead
from jobs.models import Job
from jobs.submit import Submission, submit
from tests.app.ledger import text_of

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
