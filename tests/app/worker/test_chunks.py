"""Short jobs that travel as one message: each is claimed, run, cancelled, lost and ended for itself."""

import json
import uuid
from base64 import b64decode
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db.models import F
from django.db.models.functions import Now

from harness.servers import Redis
from harness.waiting import wait_until
from jobs import services, sweeper
from jobs.models import Job
from jobs.publish import SPREAD
from jobs.submit import Submission, submit
from kinds.base import Outcome
from kinds.digest import verify
from worker import attempt, lease
from worker.attempt import execute

pytestmark = pytest.mark.django_db(transaction=True)
CHUNK = settings.LANES["quick"].chunk


def ask(user: Any, count: int) -> list[uuid.UUID]:
    asked = [Submission("digest", {"text": f"number {number}"}) for number in range(count)]
    return [job.pk for job, _ in submit(user.pk, asked)]


def client_of(broker: Redis) -> redis.Redis:
    return redis.Redis.from_url(broker.url)


def messages(broker: Redis) -> list[list[str]]:
    """The jobs of each message that waits."""
    found = (json.loads(raw) for raw in client_of(broker).lrange("quick", 0, -1))
    return [json.loads(b64decode(one["body"]))[0] for one in found]


@pytest.mark.parametrize(("jobs", "longest"), [(1, 1), (SPREAD, 1), (4 * SPREAD, 4), (2 * CHUNK * SPREAD, CHUNK)])
def test_a_batch_travels_in_few_messages_and_still_for_several_workers(
    user: Any, empty_broker: Redis, jobs: int, longest: int
) -> None:
    asked = ask(user, jobs)
    sent = messages(empty_broker)
    assert sorted(one for message in sent for one in message) == sorted(map(str, asked))
    assert max(map(len, sent)) == longest
    assert len(sent) >= min(jobs, SPREAD)


def test_jobs_that_a_worker_has_tried_travel_alone(user: Any, empty_broker: Redis) -> None:
    asked = ask(user, 4 * SPREAD)
    client_of(empty_broker).delete("quick")
    Job.objects.filter(pk__in=asked).update(attempt=1)
    services.publish_now(asked)
    assert {len(one) for one in messages(empty_broker)} == {1}


def test_a_worker_runs_a_batch(user: Any, start_worker: Any, empty_broker: Redis) -> None:
    start_worker("quick")
    asked = ask(user, 10 * SPREAD)
    rows = Job.objects.filter(pk__in=asked)
    wait_until(lambda: not rows.filter(finished_at=None).exists(), 60, "all have ended")
    for job in rows:
        assert (job.state, job.attempt, job.progress) == ("succeeded", 1, 1.0), job.error
        assert verify(job.params, job.result)


def test_each_job_of_a_message_is_for_itself(user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """One was cancelled, one is taken, one has a result that PostgreSQL refuses, one breaks, one has lost its lease."""
    cancelled, taken, refused, broken, late, good = asked = ask(user, 6)
    services.cancel(cancelled)
    assert services.claim(taken, "another@h", "solo")

    def run(claim: Any, _: Any) -> Outcome:
        if claim.id == late:
            Job.objects.filter(pk=late).update(attempt=F("attempt") + 1)
        if claim.id == broken:
            raise ZeroDivisionError
        return Outcome({"text": "\x00" if claim.id == refused else "fine"})

    monkeypatch.setattr(attempt, "_run", run)
    execute(asked, "w@h")
    states = dict(Job.objects.filter(pk__in=asked).values_list("pk", "state"))
    assert [states[one] for one in asked] == [
        "cancelled",
        "running",
        "failed",
        "failed",
        "running",
        "succeeded",
    ]
    assert Job.objects.get(pk=good).result == {"text": "fine"}
    assert not attempt.held


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many jobs each of several ends that are told together has."""
    counts: list[int] = []
    succeed_all = services.succeed_all

    def counted(done: Any) -> list[bool]:
        counts.append(len(done))
        return succeed_all(done)

    monkeypatch.setattr(services, "succeed_all", counted)
    return counts


def test_short_jobs_that_succeed_are_told_together(
    user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch, together: list[int]
) -> None:
    monkeypatch.setattr(attempt, "TOGETHER_S", 600)
    asked = ask(user, 2 * attempt.MOST_TOGETHER + 2)
    execute(asked, "w@h")
    assert together == [attempt.MOST_TOGETHER, attempt.MOST_TOGETHER, 2]
    assert {job.state for job in Job.objects.filter(pk__in=asked)} == {"succeeded"}


def test_no_end_waits_for_a_job_that_takes_long(
    user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch, together: list[int]
) -> None:
    monkeypatch.setattr(attempt, "TOGETHER_S", -1)
    ended: list[int] = []

    def run(*_: Any) -> Outcome:
        ended.append(Job.objects.filter(state="succeeded").count())
        return Outcome({})

    monkeypatch.setattr(attempt, "_run", run)
    execute(ask(user, 3), "w@h")
    assert ended == [0, 1, 2]
    assert together == []


def test_a_worker_renews_the_leases_of_all_jobs_of_its_message(
    user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(user, 3)
    seen: list[list[uuid.UUID]] = []

    class Request(lease.LedgerRequest):
        def __init__(self) -> None:
            self.id = str(asked[0])

        id = ""  # Celery's is a property

    def run(claim: Any, _: Any) -> Outcome:
        seen.append(lease._running(lease.Ages(), 60))
        return Outcome({})

    monkeypatch.setattr(lease, "snapshot", lambda _: [Request()])
    monkeypatch.setattr(attempt, "_run", run)
    execute(asked, "w@h")
    assert seen == [asked] * 3


def test_those_that_die_with_their_worker_are_not_charged_and_tried_apart(user: Any, empty_broker: Redis) -> None:
    asked = ask(user, 3)
    before = Job.objects.get(pk=asked[0]).max_attempts
    assert len(services.claim_all(asked, "w@h", "solo")) == 3
    Job.objects.filter(pk__in=asked).update(lease_until=Now())
    assert sweeper.sweep()["lost"] == 3
    for job in Job.objects.filter(pk__in=asked):
        assert (job.state, job.attempt, job.max_attempts) == ("queued", 1, before + 1)
        assert job.run_after


def test_a_message_of_a_later_release_is_left_to_it(
    user: Any, start_worker: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.publish.SCHEMA", 2)
    [later] = ask(user, 1)
    monkeypatch.undo()
    [now] = ask(user, 1)
    worker = start_worker("quick")
    wait_until(lambda: Job.objects.get(pk=now).finished_at, 60, "ours has ended")
    assert "message left to a newer release" in worker.output()
    assert (Job.objects.get(pk=later).state, Job.objects.get(pk=later).attempt) == ("queued", 0)
