"""The sweeper: who leads, what it finds in a long backlog, what it says of poison jobs, and when it leaves them be."""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import redis
import yaml
from django.conf import settings
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test import Client

from fleet.models import Sweeps
from harness import APP
from harness.processes import Process
from harness.servers import PostgreSQL, Redis
from harness.waiting import wait_until
from jobs import services
from jobs.backpressure import FULL, GATE, ROOM, Gate
from jobs.leader import TERM_S
from jobs.management.commands.sweep import Sweeper
from jobs.models import Job, Leader, State
from jobs.submit import Submission, submit
from jobs.sweeper import BATCH, sweep
from tests.app.wire import statements
from worker import lease

pytestmark = pytest.mark.django_db(transaction=True)
Launch = Callable[..., Process]
MANY = 100_000


def client() -> redis.Redis:
    return redis.Redis.from_url(os.environ["HEADRACE_BROKER_URL"])


def ask(user: Any, kind: str = "digest", **params: Any) -> UUID:
    [(job, _)] = submit(user.pk, [Submission(kind, params)])
    return job.pk


def ended(count: int, seconds: float = 60) -> list[Job]:
    """All jobs, when so many have ended."""
    done = Job.objects.exclude(state__in=[State.QUEUED, State.RUNNING])
    wait_until(lambda: done.count() == count, seconds, f"{count} jobs end")
    return list(done)


def held_by_the_dead(user: Any, worker: str = "cpu-1@gone", **values: Any) -> UUID:
    """A running job whose worker has not been heard of for a minute."""
    job_id = ask(user)
    services.claim(job_id, worker, "prefork")
    since = {"lease_until": Now() - timedelta(seconds=60), "started_at": Now() - timedelta(seconds=70)}
    Job.objects.filter(pk=job_id).update(**{**since, **values})
    return job_id


# ---- who leads ------------------------------------------------------------------------------------------------------


def leader() -> str:
    return Leader.objects.filter(role="sweeper", until__gte=Now()).values_list("holder", flat=True).first() or ""


def two_sweepers(launch: Launch) -> tuple[Process, Process]:
    """One that leads, and one that stands by."""
    first = launch("sweeper-1", "python", "manage.py", "sweep")
    leads(first)
    second = launch("sweeper-2", "python", "manage.py", "sweep")
    wait_until(lambda: second.alive() and "stands by" in second.output(), 60, "the second stands by")
    return first, second


def leads(process: Process) -> None:
    wait_until(lambda: process.alive() and leader().endswith(f":{process.child.pid}"), 60, f"{process.name} leads")


def test_second_takes_over_from_a_killed_one(launch: Launch, empty_broker: Redis) -> None:
    first, second = two_sweepers(launch)
    first.kill()
    leads(second)


def test_stopped_one_that_wakes_up_stands_by(user: Any, launch: Launch, empty_broker: Redis) -> None:
    first, second = two_sweepers(launch)
    first.signal(signal.SIGSTOP)
    leads(second)
    lost = [held_by_the_dead(user) for _ in range(20)]
    first.signal(signal.SIGCONT)  # wherever it was stopped, it goes on from there
    queued = Job.objects.filter(pk__in=lost, state=State.QUEUED, published_at__isnull=False)
    wait_until(lambda: queued.count() == len(lost), why="all are queued again")
    rounds = Sweeps.objects.get().rounds
    wait_until(lambda: Sweeps.objects.get().rounds > rounds + 5, why="rounds go on")
    assert leader().endswith(f":{second.child.pid}")
    assert client().llen("quick") >= 2 * len(lost), "each was published when it was submitted, and again"
    assert (Sweeps.objects.get().lost, set(Job.objects.values_list("attempt", flat=True))) == (len(lost), {1})


def test_one_that_is_told_to_stop_hands_over_before_its_claim_runs_out(launch: Launch, empty_broker: Redis) -> None:
    first, second = two_sweepers(launch)
    until = Leader.objects.get().until
    first.child.terminate()
    leads(second)
    assert Leader.objects.get().until - timedelta(seconds=TERM_S) < until
    assert first.child.wait(30) == 0


def test_hung_broker_holds_up_neither_leases_nor_the_leadership(user: Any, launch: Launch, empty_broker: Redis) -> None:
    first, _ = two_sweepers(launch)
    lost = [held_by_the_dead(user, lease_until=Now() + timedelta(seconds=1)) for _ in range(60)]
    with empty_broker.paused():
        rounds = Sweeps.objects.get().rounds
        left = Job.objects.filter(pk__in=lost, state=State.RUNNING)
        wait_until(lambda: still_leads(first) and not left.exists(), why="all leases are taken")
        wait_until(lambda: still_leads(first) and Sweeps.objects.get().rounds > rounds + 3, why="rounds go on")
    wait_until(lambda: client().llen("quick") >= 2 * len(lost), why="all are published when the broker wakes up")
    assert not Job.objects.filter(published_at=None).exists()


def still_leads(process: Process) -> bool:
    assert leader().endswith(f":{process.child.pid}")
    return True


# ---- a long backlog -------------------------------------------------------------------------------------------------


def fill(user: Any, count: int) -> None:
    """So many jobs, published over the last hour, the first one first; their messages in the broker."""
    template = ask(user)
    raw = client().lindex("quick", -1)
    Job.objects.all().delete()
    client().delete("quick")
    columns = [field.column for field in Job._meta.fields if field.column not in {"id", "published_at"}]
    Job(pk=template, owner=user, kind="digest", lane="quick", params={}, max_attempts=3).save()
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO jobs_job (id, published_at, {', '.join(columns)}) "
            "SELECT md5(n::text)::uuid, now() - interval '1 hour' + n * interval '1 hour' / %s, "
            f"{', '.join(columns)} FROM jobs_job, generate_series(0, %s - 1) AS n",
            [count + 1000, count],
        )
    Job.objects.filter(pk=template).delete()
    push(raw)


def push(raw: bytes) -> None:
    message = json.loads(raw)
    with client().pipeline(transaction=False) as pipe:
        for at, job_id in Job.objects.order_by("published_at").values_list("published_at", "pk"):
            message["headers"] |= {"published_at": at.timestamp(), "id": str(job_id)}
            pipe.lpush("quick", json.dumps(message))
        pipe.execute()


def test_one_lost_job_is_found_among_a_hundred_thousand_and_only_it(user: Any, empty_broker: Redis) -> None:
    fill(user, MANY)
    assert [sweep() for _ in range(3)] == [{"lost": 0, "due": 0, "overtaken": 0}] * 3
    taken = client().rpop("quick", 100)
    ids = [json.loads(raw)["headers"]["id"] for raw in taken]
    lost = ids.pop(50)
    Job.objects.filter(pk__in=ids).update(state=State.SUCCEEDED)
    assert sweep()["overtaken"] == 1
    assert json.loads(client().lindex("quick", 0))["headers"]["id"] == lost
    assert sweep()["overtaken"] == 0
    assert client().llen("quick") == MANY - 100 + 1


def test_after_a_wipe_nobody_rests_until_all_are_published(user: Any, launch: Launch, empty_broker: Redis) -> None:
    fill(user, 5 * BATCH)
    client().flushall()
    launch("sweeper", "python", "manage.py", "sweep", HEADRACE_SWEEP_S="3600")
    old = Job.objects.filter(published_at__lt=Now() - timedelta(minutes=5))
    wait_until(lambda: not old.exists(), 60, "all are published")


def test_nobody_asks_for_the_bindings(user: Any, empty_broker: Redis) -> None:
    client().config_resetstat()
    submit(user.pk, [Submission("digest", {})] * 100)
    assert "cmdstat_smembers" not in client().info("commandstats")


def test_broker_that_was_flushed_loses_nothing_that_is_published_then(user: Any, empty_broker: Redis) -> None:
    """Every connection is still there, and Redis has no bindings."""
    ask(user)
    client().flushall()
    ask(user)
    assert client().llen("quick") == 1


def test_a_queue_of_a_lane_says_nothing_of_the_jobs_in_its_other_queue(
    user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = settings.LANES["quick"].model_copy(update={"queues": {"quick": "quick.digest", "spare": "quick.wait"}})
    table = settings.LANES.model_copy(update={"lanes": {**settings.LANES.lanes, "quick": quick}})
    monkeypatch.setattr(settings, "LANES", table)
    fill(user, 50)
    assert sweep()["overtaken"] == 0, "the spare queue is empty, and none of them went there"


def test_jobs_that_a_busy_worker_has_fetched_are_not_published_without_end(
    user: Any, start_worker: Callable[..., Process], launch: Launch, empty_broker: Redis, tmp_path: Path
) -> None:
    """Where a lane fetches ahead, nobody sees what waits in its worker: it is in no queue, and not yet claimed."""
    table = yaml.safe_load((APP / "config/lanes.yml").read_text())
    table["lanes"]["cpu"]["prefetch_multiplier"] = 4
    (tmp_path / "lanes.yml").write_text(yaml.safe_dump(table))
    start_worker("cpu", HEADRACE_LANE_TABLE=str(tmp_path / "lanes.yml"))
    launch("sweeper", "python", "manage.py", "sweep")
    for _ in range(4):
        ask(user, "wait", lane="cpu", ms=3000)
    assert {job.attempt for job in ended(4)} == {1}
    wait_until(lambda: client().llen("cpu") == 0, why="what was published again is dropped")
    again = Sweeps.objects.get().overtaken
    assert again <= 6, "three wait, and while a second message of theirs is in the queue there is no third"


# ---- poison ---------------------------------------------------------------------------------------------------------

PREMATURE = "Worker exited prematurely: "


@pytest.mark.parametrize(
    ("text", "out_of_memory", "cause"),
    [
        ("signal 9 (SIGKILL) Job: 3.", False, "its pool process was killed by SIGKILL, perhaps for its memory"),
        ("signal 9 (SIGKILL)", True, "its pool process was killed by SIGKILL for its memory (the kernel's oom_kill)"),
        ("signal 11 (SIGSEGV) Job: 3.", True, "its pool process was killed by SIGSEGV"),
        ("exitcode 155 Job: 3.", False, "its pool process ended with exit code 155"),
        ("exitcode 0", False, "its pool process ended with exit code 0"),
        ("who knows", False, "its pool process died"),
    ],
)
def test_cause_of_a_pool_process_death(text: str, out_of_memory: bool, cause: str) -> None:
    assert lease.cause_of_death(PREMATURE + text, out_of_memory) == cause


def test_kernel_kills_are_counted(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nmax 9\noom 1\noom_kill 1\n")
    kills = lease.OomKills(tmp_path)
    assert not kills.grew()
    events.write_text("low 0\nmax 9\noom 2\noom_kill 2\n")
    assert [kills.grew(), kills.grew()] == [True, False]
    events.unlink()
    assert not kills.grew(), "no cgroup v2 here"


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({}, r"no sign of life for \d+ s, its process or its host died"),
        ({"started_at": Now() - timedelta(hours=1)}, r"it ran longer than its lane allows \(15 s\)"),
    ],
)
def test_poison_job_says_who_died_of_what(user: Any, empty_broker: Redis, values: dict[str, Any], cause: str) -> None:
    poison = held_by_the_dead(user, "cpu-1@gone", attempt=3, **values)
    again = held_by_the_dead(user, "cpu-2@gone", attempt=1, **values)
    assert sweep()["lost"] == 2
    job = Job.objects.get(pk=poison)
    assert job.state == State.FAILED
    assert re.match(rf"Gave up: its worker died 3 times, the last time cpu-1@gone: {cause}", job.error), job.error
    assert re.match(rf"running again: {cause}.* \(cpu-2@gone\)$", Job.objects.get(pk=again).note)
    assert Sweeps.objects.get().poisoned == 1


# ---- what it says of itself -----------------------------------------------------------------------------------------


def test_metrics_and_the_fleet_page_tell_of_the_sweeper(user: Any, launch: Launch, empty_broker: Redis) -> None:
    held_by_the_dead(user, attempt=3)
    held_by_the_dead(user, "cpu-2@gone")
    page = Client()
    page.force_login(user)
    assert b"nobody recovers lost jobs" in page.get("/fleet/").content
    launch("sweeper", "python", "manage.py", "sweep")
    wait_until(lambda: Sweeps.objects.filter(lost=2, rounds__gt=2).exists(), 60, "it has swept")
    text = Client().get("/metrics").content.decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert found['headrace_sweeper_moved_total{step="lost"}'] == "2.0"
    assert found['headrace_sweeper_moved_total{step="due"}'] == "1.0"
    assert found["headrace_poisoned_jobs_total"] == "1.0"
    assert float(found["headrace_sweeper_rounds_total"]) > 2
    assert 0 <= float(found["headrace_sweeper_round_age_seconds"]) < 60
    assert float(found["headrace_sweeper_round_seconds"]) > 0
    assert leader().encode() in page.get("/fleet/").content


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite is on no wire")
def test_a_round_at_rest_asks_little(user: Any, empty_broker: Redis) -> None:
    """Who leads, what has expired, whether anything waits, that it has swept; every other time, what is locked."""
    one = Sweeper("one")
    one.round()
    assert one._trusted_since
    one._trusted_since -= settings.ENV.lease_s
    for due, asked in ((float("inf"), 4), (0.0, 6)):
        one._due = dict.fromkeys(one._due, float("inf")) | {"probe": due}
        with statements() as sent:
            one.round()
        assert len(sent) == asked, sent


# ---- back-pressure --------------------------------------------------------------------------------------------------


@contextmanager
def limited(share: float) -> Iterator[None]:
    """A broker of which so much is used."""
    used = client().info("memory")["used_memory"]
    client().config_set("maxmemory", int(used / share))
    vars(GATE).update(vars(Gate()))
    try:
        yield
    finally:
        client().config_set("maxmemory", 0)
        vars(GATE).update(vars(Gate()))


def test_nothing_is_published_to_a_broker_that_is_nearly_full(user: Any, empty_broker: Redis) -> None:
    with limited(FULL + 0.05):
        waits = ask(user)
        assert sweep() == {"lost": 0}
        assert Job.objects.get(pk=waits).published_at is None
        assert client().llen("quick") == 0
        assert Client().get("/readyz").json()["broker"] == "full"
        metrics = Client().get("/metrics").content.decode().splitlines()
        assert "headrace_broker_full 1.0" in metrics
        client().config_set("maxmemory", int(client().info("memory")["used_memory"] / (FULL - 0.05)))
        assert sweep() == {"lost": 0}, "not before there is some room"
        client().config_set("maxmemory", int(client().info("memory")["used_memory"] / (ROOM - 0.1)))
        assert sweep()["due"] == 1
        assert client().llen("quick") == 1


def test_broker_that_was_filled_a_moment_ago_is_no_error(user: Any, empty_broker: Redis) -> None:
    """Somebody else did it: the gate has not seen it yet, and Kombu wraps what Redis says of a batch."""
    with limited(0.5):
        assert Job.objects.get(pk=ask(user)).published_at is not None, "its queue is bound from here on"
        GATE.look()
        client().config_set("maxmemory", 1)
        assert Job.objects.get(pk=ask(user)).published_at is None


def test_backlog_that_would_fill_the_broker_waits_in_the_ledger_and_is_worked_off(
    user: Any, start_worker: Callable[..., Process], launch: Launch, empty_broker: Redis
) -> None:
    sweeper = launch("sweeper", "python", "manage.py", "sweep")
    client().set("ballast", os.urandom(8_000_000))  # else a few connections would be a good part of it all
    with limited(0.66):
        for _ in range(12):
            submit(user.pk, [Submission("burn", {"lane": "quick", "ms": 1})] * 250)  # a message each
        # Once it has been full, what it uses may fall below that again, and publishing does not go on for it.
        wait_until(lambda: "broker nearly full" in sweeper.output(), 180, "the sweeper stops at a full broker too")
        assert Job.objects.filter(published_at=None).exists()
        worker = start_worker("quick")
        assert {job.state for job in ended(3000, 400)} == {State.SUCCEEDED}
        assert "OutOfMemory" not in worker.output()


# ---- after an outage of the database --------------------------------------------------------------------------------


def test_who_has_just_found_the_database_takes_nothing_from_the_silent(
    user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("jobs.management.commands.sweep.time.monotonic", lambda: now)
    one, lost = Sweeper("one"), held_by_the_dead(user)
    state = Job.objects.filter(pk=lost).values_list("state", flat=True)

    def away(*_: Any) -> bool:
        raise OperationalError("server closed the connection") from psycopg.OperationalError()

    one.round()
    now += 10
    with monkeypatch.context() as patch:
        patch.setattr("jobs.management.commands.sweep.lead", away)
        one.round()
    began = now
    while now < began + settings.ENV.lease_s:
        one.round()
        assert state.get() == State.RUNNING
        now += settings.ENV.renew_s
    one.round()
    assert state.get() == State.QUEUED


def test_live_workers_keep_their_jobs_over_an_outage_longer_than_their_leases(
    user: Any, start_worker: Callable[..., Process], launch: Launch, empty_broker: Redis, database: PostgreSQL
) -> None:
    sweeper = launch(
        "sweeper", "python", "manage.py", "sweep", HEADRACE_LEASE_S="6"
    )  # it waits, as the worker need not
    start_worker("io")
    job_id = ask(user, "wait", lane="io", ms=9000)
    wait_until(lambda: Job.objects.filter(pk=job_id, state=State.RUNNING).exists(), why="it runs")
    until = time.time() + settings.ENV.lease_s + 1
    connection.close()
    database.stop()
    wait_until(lambda: time.time() > until, why="its lease has run out")
    wait_until(lambda: "waits for the database" in sweeper.output(), why="the sweeper has noticed")
    database.start()
    [job] = ended(1)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1), job.error
