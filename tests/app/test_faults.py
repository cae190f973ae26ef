"""What the ledger promises when things die: real workers on all three pools, a real broker, real signals."""

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
import yaml
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from kombu import disable_insecure_serializers
from kombu.serialization import enable_insecure_serializers

from config.celery import app
from harness import APP
from harness.processes import Process
from harness.servers import Redis
from harness.waiting import free_port, wait_until
from jobs import services
from jobs.leader import lead, resign
from jobs.models import Job, State
from jobs.publish import publish
from jobs.submit import Submission, submit
from jobs.sweeper import sweep
from kinds.base import Part

pytestmark = pytest.mark.django_db(transaction=True)
LANES = ["cpu", "io", "quick"]


def ask(user: Any, kind: str, **params: Any) -> UUID:
    [(job, _)] = submit(user.pk, [Submission(kind, params)])
    return job.pk


def running(job_id: UUID) -> Job:
    return wait_until(lambda: Job.objects.filter(pk=job_id, state=State.RUNNING).first(), why="the job runs")


def ended(job_id: UUID, seconds: float = 30) -> Job:
    done = Job.objects.filter(pk=job_id).exclude(state__in=[State.QUEUED, State.RUNNING])
    return wait_until(done.first, seconds, "the job ends")


def queue_length(broker: Redis, queue: str) -> int:
    return int(redis.Redis.from_url(broker.url).llen(queue))


@pytest.mark.parametrize("lane", LANES)
def test_job_of_a_killed_worker_runs_again(
    lane: str, user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    first = start_worker(lane)
    job_id = ask(user, "wait", lane=lane, ms=4000)
    running(job_id)
    first.kill()
    start_worker(lane, name=f"{lane}-2")
    done = ended(job_id)
    assert (done.state, done.attempt, done.worker.split("@")[0]) == ("succeeded", 2, f"{lane}-2"), done.error


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as found:
        return [int(child) for child in found.read().split()]


def test_job_of_a_killed_pool_process_runs_again_before_its_lease_ends(
    user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    worker = start_worker("cpu", HEADRACE_LEASE_S="600")
    job_id = ask(user, "wait", lane="cpu", ms=1500)
    running(job_id)
    for child in children_of(worker.child.pid):
        os.kill(child, signal.SIGKILL)
    done = ended(job_id)
    assert (done.state, done.attempt) == ("succeeded", 2), done.error


def test_poison_job_ends_with_a_sentence(
    user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    worker = start_worker("cpu")
    job_id = ask(user, "wait", lane="cpu", ms=60_000)
    for attempt in (1, 2, 3):
        wait_until(lambda n=attempt: Job.objects.filter(pk=job_id, state=State.RUNNING, attempt=n).exists())
        for child in children_of(worker.child.pid):
            os.kill(child, signal.SIGKILL)
    done = ended(job_id)
    assert done.state == "failed"
    assert done.error.startswith("Gave up: its worker died 3 times, the last time cpu-1@")
    assert "its pool process was killed by SIGKILL" in done.error


def test_submit_while_the_broker_is_down_or_hung_is_quick_and_runs_later(
    user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    empty_broker.stop()
    began = time.monotonic()
    dead = ask(user, "digest")
    assert time.monotonic() - began < 5
    empty_broker.start()
    with empty_broker.paused():
        began = time.monotonic()
        hung = ask(user, "digest")
        assert time.monotonic() - began < 5
    start_worker("quick")
    assert [ended(job_id).state for job_id in (dead, hung)] == ["succeeded", "succeeded"]


def test_wiped_broker_loses_no_queued_job(
    user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    worker = start_worker("quick")
    worker.signal(signal.SIGSTOP)
    made = submit(user.pk, [Submission("digest", {"text": str(n)}) for n in range(300)])
    empty_broker.wipe()
    worker.signal(signal.SIGCONT)
    wait_until(lambda: Job.objects.filter(state=State.SUCCEEDED).count() == len(made), 60, "all of them run")
    assert set(Job.objects.values_list("attempt", flat=True)) == {1}


def test_broker_that_resets_a_connection_is_no_error(
    user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py's own errors are no OSError, and Kombu does not wrap those of a batch or of a channel."""

    def reset(*_: Any) -> Any:
        raise redis.ConnectionError("Connection reset by peer")

    monkeypatch.setattr("kombu.transport.redis.PublishBatch.flush", reset)
    job_id = ask(user, "digest")
    assert Job.objects.get(pk=job_id).published_at is None, "it is left to the sweeper"
    monkeypatch.undo()
    Job.objects.filter(pk=ask(user, "digest")).update(published_at=F("published_at") - timedelta(minutes=1))
    monkeypatch.setattr("jobs.sweeper._head", reset)
    assert sweep() == {"lost": 0, "due": 1}


def test_flushed_broker_needs_no_declaration(
    user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    """FLUSHALL leaves every connection up, so nobody declares the queues again."""
    start_worker("quick")
    assert ended(ask(user, "digest")).state == "succeeded"
    redis.Redis.from_url(empty_broker.url).flushall()
    lost = [ask(user, "digest", text=str(n)) for n in range(5)]
    assert {ended(job_id).state for job_id in lost} == {"succeeded"}


def test_overtaken_job_is_published_again_and_only_it(user: Any, empty_broker: Redis) -> None:
    lost = ask(user, "digest")
    redis.Redis.from_url(empty_broker.url).delete("quick")
    Job.objects.filter(pk=lost).update(published_at=F("published_at") - timedelta(seconds=20))
    submit(user.pk, [Submission("burn", {"lane": "quick", "ms": 1}) for _ in range(50)])  # a message each
    assert sweep()["overtaken"] == 1
    assert sweep()["overtaken"] == 0
    assert queue_length(empty_broker, "quick") == 51


def test_duplicate_messages_run_once(user: Any, start_worker: Callable[..., Process], empty_broker: Redis) -> None:
    job_id = ask(user, "digest")
    for _ in range(5):
        publish([Job.objects.get(pk=job_id)])
    worker = start_worker("quick")
    assert ended(job_id).attempt == 1
    wait_until(lambda: worker.output().count("message dropped") == 5, why="the duplicates are dropped")
    assert Job.objects.get(pk=job_id).attempt == 1


def test_zombie_cannot_finish_what_it_lost(user: Any, empty_broker: Redis) -> None:
    job_id = ask(user, "digest")
    zombie = services.claim(job_id, "zombie@h", "threads")
    assert zombie is not None
    services.lose_on("zombie@h", job_id, "it froze")
    heir = services.claim(job_id, "heir@h", "threads")
    assert heir is not None
    assert not services.succeed(zombie, {"from": "zombie"})
    assert services.renew("zombie@h", [job_id]) == 0
    assert services.succeed(heir, {"from": "heir"})
    assert not services.fail(zombie, "No.")
    assert Job.objects.get(pk=job_id).result == {"from": "heir"}


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls at the same moment in threads of their own; their answers or exceptions."""
    barrier, answers = threading.Barrier(len(calls)), [None] * len(calls)

    def one(index: int, call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            answers[index] = call()
        except Exception as error:  # noqa: BLE001  (an answer too: the test looks at it)
            answers[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_one_claim_wins(user: Any, empty_broker: Redis) -> None:
    for _ in range(10):
        job_id = ask(user, "digest")
        claims = together(*[partial(services.claim, job_id, f"w{n}@h", "threads") for n in range(6)])
        assert sum(claim is not None for claim in claims) == 1
        assert Job.objects.get(pk=job_id).attempt == 1


def test_same_key_at_the_same_time_is_one_job(user: Any, empty_broker: Redis) -> None:
    for number in range(10):
        same = Submission("digest", {"text": "same"}, idempotency_key=f"key-{number}")
        answers = together(*[partial(submit, user.pk, [same])] * 6)
        jobs = {answer[0][0].pk for answer in answers}
        assert len(jobs) == 1
        assert sum(answer[0][1] for answer in answers) == 1


def test_cancel_and_finish_race_has_one_winner(user: Any, empty_broker: Redis) -> None:
    for _ in range(20):
        job_id = ask(user, "digest")
        claim = services.claim(job_id, "w@h", "threads")
        assert claim is not None
        kept, cancelled = together(partial(services.succeed, claim, {"n": 1}), partial(services.cancel, job_id))
        job = Job.objects.get(pk=job_id)
        assert kept is True
        assert cancelled.state in {"running", "succeeded", "cancelled"}
        assert job.state == ("cancelled" if job.cancel_requested else "succeeded")
        assert (job.result is None) == (job.state == "cancelled")


def test_last_parts_at_the_same_time_queue_their_parent_once(user: Any, empty_broker: Redis) -> None:
    for _ in range(10):
        parent = services.claim(ask(user, "digest"), "w@h", "threads")
        assert parent is not None
        services.split(parent, [Part("digest", {})] * 4)
        parts = Job.objects.filter(parent_id=parent.id).values_list("pk", flat=True)
        claims = [services.claim(part, "w@h", "threads") for part in parts]
        assert all(together(*[partial(services.succeed, claim, {}) for claim in claims]))
        row = Job.objects.get(pk=parent.id)
        assert (row.state, row.joining, row.open_parts, row.progress) == ("queued", True, 0, 1.0)


def test_cancelling_a_parent_while_its_parts_end_does_not_deadlock(user: Any, empty_broker: Redis) -> None:
    for _ in range(10):
        parent = services.claim(ask(user, "digest"), "w@h", "threads")
        assert parent is not None
        services.split(parent, [Part("digest", {})] * 4)
        parts = Job.objects.filter(parent_id=parent.id).values_list("pk", flat=True)
        claims = [services.claim(part, "w@h", "threads") for part in parts]
        ends = [partial(services.succeed, claim, {}) for claim in claims]
        answers = together(*ends, partial(services.cancel, parent.id))
        assert not [answer for answer in answers if isinstance(answer, Exception)]
        open_rows = Job.objects.filter(parent_id=parent.id, state__in=[State.QUEUED, State.RUNNING])
        assert not open_rows.filter(cancel_requested=False).exists()


@pytest.mark.parametrize("lane", LANES)
def test_running_job_is_cancelled(
    lane: str, user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    start_worker(lane)
    job_id = ask(user, "wait", lane=lane, ms=60_000)
    running(job_id)
    assert services.cancel(job_id).cancel_requested
    assert ended(job_id).state == "cancelled"
    assert ended(ask(user, "wait", lane=lane, ms=1)).state == "succeeded"  # the slot is free again


def test_queued_job_is_cancelled_at_once_and_never_runs(
    user: Any, start_worker: Callable[..., Process], empty_broker: Redis
) -> None:
    job_id = ask(user, "digest")
    assert services.cancel(job_id).state == "cancelled"
    start_worker("quick")
    assert ended(ask(user, "digest")).state == "succeeded"  # the queue is first in, first out
    assert Job.objects.get(pk=job_id).attempt == 0


def with_limits(directory: Path, soft: int, hard: int) -> str:
    """The lane table with other time limits; its path."""
    table = yaml.safe_load((APP / "config/lanes.yml").read_text())
    for lane in table["lanes"].values():
        lane |= {"soft_time_limit": soft, "time_limit": hard}
    (directory / "lanes.yml").write_text(yaml.safe_dump(table))
    return str(directory / "lanes.yml")


def test_stuck_job_is_killed_at_its_hard_time_limit(
    user: Any, start_worker: Callable[..., Process], empty_broker: Redis, tmp_path: Path
) -> None:
    worker = start_worker("cpu", HEADRACE_LANE_TABLE=with_limits(tmp_path, 1, 2))
    job_id = ask(user, "wait", lane="cpu", ms=60_000)
    running(job_id)
    for child in children_of(worker.child.pid):
        os.kill(child, signal.SIGSTOP)  # stuck: it cannot even hear the soft limit
    done = ended(job_id)
    assert (done.state, done.attempt) == ("failed", 1)
    assert "longer than its lane allows (2 s)" in done.error


@pytest.mark.parametrize("lane", LANES)
def test_long_job_ends_itself_at_its_soft_time_limit(
    lane: str, user: Any, start_worker: Callable[..., Process], empty_broker: Redis, tmp_path: Path
) -> None:
    start_worker(lane, HEADRACE_LANE_TABLE=with_limits(tmp_path, 1, 30))
    done = ended(ask(user, "wait", lane=lane, ms=60_000))
    assert (done.state, done.attempt) == ("failed", 1)
    assert "longer than its lane allows (1 s)" in done.error


def test_oversized_result_fails_the_job_with_a_sentence(
    user: Any, start_worker: Callable[..., Process], empty_broker: Redis
) -> None:
    start_worker("quick", HEADRACE_MAX_RESULT_BYTES="50")
    done = ended(ask(user, "digest"))
    assert done.state == "failed"
    assert "over the limit of 50" in done.error


def test_transient_error_is_tried_again_with_backoff(
    user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    port = free_port()
    start_worker("io", HEADRACE_FETCH_ALLOW=f"127.0.0.1:{port}")
    done = ended(ask(user, "fetch", url=f"http://127.0.0.1:{port}/"))
    assert (done.state, done.attempt) == ("failed", 3), done.error


def test_pickle_message_is_refused(user: Any, start_worker: Callable[..., Process], empty_broker: Redis) -> None:
    worker = start_worker("quick")
    enable_insecure_serializers(["pickle"])
    try:
        app.send_task("jobs.ping", queue="quick", serializer="pickle", ignore_result=True)
    finally:
        disable_insecure_serializers()
    wait_until(lambda: "ContentDisallowed" in worker.output(), why="the worker refuses pickle")
    assert ended(ask(user, "digest")).state == "succeeded"


def test_smoke_task_comes_back_through_the_result_backend(
    start_worker: Callable[..., Process], empty_broker: Redis
) -> None:
    start_worker("quick")
    assert app.send_task("jobs.ping").get(timeout=30).startswith("quick-1@")


def test_only_one_sweeper_leads(transactional_db: None) -> None:
    assert sum(together(*[partial(lead, "test", f"s{n}", 30) for n in range(6)])) == 1
    holder = next(n for n in range(6) if lead("test", f"s{n}", 30))
    assert not lead("test", "late", 30)
    resign("test", f"s{holder}")
    wait_until(lambda: lead("test", "late", 30), 5, "the next takes over")


def test_finished_jobs_expire(user: Any, empty_broker: Redis) -> None:
    old, young, still_open = (ask(user, "digest") for _ in range(3))
    for job_id in (old, young):
        claim = services.claim(job_id, "w@h", "threads")
        assert claim is not None
        services.succeed(claim, {})
    Job.objects.filter(pk=old).update(finished_at=Now() - timedelta(days=31))
    assert services.expire(timedelta(days=30)) == 1
    assert set(Job.objects.values_list("pk", flat=True)) == {young, still_open}
