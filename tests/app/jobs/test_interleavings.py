"""What the ledger promises while its statements stop and go on in any order: locks, claims, ends and sweeps half done.

Each actor (a worker's pool, its lease thread, the sweeper, a user) is a thread with a connection of its own. One of
them moves at a time; time passes when the test says so; and PostgreSQL says who waits for a lock. So a run depends on
what Hypothesis draws, and on nothing else. A longer one, and another one than CI's:
`make test ARGS='-n 0 tests/app/jobs/test_interleavings.py --examples 1000 --hypothesis-seed 1'`.
"""

import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.pq import TransactionStatus

from config.settings import ENV
from fleet.records import heartbeat
from jobs import services
from jobs.management.commands.sweep import Sweeper
from jobs.models import Job
from jobs.outages import lock_timed_out
from jobs.submit import Submission, submit
from kinds.base import Part

pytestmark = pytest.mark.django_db(transaction=True)
TERMINAL = {"succeeded", "failed", "cancelled"}
LONG_S = int(ENV.lease_s) + 1
TABLES = ("jobs_job", "jobs_leader", "fleet_worker", "fleet_sweeps")
# PostgreSQL's clock, found before its own. Autovacuum would lock tables when it likes.
BEFORE = """
    CREATE SCHEMA fake;
    CREATE SEQUENCE fake.seconds MINVALUE 0;
    CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS
        $$ SELECT timestamptz 'epoch' + last_value * interval '1 second' FROM fake.seconds $$;
    CREATE FUNCTION fake.statement_timestamp() RETURNS timestamptz STABLE LANGUAGE sql AS
        $$ SELECT timestamptz 'epoch' + current_setting('fake.came')::int * interval '1 second' $$;
""" + "".join(f"ALTER TABLE {table} SET (autovacuum_enabled = false);" for table in TABLES)
AFTER = "DROP SCHEMA fake CASCADE;" + "".join(f"ALTER TABLE {table} RESET (autovacuum_enabled);" for table in TABLES)


class Killed(Exception):
    """The process of this actor is no more."""


class Actor:
    """A thread with a connection, which makes one call at a time, and may be stopped before each of its statements."""

    def __init__(self, world: "World", patient: bool = True) -> None:
        self._world = world
        self.patient = patient  # waits for a lock until it has it; the others give up at once
        self.stepped = False  # goes on only when it is told to
        self.waits = False  # for a lock
        self.pid = 0
        self.still = threading.Event()  # it has stopped, or has nothing to do
        self.still.set()
        self._go, self._killed = threading.Semaphore(0), False
        self._call: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, initializer=self._set_options)
        world.actors.append(self)

    def _set_options(self) -> None:
        given = connection.settings_dict
        options = f"-c search_path=fake,public,pg_catalog -c lock_timeout={0 if self.patient else 1}"
        connection.settings_dict = {**given, "OPTIONS": {**given["OPTIONS"], "options": options}}

    @property
    def busy(self) -> bool:
        return self._call is not None and not self._call.done()

    @property
    def stopped(self) -> bool:
        return self.busy and not self.waits

    def start(self, call: Callable[[], Any], stepped: bool = False) -> None:
        self.stepped, self._killed = stepped, False
        self.still.clear()
        self._call = self._thread.submit(self._run, call)
        self._call.add_done_callback(lambda _: self.still.set())
        self._world.settle()

    def go(self, killed: bool = False) -> None:
        """Make the statement before which it has stopped; or `killed`: never make it."""
        self._killed = killed
        self.still.clear()
        self._go.release()

    def check(self) -> None:
        """Raise what its call raised."""
        if self._call and not self.busy:
            self._call.result()

    def close(self) -> None:
        self._thread.submit(lambda: connection.close()).result()  # noqa: PLW0108  (that thread's connection)
        self._thread.shutdown()

    def _run(self, call: Callable[[], Any]) -> None:
        with connection.execute_wrapper(self._before), suppress(Killed):
            call()

    def _before(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        raw = context["connection"].connection
        self.pid = raw.info.backend_pid
        if self.stepped or self._world.somebody_waits:  # who may be woken by what this one did is to move first
            self.still.set()
            self._go.acquire()
        if self._killed:
            raise Killed
        if raw.info.transaction_status != TransactionStatus.INERROR:
            raw.execute(f"SET fake.came = {self._world.now}")
        return execute(sql, params, many, context)


class World:
    """The time, the actors, somebody who locks things, and what PostgreSQL says of all that."""

    def __init__(self, url: str) -> None:
        self.actors: list[Actor] = []
        self.now = 1000
        self.locked = False
        self._watch, self._locker = psycopg.connect(url, autocommit=True), psycopg.connect(url)
        self._watch.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")
        self.move(0)

    def rows(self, sql: str) -> list[Any]:
        return self._watch.execute(sql).fetchall()

    def move(self, seconds: int) -> None:
        self.now += seconds
        self._watch.execute("SELECT setval('fake.seconds', %s)", (self.now,))

    @property
    def somebody_waits(self) -> bool:
        return any(actor.waits for actor in self.actors)

    def lock(self, sql: str) -> None:
        """The end of this lock wakes all who wait for it, in any order: so at most one actor may wait meanwhile."""
        if not self.locked and not self.somebody_waits:
            try:
                self._locker.execute(f"{sql} NOWAIT")
                self.locked = True
            except psycopg.errors.LockNotAvailable:
                self._locker.rollback()

    def unlock(self) -> None:
        self._locker.rollback()
        self.locked = False
        self.settle()

    def may_move(self, actor: Actor) -> bool:
        return not actor.waits and not (self.locked and self.somebody_waits)

    def settle(self) -> None:
        """Let those who are not stepped go on, one after the other, until they have ended or wait."""
        while True:
            self._until_still()
            for actor in self.actors:
                actor.check()
            ready = [actor for actor in self.actors if actor.stopped and not actor.stepped]
            if not ready:
                return
            ready[0].go()

    def _until_still(self) -> None:
        """Wait until nobody moves: who has not stopped waits for a lock, says one look at all locks."""
        while moving := [actor for actor in self.actors if not actor.still.wait(0.001)]:
            if all(actor.patient for actor in moving):
                waiting = {pid for (pid,) in self.rows("SELECT pid FROM pg_locks WHERE NOT granted")}
                if all(actor.pid in waiting for actor in moving):
                    break
        for actor in self.actors:
            actor.waits = actor in moving

    def check_locks(self) -> None:
        found = self.rows("SELECT pid, unnest(pg_blocking_pids(pid)) FROM pg_locks WHERE NOT granted")
        assert not found or {by for _, by in found} - {pid for pid, _ in found}, "nobody waits for each other"

    def close(self) -> None:
        """Kill whoever is in the middle of something, and wait until all have rolled back."""
        self._locker.close()
        while any(actor.busy for actor in self.actors):
            self._until_still()
            for actor in self.actors:
                if actor.stopped:
                    actor.go(killed=True)
        for actor in self.actors:
            actor.close()
        self._watch.close()


class Unit:
    """A worker unit: what it runs, and the lease thread that says so."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.pool, self.leases = Actor(world), Actor(world, patient=False)
        self.runs: dict[Any, services.Claim] = {}
        self.between: list[Any] = []  # the job whose claim or end is under way: Celery counts it as active

    def claim(self, job: Any, everybody: list["Unit"]) -> None:
        self.between = [job]
        claim = services.claim(job, self.name, "threads")
        self.between = []
        if claim:
            assert not any(job in unit.runs for unit in everybody), "never two live leases"
            self.runs[job] = claim

    def end(self, claim: services.Claim, call: Callable[[], bool]) -> None:
        self.between = [self.runs.pop(claim.id).id]
        assert call() or services.stopped(claim), "who lives owns its job until it has ended it"
        self.between = []

    def renew(self) -> None:
        active = [*self.runs, *self.between]
        facts = {"host": "h", "lane": "io", "pool": "threads", "concurrency": 4, "running": len(active)}
        for call in (
            partial(heartbeat, self.name, {**facts, "holds": [str(one) for one in active]}),
            partial(services.renew, self.name, active),
        ):
            try:
                call()
            except OperationalError as error:
                if not lock_timed_out(error):
                    raise


WHO, JOB, STEPPED = st.integers(0, 1), st.integers(0, 4), st.booleans()
WHAT = st.sampled_from(["jobs_job", "fleet_worker", "jobs_job, fleet_worker", "row"])
ENDS: dict[str, Callable[[services.Claim], bool]] = {
    "succeed": lambda claim: services.succeed(claim, {"n": 1}),
    "fail": lambda claim: services.fail(claim, "No."),
    "retry": lambda claim: services.retry(claim, "The line was busy."),
    "split": lambda claim: services.split(claim, [Part("digest", {})] * 2),
}


class Interleavings(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.world = World(self.url)
        self._nothing_is_random()
        self.units = [Unit(f"unit-{n}@h", self.world) for n in range(2)]
        self.sweeper, self.sweeps = Sweeper("one"), Actor(self.world, patient=False)
        self.user = Actor(self.world)
        self.cut_off: list[services.Claim] = []  # held by processes that are taken for dead, and may come back
        self.allowed: Counter[Any] = Counter()  # attempts besides the first: one for each death, retry and split
        self.seen: dict[Any, tuple[int, str]] = {}

    def _nothing_is_random(self) -> None:
        ids, expired = itertools.count(1), services.expired_leases
        next_id = lambda: uuid.UUID(int=next(ids))  # noqa: E731
        self.patch.setattr(Job._meta.pk, "_get_default", next_id)
        self.patch.setattr("jobs.submit.new_id", next_id)
        self.patch.setattr("jobs.services.random", SimpleNamespace(uniform=lambda low, high: high))
        self.patch.setattr(services, "expired_leases", lambda limit: sorted(expired(limit), key=lambda job: job.pk))
        self.patch.setattr("jobs.management.commands.sweep.time", SimpleNamespace(monotonic=lambda: self.world.now))
        self.patch.setattr("jobs.hints._publish", lambda texts: None)
        self.patch.setattr("jobs.sweeper.GATE.look", lambda: False)
        self.patch.setattr("jobs.publish.GATE.is_open", lambda: False)

    @initialize(count=st.integers(1, 3), claimed=st.lists(WHO, max_size=3))
    def submit(self, count: int, claimed: list[int]) -> None:
        owner = get_user_model().objects.get_or_create(username="machine")[0].pk
        self.jobs = [job.pk for job, _ in submit(owner, [Submission("digest", {})] * count)]
        self.time_passes(LONG_S)  # the sweeper has known the database for long
        for job, who in enumerate(claimed):
            self.claim(who, job, stepped=False)

    # the workers

    def _is_free(self, actor: Actor) -> bool:
        return not actor.busy and self.world.may_move(actor)

    @rule(who=WHO, job=JOB, stepped=STEPPED)
    def claim(self, who: int, job: int, stepped: bool) -> None:
        unit = self.units[who]
        if self._is_free(unit.pool):
            unit.pool.start(partial(unit.claim, self.jobs[job % len(self.jobs)], self.units), stepped)

    @precondition(lambda self: any(unit.runs for unit in self.units))
    @rule(who=WHO, how=st.sampled_from(sorted(ENDS)), stepped=STEPPED)
    def end(self, who: int, how: str, stepped: bool) -> None:
        unit = self.units[who]
        if self._is_free(unit.pool) and unit.runs:
            claim = next(iter(unit.runs.values()))
            if how == "split" and (claim.parent_id or claim.joining):
                how = "succeed"
            self.allowed[claim.id] += how in {"retry", "split"}
            unit.pool.start(partial(unit.end, claim, partial(ENDS[how], claim)), stepped)

    @precondition(lambda self: any(unit.runs or unit.between for unit in self.units))
    @rule(who=WHO)
    def die(self, who: int) -> None:
        """Another process of that name is there at once."""
        unit = self.units[who]
        if unit.pool.waits:
            return
        if unit.pool.busy:
            unit.pool.go(killed=True)
        self.allowed.update([*unit.runs, *unit.between])
        self.cut_off += unit.runs.values()
        unit.runs, unit.between = {}, []
        self.world.settle()

    @precondition(lambda self: self.cut_off)
    @rule(stepped=STEPPED)
    def come_back(self, stepped: bool) -> None:
        """Who was taken for dead was only cut off, and ends its attempt."""
        if self.cut_off and self._is_free(self.user):
            self.user.start(partial(self._end_late, self.cut_off.pop(0)), stepped)

    def _end_late(self, claim: services.Claim) -> None:
        if services.succeed(claim, {"n": 1}):
            assert Job.objects.get(pk=claim.id).attempt == claim.attempt, (
                "an end is that of the attempt that owns the job"
            )

    @rule(job=JOB, stepped=STEPPED)
    def cancel(self, job: int, stepped: bool) -> None:
        if self._is_free(self.user):
            self.user.start(partial(services.cancel, self.jobs[job % len(self.jobs)]), stepped)

    # time, the sweeper, and somebody else

    @precondition(lambda self: any(actor.stopped for actor in self.world.actors))
    @rule(which=st.integers(0, 3), statements=st.sampled_from([1, 2, 4, 100]))
    def step(self, which: int, statements: int) -> None:
        actor = [self.sweeps, self.units[0].pool, self.units[1].pool, self.user][which]
        for _ in range(statements):
            if actor.stopped and self.world.may_move(actor):
                actor.go()
                self.world.settle()

    @rule(seconds=st.sampled_from([1, 2, LONG_S]), sweeping=st.booleans())
    def time_passes(self, seconds: int, sweeping: bool = True) -> None:
        """Whoever lives renews its leases meanwhile, or tries to."""
        for _ in range(seconds):
            self.world.move(1)
            for unit in self.units:
                unit.leases.start(unit.renew)
            if sweeping:
                self.sweep(stepped=False)

    @rule(stepped=STEPPED)
    def sweep(self, stepped: bool) -> None:
        if not self.sweeps.busy:
            self.sweeps.start(self.sweeper.round, stepped)

    @rule(what=WHAT, job=JOB)
    def lock(self, what: str, job: int) -> None:
        row = f"SELECT 1 FROM jobs_job WHERE id = '{self.jobs[job % len(self.jobs)]}' FOR UPDATE"
        self.world.lock(row if what == "row" else f"LOCK TABLE {what} IN SHARE MODE")

    @precondition(lambda self: self.world.locked)
    @rule()
    def unlock(self) -> None:
        self.world.unlock()

    @rule(what=WHAT, who=WHO, job=JOB, sweeping=st.booleans(), statements=st.integers(0, 9))
    def run_into_a_lock(self, what: str, who: int, job: int, sweeping: bool, statements: int) -> None:
        """One that lasts longer than a lease, while jobs run; a sweep is half done before it, or at its end."""
        self.world.unlock()
        for one in range(len(self.jobs)):
            self.claim(who, one, stepped=False)
        if not sweeping:
            self.sweep(stepped=True)
            self.step(0, statements)
        self.lock(what, job)
        self.time_passes(LONG_S, sweeping)
        if sweeping:
            self.sweep(stepped=True)
            self.step(0, statements)
        self.world.unlock()
        self.step(0, 100)
        self.sweep(stepped=False)

    @rule(job=JOB)
    def lose_all_workers_beside_a_locked_row(self, job: int) -> None:
        """The jobs that they ran are taken back, but for the one that is locked."""
        self.world.unlock()
        for which in (0, 1, 2, 3, 1, 2):
            self.step(which, 100)
        for one in range(len(self.jobs)):
            self.claim(one % 2, one, stepped=False)
        running = [one for one, held in enumerate(self.jobs) if any(held in unit.runs for unit in self.units)]
        if len(running) < 2:
            return
        job = running[job % len(running)]
        self.lock("row", job)
        for who in range(2):
            self.die(who)
        self.time_passes(LONG_S)
        left = self.world.rows("SELECT id FROM jobs_job WHERE state = 'running' AND open_parts = 0")
        assert {row[0] for row in left} <= {self.jobs[job]}, "nobody waits for a lock of others"

    # the promise

    @invariant()
    def ledger_keeps_its_promise(self) -> None:
        self.world.check_locks()
        rows = self.world.rows("""SELECT id, state, version, attempt, parent_id, open_parts, parts_total, lease_until
            FROM jobs_job ORDER BY id""")
        self.jobs = [row[0] for row in rows]
        open_parts = Counter(parent for _, state, _, _, parent, *_ in rows if state not in TERMINAL)
        for job, state, version, attempt, _, waits_for, total, lease in rows:
            version_before, before = self.seen.get(job, (0, ""))
            assert version >= version_before, "a version only rises"
            assert before not in TERMINAL or state == before, "a job has one end"
            assert (before, state) != ("queued", "succeeded"), "who has lost a job does not end it"
            assert not total or waits_for == open_parts[job], "open_parts is true"
            assert attempt <= 1 + self.allowed[job], "an attempt is used up by a death, a retry or a split only"
            assert (lease is not None) == (state == "running" and not waits_for), "a job that runs has a lease"
            self.seen[job] = (version, state)

    def teardown(self) -> None:
        self.world.close()
        self.patch.undo()


def test_any_order_of_statements_keeps_the_promise(database_url: str, pytestconfig: pytest.Config) -> None:
    Interleavings.url = database_url
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(BEFORE)
        try:
            run_state_machine_as_test(
                Interleavings,
                settings=settings(
                    max_examples=pytestconfig.getoption("examples"),
                    stateful_step_count=40,
                    deadline=None,
                    derandomize=pytestconfig.getoption("hypothesis_seed") is None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            admin.execute(AFTER)
