"""Renews a worker's leases: one thread in each worker unit, for the jobs that Celery says are really running.

The job of a worker or a pool process that has died is not in `active_requests`, so its lease runs out and the sweeper
queues it again. What the worker's parent process learns first (a pool process died, a hard time limit) it tells the
ledger through the same thread, so that the event loop never waits for the database.
"""

import os
import queue
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from billiard.exceptions import WorkerLostError
from celery import bootsteps
from celery.worker import state
from celery.worker.request import Request
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections, connections

from fleet.records import heartbeat, leave
from jobs import services
from jobs.outages import do_not_wait_for_locks
from worker.attempt import ending, held

log = structlog.get_logger(__name__)
RETRY_S = 1.0  # after an outage of the database leases are renewed this soon, before the sweeper takes jobs back
LedgerCall = Callable[[], object]
ledger_calls: "queue.SimpleQueue[LedgerCall | None]" = queue.SimpleQueue()  # None: the worker has stopped


class Quiet:
    """Lets a process fork while its ledger thread is between two calls.

    A pool process is forked when another has died, and just then the thread gives the dead one's jobs back. Locks that
    it held at that moment (of connections, of libraries) would be taken in the new process for ever.
    """

    WAIT_S = 1.0  # an outage holds the thread up for longer: the event loop does not wait for it

    def __init__(self) -> None:
        self.calling = threading.RLock()
        self._held = False
        os.register_at_fork(before=self._hold, after_in_parent=self._release, after_in_child=self._renew)

    def _hold(self) -> None:
        self._held = self.calling.acquire(timeout=self.WAIT_S)

    def _release(self) -> None:
        if self._held:
            self.calling.release()

    def _renew(self) -> None:
        self.calling = threading.RLock()


QUIET = Quiet()


class OomKills:
    """The kernel's out-of-memory kills in this unit's cgroup; always none where there is no cgroup v2."""

    def __init__(self, folder: Path | None = None) -> None:
        self._events = (folder or self._own()) / "memory.events"
        self._count = self._read()

    @staticmethod
    def _own() -> Path:
        try:
            path = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::")[2].strip()
        except OSError:
            path = ""
        return Path("/sys/fs/cgroup") / path.lstrip("/")

    def _read(self) -> int:
        try:
            pairs = (line.split() for line in self._events.read_text(encoding="utf-8").splitlines())
            return next((int(count) for name, count in pairs if name == "oom_kill"), 0)
        except OSError:
            return 0

    def grew(self) -> bool:
        """Whether there has been one since this was last asked."""
        before, self._count = self._count, self._read()
        return self._count > before


OOM = OomKills()


def cause_of_death(text: str, out_of_memory: bool) -> str:
    """How a pool process died, from billiard's message: by a signal or with an exit code."""
    found = re.search(r"signal \d+ \((\w+)\)|exitcode (-?\d+)", text)
    how = (found[1] and f"was killed by {found[1]}") or f"ended with exit code {found[2]}" if found else "died"
    if found and found[1] == "SIGKILL":
        how += " for its memory (the kernel's oom_kill)" if out_of_memory else ", perhaps for its memory"
    return f"its pool process {how}"


class LedgerRequest(Request):  # type: ignore[misc]
    """Celery's view of one delivery, which tells the ledger what only the worker's parent process knows."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """The pool process ran into a time limit; the hard one has killed it."""
        super().on_timeout(soft, timeout)
        if not soft:
            ledger_calls.put(partial(services.overrun_on, self.hostname, uuid.UUID(self.id), timeout))

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """The pool process died (out of memory, a signal) while it ran this job."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, WorkerLostError):
            cause = cause_of_death(str(error), OOM.grew())
            ledger_calls.put(partial(services.lose_on, self.hostname, uuid.UUID(self.id), cause))
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """The job was cancelled and its pool process is being killed."""
        super().terminate(pool, signal)
        ledger_calls.put(partial(services.lose_on, self.hostname, uuid.UUID(self.id), "killed on request"))


class Ages:
    """How long ago each of Celery's requests was first seen to run, in seconds; by a clock that nobody can set."""

    def __init__(self) -> None:
        self._began: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def of(self, request: Any) -> float:
        """0 when it is seen for the first time."""
        now = time.monotonic()
        return now - self._began.setdefault(request, now)


def snapshot(requests: Any) -> list[Any]:
    """What is in one of Celery's sets, which other threads change meanwhile."""
    while True:
        try:
            return list(requests)
        except RuntimeError:  # the set was changed
            continue


def _running(ages: Ages, hard_limit: float) -> list[uuid.UUID]:
    """Jobs that this worker runs and may still run; one past its hard limit is left to the sweeper."""
    mine = [one for one in snapshot(state.active_requests) if isinstance(one, LedgerRequest)]
    live = [one.id for one in mine if one.id in ending or ages.of(one) < hard_limit + 30]
    return [uuid.UUID(job_id) for message in live for job_id in held.get(message, [message])]


class LeaseKeeper(bootsteps.StartStopStep):  # type: ignore[misc]
    """A worker bootstep: starts with the pool, stops after it."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._thread: threading.Thread | None = None

    def start(self, worker: Any) -> None:
        """Begin to renew leases, and to send the heartbeat of this worker unit."""
        if settings.ENV.lane is None:
            raise SystemExit("HEADRACE_LANE is not set: a worker must know its lane; set it to one of lanes.yml.")
        lane = settings.LANES[settings.ENV.lane]
        unit = {
            "name": worker.hostname,
            "host": socket.gethostname(),
            "lane": settings.ENV.lane,
            "pool": lane.pool,
            "concurrency": worker.concurrency if lane.pool != "solo" else 1,
        }
        self._thread = threading.Thread(target=self._run, args=(unit, lane.time_limit), name="leases", daemon=True)
        self._thread.start()

    def stop(self, worker: Any) -> None:
        """The pool has stopped: nothing is left to renew."""
        ledger_calls.put(None)
        if self._thread is not None:
            self._thread.join(timeout=5)

    terminate = stop

    def _run(self, unit: dict[str, Any], hard_limit: float) -> None:
        do_not_wait_for_locks()
        renew = partial(self._renew, unit, Ages(), hard_limit)
        due = time.monotonic()
        call: LedgerCall | None = renew
        while call is not None:
            done = _try(call)
            if call is renew:
                due = time.monotonic() + (settings.ENV.renew_s if done else RETRY_S)
            try:
                call = ledger_calls.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                call = renew
        _try(partial(leave, unit["name"]))
        connections.close_all()

    def _renew(self, unit: dict[str, Any], ages: Ages, hard_limit: float) -> None:
        """Say what runs here in two tables, so that a lock on one of them is not taken for silence."""
        running = _running(ages, hard_limit)
        values = {**unit, "running": len(running), "holds": list(map(str, running))}
        seen = _try(partial(heartbeat, unit["name"], values))
        services.renew(unit["name"], running)
        if not seen:
            raise DatabaseError("the heartbeat did not get through")


def _try(call: LedgerCall) -> bool:
    try:
        with QUIET.calling:
            call()
    except DatabaseError as error:
        log.warning("the database did not take it: leases may run out", error=str(error))
        close_old_connections()
        return False
    return True
