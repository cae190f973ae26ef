"""All jobs of a user on one connection: what is told, cursors, and who may follow."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.db.models.functions import Now
from websockets.sync.client import ClientConnection

from harness.waiting import wait_until
from jobs import hints, services
from jobs.models import ApiToken, Job
from jobs.schemas import JobOut
from jobs.submit import Submission, submit
from kinds.base import Part
from push import feeds
from tests.app.ledger import job_of
from tests.app.push.client import PATIENCE_S, Push, bump, claim_of, close_code, events_of

pytestmark = pytest.mark.django_db(transaction=True)
EARLIER = Now() - timedelta(seconds=5)  # what a transaction has written that took so long to commit


def told(client: ClientConnection, *wanted: str) -> list[tuple[str, str]]:
    """(id, state) of what is told, until each of the wanted jobs has ended."""
    seen: list[tuple[str, str]] = []
    while not set(wanted) <= {job_id for job_id, state in seen if state in ("succeeded", "failed", "cancelled")}:
        message = json.loads(client.recv(timeout=PATIENCE_S))
        if message["type"] == "job":
            assert JobOut.model_validate(message["job"])
            seen.append((message["job"]["id"], message["job"]["state"]))
    return seen


def cursor_of(client: ClientConnection) -> str:
    while (message := json.loads(client.recv(timeout=PATIENCE_S)))["type"] != "cursor":
        pass
    return str(message["cursor"])


def test_one_socket_tells_of_all_jobs_of_its_user_and_of_nobody_elses(
    push: Push, user: Any, other_user: Any, token: str
) -> None:
    before = job_of(user)
    with push.socket("/ws/jobs", token) as client:
        cursor_of(client)
        stranger = job_of(other_user)
        services.succeed(claim_of(stranger), {})
        job = job_of(user)
        for one in (before, job):
            services.succeed(claim_of(one), {"words": 1})
        seen = told(client, str(before.pk), str(job.pk))
        assert str(stranger.pk) not in {job_id for job_id, _ in seen}
        assert [state for job_id, state in seen if job_id == str(job.pk)][-1] == "succeeded"
    wait_until(lambda: Job.objects.get(pk=job.pk).notified_at, why="the end was told")


def test_one_socket_tells_of_many_new_jobs_and_not_of_parts(push: Push, user: Any, token: str) -> None:
    with push.socket("/ws/jobs", token) as client:
        cursor_of(client)
        many = submit(user.pk, [Submission("digest", {}) for _ in range(hints.MANY + 5)])
        parent = job_of(user, "poster")
        claim = services.claim(parent.pk, "cpu-1@host", "prefork")
        assert claim
        services.split(claim, [Part("digest", {}), Part("digest", {})])
        parts = list(Job.objects.filter(parent=parent))
        for one in [job for job, _ in many] + parts:
            services.succeed(claim_of(one), {})
        joining = services.claim(parent.pk, "cpu-1@host", "prefork")
        assert joining
        services.succeed(joining, {})
        seen = told(client, str(parent.pk), *[str(job.pk) for job, _ in many])
        assert not {str(part.pk) for part in parts} & {job_id for job_id, _ in seen}


def test_a_change_without_a_hint_is_told_to_who_follows_all(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    with push.socket("/ws/jobs", token) as client:
        cursor_of(client)
        bump(job, state="cancelled", finished_at=EARLIER)
        assert told(client, str(job.pk))[-1] == (str(job.pk), "cancelled")


def test_who_comes_back_with_the_last_cursor_misses_nothing(push: Push, user: Any, token: str) -> None:
    with push.socket("/ws/jobs", token) as client:
        cursor = cursor_of(client)
    away, late, still = job_of(user), job_of(user), job_of(user)
    services.succeed(claim_of(away), {})
    bump(late, state="cancelled", finished_at=EARLIER)
    with push.socket(f"/ws/jobs?since={quote(cursor)}", token) as client:
        seen = told(client, str(away.pk), str(late.pk))
        services.cancel(still.pk)
        seen += told(client, str(still.pk))
    assert (str(still.pk), "cancelled") in seen
    with push.socket("/ws/jobs", token) as client:  # without one: from now on
        assert json.loads(client.recv(timeout=PATIENCE_S))["type"] == "cursor"
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.5)


@pytest.mark.parametrize("cursor", ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "yesterday", "2026-01-01T00:00:00"])
def test_a_cursor_that_is_too_old_is_said_to_be(push: Push, token: str, cursor: str) -> None:
    with push.socket(f"/ws/jobs?since={cursor}", token) as client:
        assert close_code(client) == 4410
    answer = push.http.get(f"/api/events?since={cursor}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 410
    assert "list your jobs" in answer.json()["detail"]


def test_event_stream_of_all_jobs_goes_on_after_its_last_event(push: Push, user: Any, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    with push.http.stream("GET", "/api/events", headers=headers) as response:
        first = next(events_of(response))
        assert first["event"] == "cursor"
    job = job_of(user)
    services.cancel(job.pk)
    with push.http.stream("GET", "/api/events", headers=headers | {"Last-Event-ID": first["id"]}) as response:
        event = next(one for one in events_of(response) if one["event"] == "job")
        assert json.loads(event["data"])["job"]["id"] == str(job.pk)
        assert "id" not in event, "an EventSource would come back with it, and it is no cursor"


def test_who_follows_all_is_signed_out_and_counted(own_push: Callable[..., Push], user: Any, token: str) -> None:
    push = own_push(HEADRACE_MAX_FOLLOWED="1")
    with push.socket("/ws/jobs", token) as client:
        cursor_of(client)
        with push.socket("/ws/jobs", token) as second:
            assert close_code(second) == 1013
        assert push.gauge("watchers") == 1
        ApiToken.objects.all().delete()
        assert close_code(client) == 4401
    with push.socket("/ws/jobs") as nobody:
        assert close_code(nobody) == 4401


def test_a_look_asks_for_what_is_open_or_has_ended_since(user: Any, other_user: Any, empty_broker: Any) -> None:
    opened, ended, long_ago, parent, _ = (*(job_of(user) for _ in range(3)), job_of(user, "poster"), job_of(other_user))
    claim = services.claim(parent.pk, "cpu-1@host", "prefork")
    assert claim
    services.split(claim, [Part("digest", {})])
    bump(ended, state="cancelled", finished_at=EARLIER)
    bump(long_ago, state="cancelled", finished_at=Now() - timedelta(hours=1))
    _, versions = asyncio.run(feeds._since(user.pk, datetime.now(UTC) - timedelta(minutes=1)))
    assert dict(versions) == {opened.pk: 1, ended.pk: 2, parent.pk: 3}
