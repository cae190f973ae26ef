"""What the ledger does while others hold its rows, and whom it takes jobs from."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import IntegrityError, connection
from django.db.models.functions import Now

from fleet.models import Worker
from fleet.records import heartbeat
from harness import ROOT
from harness.servers import PostgreSQL
from harness.waiting import wait_until
from jobs import services
from jobs.leader import lead
from jobs.management.commands.sweep import Sweeper
from jobs.models import Job, JobArtifact, State
from jobs.outages import do_not_wait_for_locks
from jobs.sweeper import PATIENCE, sweep
from kinds.base import Artifact, Part
from tests.app.ledger import PNG, job_of, running, succeeded

pytestmark = pytest.mark.django_db(transaction=True)
LONG_AGO = timedelta(hours=1)


@contextmanager
def locked(database_url: str, sql: str, *values: Any) -> Iterator[None]:
    """Somebody else's transaction, which is open and holds a lock."""
    with psycopg.connect(database_url) as theirs:
        theirs.execute(sql, values)
        yield


def silent(*claims: services.Claim, worker: str | None = None) -> None:
    """Their leases have run out."""
    rows = Job.objects.filter(pk__in=[claim.id for claim in claims])
    rows.update(lease_until=Now() - timedelta(seconds=1), **({"worker": worker} if worker else {}))


def row(claim: services.Claim) -> Job:
    return Job.objects.get(pk=claim.id)


def in_thread(call: Callable[[], Any]) -> Any:
    def run() -> Any:
        try:
            return call()
        finally:
            connection.close()

    return ThreadPoolExecutor(1).submit(run)


# ---- who renews, and who waits --------------------------------------------------------------------------------------


def test_a_renewal_leaves_out_the_row_that_somebody_has_locked(user: Any, empty_broker: Any, database_url: str) -> None:
    stuck, free = running(user), running(user)
    silent(stuck, free)
    with locked(database_url, "SELECT 1 FROM jobs_job WHERE id = %s FOR UPDATE", stuck.id):
        assert services.renew("unit-1@host-one", [stuck.id, free.id]) == 1
    assert [job.pk for job in services.expired_leases(10)] == [stuck.id]


def test_whoever_is_named_by_a_heartbeat_keeps_its_job(user: Any, empty_broker: Any) -> None:
    """The row could not be renewed, as somebody had locked it; the heartbeat goes to another table."""
    held, unnamed, stale = running(user), running(user), running(user)
    silent(held, unnamed)
    silent(stale, worker="unit-2@host-one")
    unit = {"host": "host-one", "lane": "io", "pool": "threads", "concurrency": 2, "running": 1}
    for name, claim in (("unit-1@host-one", held), ("unit-2@host-one", stale)):
        heartbeat(name, {**unit, "holds": [str(claim.id)]})
    Worker.objects.filter(name="unit-2@host-one").update(seen_at=Now() - timedelta(minutes=1))
    assert sweep()["lost"] == 2
    assert [row(claim).state for claim in (held, unnamed, stale)] == ["running", "queued", "queued"]


def test_a_lease_counts_from_the_end_of_the_wait_for_a_lock(user: Any, empty_broker: Any, database_url: str) -> None:
    claim = running(user)
    silent(claim)
    with locked(database_url, "LOCK TABLE jobs_job IN SHARE MODE"):
        renewal = in_thread(lambda: services.renew("unit-1@host-one", [claim.id]))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        with psycopg.connect(database_url, autocommit=True) as watch:
            wait_until(lambda: watch.execute(waits).fetchone() == (1,), why="the renewal waits")
            watch.execute("SELECT pg_sleep(1)")
            [(unlocked_at,)] = watch.execute("SELECT clock_timestamp()")
    assert renewal.result() == 1
    assert row(claim).lease_until >= unlocked_at + timedelta(seconds=settings.ENV.lease_s)


def test_what_was_renewed_while_the_sweeper_waited_is_not_taken(user: Any, empty_broker: Any) -> None:
    claim = running(user)
    silent(claim)
    [job] = services.expired_leases(10)
    services.renew("unit-1@host-one", [claim.id])
    assert not services.lose(job, "silent", only=services.not_held_up(job))
    silent(claim)
    [job] = services.expired_leases(10)
    job.now -= timedelta(seconds=settings.ENV.renew_s + 1)  # since then the statement has waited
    assert not services.lose(job, "silent", only=services.not_held_up(job))
    assert row(claim).state == State.RUNNING


def test_a_sweeper_goes_round_what_is_locked(user: Any, empty_broker: Any, database_url: str) -> None:
    """A row, and the parent of a part."""
    stuck, free, parent = running(user), running(user), running(user)
    services.split(parent, [Part("digest", {})])
    part = services.claim(Job.objects.get(parent_id=parent.id).pk, "unit-3@host", "threads")
    assert part
    for number, claim in enumerate((stuck, part, free)):
        silent(claim, worker=f"unit-{number}@gone")
    Job.objects.filter(pk=part.id).update(attempt=3)
    sql = "SELECT 1 FROM jobs_job WHERE id IN (%s, %s) FOR UPDATE"

    def round_of_a_sweeper() -> int:
        do_not_wait_for_locks()
        return sweep()["lost"]

    with locked(database_url, sql, stuck.id, parent.id):
        assert in_thread(round_of_a_sweeper).result() == 1
        assert [row(claim).state for claim in (stuck, part, free)] == ["running", "running", "queued"]
    assert in_thread(round_of_a_sweeper).result() == 2


def test_a_sweeper_takes_nothing_for_a_lease_after_a_statement_of_its_own_was_held_up(
    user: Any, empty_broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("jobs.management.commands.sweep.time.monotonic", lambda: now)
    one, claim = Sweeper("one"), running(user)

    def a_lease_passes() -> None:
        nonlocal now
        for _ in range(int(settings.ENV.lease_s / settings.ENV.renew_s)):
            one.round()
            now += settings.ENV.renew_s

    a_lease_passes()
    silent(claim)

    def slow(execute: Any, *statement: Any) -> Any:
        nonlocal now
        now += settings.ENV.renew_s + settings.ENV.sweep_s + 0.1
        return execute(*statement)

    def held_up(*who: Any) -> bool:
        with connection.execute_wrapper(slow):
            return lead(*who)

    with monkeypatch.context() as patch:
        patch.setattr("jobs.management.commands.sweep.lead", held_up)
        patch.setattr("jobs.management.commands.sweep.sweep", lambda *_: {})
        one.round()
    one.round()
    assert row(claim).state == State.RUNNING
    Job.objects.update(lease_until=Now() - LONG_AGO)  # since before the outage
    a_lease_passes()
    one.round()
    assert (row(claim).state, row(claim).max_attempts) == (State.QUEUED, 4), "an outage uses up no attempt"


def test_a_sweeper_that_stood_still_takes_nothing_for_a_lease(
    user: Any, empty_broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("jobs.management.commands.sweep.time.monotonic", lambda: now)
    one, claim = Sweeper("one"), running(user)
    one.round()
    silent(claim)
    now += 2 * settings.ENV.lease_s
    one.round()
    assert row(claim).state == State.RUNNING, "while it stood still workers may have found all tables locked"


# ---- who is to blame ------------------------------------------------------------------------------------------------


def test_jobs_that_shared_a_dead_worker_use_up_no_attempt_and_are_tried_apart(user: Any, empty_broker: Any) -> None:
    shared, alone = [running(user) for _ in range(3)], running(user)
    silent(*shared)
    silent(alone, worker="unit-2@gone")
    assert sweep()["lost"] == 4
    rows = [row(claim) for claim in shared]
    assert {(job.attempt, job.max_attempts, job.shared_deaths) for job in rows} == {(1, 4, 1)}
    assert len({job.run_after for job in rows}) == 3, "not all at once again"
    assert (row(alone).max_attempts, row(alone).shared_deaths, row(alone).run_after) == (3, 0, None)


def test_who_dies_with_others_again_and_again_is_given_up(user: Any, empty_broker: Any) -> None:
    poison, other = running(user), running(user)
    Job.objects.filter(pk=poison.id).update(shared_deaths=services.MOST_SHARED_DEATHS)
    silent(poison, other)
    sweep()
    assert row(other).state == State.QUEUED
    assert row(poison).error.startswith("Gave up: its worker died 11 times, the last time unit-1@host-one: no sign of")


# ---- what nobody can run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gone", "sentence"), [({"lane": "gone"}, "no lane gone"), ({"kind": "gone"}, "no kind gone")])
def test_a_job_that_no_worker_runs_any_more_ends_with_a_sentence(
    user: Any, empty_broker: Any, gone: dict[str, str], sentence: str
) -> None:
    """And holds up nobody else."""
    queued, other = job_of(user), running(user)
    Job.objects.filter(pk=queued.pk).update(created_at=Now() - LONG_AGO, published_at=None, **gone)
    silent(other)
    assert services.claim(queued.pk, "w@h", "threads") is None
    assert sweep()["lost"] == 1
    queued.refresh_from_db()
    assert (queued.state, queued.attempt) == (State.FAILED, 0)
    assert sentence in queued.error


def test_a_running_job_of_a_lane_that_is_gone_ends_when_its_worker_is_silent(user: Any, empty_broker: Any) -> None:
    claim, fresh = running(user), running(user)
    Job.objects.filter(pk__in=[claim.id, fresh.id]).update(lane="gone")
    silent(fresh)
    Job.objects.filter(pk=claim.id).update(lease_until=Now() - PATIENCE)
    sweep()
    assert (row(claim).state, row(fresh).state) == (State.FAILED, State.RUNNING)
    assert row(claim).error == "Gave up: there is no lane gone any more, so no worker runs this job."


def test_a_running_job_that_nobody_holds_and_that_waits_for_nothing_is_found(user: Any, empty_broker: Any) -> None:
    claim, cancelled = running(user), running(user)
    Job.objects.filter(pk__in=[claim.id, cancelled.id]).update(lease_until=None)
    services.cancel(cancelled.id)
    assert sweep()["lost"] == 2
    assert (row(claim).state, row(cancelled).state) == (State.QUEUED, State.CANCELLED)


# ---- what is deleted ------------------------------------------------------------------------------------------------


def test_what_has_expired_goes_by_id_and_in_steps(
    user: Any, empty_broker: Any, django_assert_max_num_queries: Any
) -> None:
    """No file and no result is loaded to be deleted."""
    parent = running(user)
    services.split(parent, [Part("digest", {})] * 5)
    for part in Job.objects.filter(parent_id=parent.id):
        claim = services.claim(part.pk, "w@h", "threads")
        assert claim
        assert services.succeed(claim, {}, PNG)
    kept = succeeded(user, file=PNG)
    Job.objects.exclude(pk=kept).update(state=State.SUCCEEDED, finished_at=Now() - LONG_AGO)
    with django_assert_max_num_queries(6) as seen:
        assert services.expire(LONG_AGO / 2, limit=3) == 3
    assert not [query["sql"] for query in seen.captured_queries if '"content"' in query["sql"]]
    assert [services.expire(LONG_AGO / 2, limit=3) for _ in range(2)] == [3, 0]
    assert list(Job.objects.values_list("pk", flat=True)) == [kept]
    assert JobArtifact.objects.count() == 1


# ---- what the database's log says -----------------------------------------------------------------------------------


def test_a_slow_statement_is_logged_without_the_file_that_it_stores(user: Any, database: PostgreSQL) -> None:
    conf = (ROOT / "playbooks/roles/postgresql/templates/etc/postgresql/conf.d/headrace.conf.j2").read_text()
    claim, file = running(user), Artifact(b"x" * 1_000_000, "image/png", "a picture.png")
    with connection.cursor() as cursor:
        for name in ("log_parameter_max_length", "log_parameter_max_length_on_error"):
            [value] = re.findall(rf"^{name} = (\S+)$", conf, re.MULTILINE)
            cursor.execute("SELECT set_config(%s, %s, false)", [name, value])
        cursor.execute("SET log_min_duration_statement = 0")
    at = database.log.stat().st_size
    try:
        assert services.succeed(claim, {"words": "y" * 100_000}, file)
        with pytest.raises(IntegrityError):
            JobArtifact.objects.create(job_id=claim.id, content=file.content)
    finally:
        connection.close()
    lines = database.log.read_bytes()[at:].splitlines()
    assert any(b'INSERT INTO "jobs_jobartifact"' in line for line in lines)
    assert max(map(len, lines)) < 2000
