"""What the ledger promises while its statements stop and go on in any order: locks, sweeps and ends half done, clocks.

Each actor (a worker's pool, its lease thread, a sweeper) is a thread with a connection of its own, which stops before
each statement until it is told to go on. `make test ARGS='tests/app/jobs/test_interleavings.py --examples 2000'` looks
for longer.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from config.settings import ENV
from fleet.records import heartbeat
from harness.waiting import wait_until
from jobs import services
from jobs.management.commands.sweep import Sweeper
from jobs.models import Job
from jobs.submit import Submission, submit
from kinds.base import Part

pytestmark = pytest.mark.django_db(transaction=True)
TERMINAL = {"succeeded", "failed", "cancelled"}
# The functions of PostgreSQL's clock, found before its own: time passes as the test says, however slow the machine.
CLOCK = """
    CREATE SCHEMA IF NOT EXISTS fake;
    CREATE SEQUENCE IF NOT EXISTS fake.moved MINVALUE 0;
    CREATE OR REPLACE FUNCTION fake.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS
        $$ SELECT timestamptz 'epoch' + last_value * interval '1 second' FROM fake.moved $$;
    CREATE OR REPLACE FUNCTION fake.statement_timestamp() RETURNS timestamptz STABLE LANGUAGE sql AS
        $$ SELECT timestamptz 'epoch' + current_setting('fake.moved')::int * interval '1 second' $$;
"""
BELIEVE = "SET search_path = fake, public, pg_catalog"


class Actor:
    """A thread that makes one call at a time, statement by statement or all at once."""

    def __init__(self, clock: "Clock", prepare: Callable[[], None] = lambda: None) -> None:
        self._clock, self._prepare = clock, prepare
        self._go = threading.Semaphore(0)
        self._stepped = False
        self._thread: threading.Thread | None = None
        self.at_rest = threading.Event()  # between two statements, or done
        self.at_rest.set()
        self.pid = 0
        self.answer: Any = None

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, call: Callable[[], Any], stepped: bool = False) -> None:
        """Begin; `stepped`: it stops before each statement."""
        self._stepped, self.answer = stepped, None
        self.at_rest.clear()
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()
        self.settle()

    def step(self) -> None:
        """Let it make one more statement."""
        if self.busy and self.at_rest.is_set():
            self.at_rest.clear()
            self._go.release()
        self.settle()

    def finish(self) -> None:
        """Let it go on to its end, unless it waits for a lock."""
        self._stepped = False
        self._go.release()
        self.at_rest.clear()
        self.settle(whole=True)

    def settle(self, whole: bool = False) -> None:
        """Wait until it has stopped, has ended, or waits for a lock."""

        def settled() -> bool:
            resting = self.at_rest.is_set() and not whole
            return resting or not self.busy or self._clock.waits_for_a_lock(self.pid)

        wait_until(settled, 30, "the actor stops, ends or waits")

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._prepare()
            with connection.cursor() as cursor:
                cursor.execute(BELIEVE)
                cursor.execute("SELECT pg_backend_pid()")
                self.pid = cursor.fetchone()[0]
            with connection.execute_wrapper(self._before), suppress(OperationalError):
                self.answer = call()
        finally:
            connection.close()
            self.at_rest.set()

    def _before(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if self._stepped:
            self.at_rest.set()
            self._go.acquire()
        with context["connection"].connection.cursor() as cursor:
            cursor.execute(f"SET fake.moved = {self._clock.moved}")
        return execute(sql, params, many, context)


class Clock:
    """The time of the database and of the sweeper; and what PostgreSQL says of its connections."""

    def __init__(self, url: str) -> None:
        self.moved = 1000
        self._watch = psycopg.connect(url, autocommit=True)
        self._watch.execute(CLOCK)
        self.move(0)

    def monotonic(self) -> float:
        return float(self.moved)

    def move(self, seconds: int) -> None:
        self.moved += seconds
        self._watch.execute("SELECT setval('fake.moved', %s)", (self.moved,))

    def waits_for_a_lock(self, pid: int) -> bool:
        sql = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        return self._watch.execute(sql, (pid,)).fetchone() == (True,)

    def rows(self, sql: str) -> list[Any]:
        return self._watch.execute(sql).fetchall()

    def close(self) -> None:
        self._watch.execute("DROP SCHEMA fake CASCADE")
        self._watch.close()


class Unit:
    """A worker unit: what it runs, and the lease thread that says so every five seconds."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.pool, self.leases = Actor(clock), Actor(clock, _lease_thread)
        self.runs: dict[Any, services.Claim] = {}
        self.claiming: Any = None  # Celery counts a task as active before its claim

    def renew(self) -> None:
        running = [*self.runs, *([self.claiming] if self.claiming else [])]
        facts = {"host": "h", "lane": "io", "pool": "threads", "concurrency": 4, "running": len(running)}
        with suppress(OperationalError):
            heartbeat(self.name, {**facts, "holds": [str(one) for one in running]})
        services.renew(self.name, running)


def _lease_thread() -> None:
    from jobs.outages import do_not_wait_for_locks

    do_not_wait_for_locks()


class Interleavings(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(self.url)
        self.units = [Unit(f"unit-{n}@h", self.clock) for n in range(2)]
        self.sweeper, self.sweeps = Sweeper("one"), Actor(self.clock, _lease_thread)
        self.locks: psycopg.Connection[Any] | None = None
        self.allowed: dict[Any, int] = {}  # attempts: one, and one for each death and each split
        self.seen: dict[Any, tuple[int, str]] = {}
        self.patch = pytest.MonkeyPatch()
        ours = SimpleNamespace(monotonic=self.clock.monotonic)
        self.patch.setattr("jobs.management.commands.sweep.time", ours)
        self.patch.setattr("jobs.sweeper.GATE.look", lambda: False)
        self.patch.setattr("jobs.publish.GATE.is_open", lambda: False)

    @initialize(count=st.integers(1, 3))
    def submit(self, count: int) -> None:
        Job.objects.all().delete()
        owner = get_user_model().objects.get_or_create(username="machine")[0].pk
        self.jobs = [job.pk for job, _ in submit(owner, [Submission("digest", {})] * count)]
        self.allowed = dict.fromkeys(self.jobs, 1)
        for _ in range(4):  # the sweeper has known the database for long
            self.sweeps.start(self.sweeper.round)
            self.clock.move(int(ENV.lease_s))

    # the workers

    def _claimed(self, unit: Unit) -> None:
        if not unit.pool.busy:
            claim, unit.pool.answer, unit.claiming = unit.pool.answer, None, None
            if isinstance(claim, services.Claim):
                unit.runs[claim.id] = claim

    @rule(n=st.integers(0, 1), job=st.integers(0, 2), stepped=st.booleans())
    def claim(self, n: int, job: int, stepped: bool) -> None:
        unit = self.units[n]
        self._claimed(unit)
        if not unit.pool.busy and job < len(self.jobs):
            unit.claiming = self.jobs[job]
            unit.pool.start(partial(services.claim, self.jobs[job], unit.name, "threads"), stepped)
            self._claimed(unit)

    @rule(n=st.integers(0, 1), how=st.sampled_from(["succeed", "fail", "split"]), stepped=st.booleans())
    def end(self, n: int, how: str, stepped: bool) -> None:
        unit = self.units[n]
        self._claimed(unit)
        if unit.pool.busy or not unit.runs:
            return
        claim = next(iter(unit.runs.values()))
        parts = [Part("digest", {})] * 2
        calls: dict[str, Callable[[], bool]] = {
            "succeed": partial(services.succeed, claim, {"n": 1}),
            "fail": partial(services.fail, claim, "No."),
            "split": partial(services.split, claim, parts),
        }
        if how == "split" and (claim.parent_id or claim.joining):
            return

        def until_taken() -> None:
            while True:
                with suppress(OperationalError):
                    calls[how]()
                    break
            unit.runs.pop(claim.id, None)
            if how == "split":
                self.allowed[claim.id] += 1

        unit.pool.start(until_taken, stepped)

    @rule(n=st.integers(0, 1))
    def die(self, n: int) -> None:
        """Killed: its running jobs are lost. Another process of that name is there at once."""
        unit = self.units[n]
        self._claimed(unit)
        if unit.pool.busy:
            return
        for job_id in unit.runs:
            self.allowed[job_id] = self.allowed.get(job_id, 1) + 1
        unit.runs = {}

    @rule(which=st.integers(0, 2))
    def step(self, which: int) -> None:
        [self.units[0].pool, self.units[1].pool, self.sweeps][which].step()
        for unit in self.units:
            self._claimed(unit)

    # time, the sweeper, and somebody else

    @rule(seconds=st.sampled_from([1, 3, 6]))
    def time_passes(self, seconds: int) -> None:
        """Whoever lives renews its leases meanwhile, or tries to."""
        for _ in range(seconds):
            self.clock.move(1)
            for unit in self.units:
                self._claimed(unit)
                if not unit.leases.busy:
                    unit.leases.start(unit.renew)

    @rule(stepped=st.booleans())
    def sweep(self, stepped: bool) -> None:
        if not self.sweeps.busy:
            self.sweeps.start(self.sweeper.round, stepped)

    @rule()
    def sweep_to_the_end(self) -> None:
        if self.sweeps.busy:
            self.sweeps.finish()

    @rule(what=st.sampled_from(["jobs_job", "fleet_worker", "row"]), job=st.integers(0, 2))
    def lock(self, what: str, job: int) -> None:
        if self.locks is None:
            self.locks = psycopg.connect(self.url)
            with suppress(psycopg.OperationalError):
                if what == "row":
                    sql = "SELECT 1 FROM jobs_job WHERE id = %s FOR UPDATE NOWAIT"
                    self.locks.execute(sql, (self.jobs[min(job, len(self.jobs) - 1)],))
                else:
                    self.locks.execute(f"LOCK TABLE {what} IN SHARE MODE NOWAIT")

    @rule()
    def unlock(self) -> None:
        if self.locks:
            self.locks.close()
            self.locks = None
            for actor in (self.sweeps, *(actor for unit in self.units for actor in (unit.leases, unit.pool))):
                actor.settle()

    @rule(
        what=st.sampled_from(["jobs_job", "fleet_worker", "row"]),
        n=st.integers(0, 1),
        stepped=st.booleans(),
        first=st.booleans(),
    )
    def run_into_a_lock(self, what: str, n: int, stepped: bool, first: bool) -> None:
        """One that lasts longer than a lease, while jobs run; a sweep begins before its end, or after it."""
        self.unlock()
        for job in range(len(self.jobs)):
            self.claim(n, job, False)
        held = [number for number, job in enumerate(self.jobs) if job in self.units[n].runs]
        self.lock(what, held[0] if held else 0)
        self.time_passes(int(2 * ENV.lease_s))
        if first:
            self.sweep(stepped)
        self.unlock()
        self.sweep_to_the_end()
        self.sweep(False)

    # the promise

    @invariant()
    def ledger_keeps_its_promise(self) -> None:
        if self.locks:
            return
        rows = self.clock.rows("SELECT id, state, version, attempt, parent_id, open_parts, parts_total FROM jobs_job")
        open_parts: dict[Any, int] = {}
        for _, state, _, _, parent, *_ in rows:
            open_parts[parent] = open_parts.get(parent, 0) + (state not in TERMINAL)
        for job_id, state, version, attempt, _, waits_for, total in rows:
            before = self.seen.get(job_id, (0, ""))
            assert version >= before[0], "a version only rises"
            assert before[1] not in TERMINAL or state == before[1], "a job has one end"
            assert not total or waits_for == open_parts.get(job_id, 0), "open_parts is true"
            assert attempt <= self.allowed.get(job_id, 1), "an attempt is used up by a death or a split only"
            self.seen[job_id] = (version, state)

    def teardown(self) -> None:
        self.unlock()
        for actor in (self.sweeps, *(actor for unit in self.units for actor in (unit.leases, unit.pool))):
            while actor.busy:
                actor.finish()
        self.patch.undo()
        self.clock.close()


def test_any_order_of_statements_keeps_the_promise(
    empty_broker: Any, database_url: str, pytestconfig: pytest.Config
) -> None:
    Interleavings.url = database_url
    run_state_machine_as_test(
        Interleavings,
        settings=settings(
            max_examples=pytestconfig.getoption("examples"),
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
