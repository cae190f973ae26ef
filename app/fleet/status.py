"""The lanes and the sweepers as they are now: what the fleet page, the API and the metrics show."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, Min
from django.db.models.functions import Now
from django.utils import timezone

from fleet import history
from fleet.models import Sweeps, Worker
from jobs.leader import SWEEPER
from jobs.models import DUE_AT, OPEN, Job, Leader, State, runnable

GONE_AFTER_S = 20.0  # a worker without a heartbeat for this long is not shown
THROUGHPUT_MINUTES = 5
SEEN_FOR_S = 1.0  # each process asks the ledger at most this often, however many look
TIMEOUT_MS = 5000
Waiting = dict[tuple[str, str], dict[str, Any]]


def workers() -> list[Worker]:
    """The worker units that are alive."""
    return list(Worker.objects.filter(seen_at__gte=Now() - timedelta(seconds=GONE_AFTER_S)))


@dataclass(frozen=True)
class Sweeping:
    """What the sweepers have done so far, who leads, and how long ago the last round was."""

    done: Sweeps
    leader: str
    ago_s: float | None


def sweeping() -> Sweeping:
    """The sweepers now."""
    found = Sweeps.objects.annotate(now=Now()).filter(pk=1).first()
    leader = Leader.objects.filter(role=SWEEPER, until__gte=Now()).values_list("holder", flat=True).first()
    ago = (found.now - found.swept_at).total_seconds() if found and found.swept_at else None
    return Sweeping(found or Sweeps(), leader or "", ago)


@dataclass(frozen=True)
class LaneStatus:
    """One lane now. Ages and targets in seconds; `finished_per_minute` is over the last THROUGHPUT_MINUTES and
    the one that goes on."""

    name: str
    pool: str
    queued: int
    running: int
    oldest_queued_s: float | None
    latency_target_s: float
    max_backlog: int
    finished_per_minute: float
    failed_per_minute: float
    slots: int
    workers: list[Worker]


_seen: tuple[float, list[LaneStatus] | None] = (0.0, None)


def lanes() -> list[LaneStatus]:
    """Every lane of the table, whether a worker serves it or not, as it was at most SEEN_FOR_S seconds ago."""
    global _seen  # noqa: PLW0603  (a cache of the process)
    at, last = _seen
    if last is not None and time.monotonic() - at < SEEN_FOR_S:
        return last
    _seen = (time.monotonic(), last)  # meanwhile others use the last answer
    try:
        with briefly():
            now = _lanes()
    except BaseException:
        _seen = (at, None)  # nobody takes what was before an outage for what is
        raise
    _seen = (time.monotonic(), now)
    return now


@contextmanager
def briefly() -> Iterator[None]:
    """Questions that no viewer is worth waiting longer for; DatabaseError where one takes more than TIMEOUT_MS."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(TIMEOUT_MS)])
        yield


def _lanes() -> list[LaneStatus]:
    alive = workers()
    waiting, minutes = _waiting(), history.per_minute()
    return [
        _status(name, [w for w in alive if w.lane == name], waiting, minutes[name]) for name in settings.LANES.lanes
    ]


def _waiting() -> Waiting:
    """Open jobs by lane and state, without those that are not due yet and parents that wait for their parts."""
    found: Waiting = {}
    for state in OPEN:  # one after the other, as each has an index, and finished jobs are in neither
        rows = runnable(Job.objects.filter(state=state, open_parts=0))
        for row in rows.values("lane").annotate(count=Count("id"), oldest=Min(DUE_AT), now=Now()):
            found[row["lane"], state] = dict(row)
    return found


def _status(name: str, alive: list[Worker], waiting: Waiting, minutes: list[history.Minute]) -> LaneStatus:
    lane = settings.LANES[name]
    queued = waiting.get((name, State.QUEUED), {})
    recent = minutes[-1 - THROUGHPUT_MINUTES :]
    passed = (timezone.now() - recent[0].start).total_seconds() / 60
    age = (queued["now"] - queued["oldest"]).total_seconds() if queued else None
    return LaneStatus(
        name=name,
        pool=lane.pool,
        queued=queued.get("count", 0),
        running=waiting.get((name, State.RUNNING), {}).get("count", 0),
        oldest_queued_s=max(0.0, age) if age is not None else None,
        latency_target_s=lane.latency_target_s,
        max_backlog=lane.max_backlog,
        finished_per_minute=round(sum(minute.ended for minute in recent) / passed, 1),
        failed_per_minute=round(sum(minute.failed for minute in recent) / passed, 1),
        slots=sum(worker.concurrency for worker in alive),
        workers=alive,
    )
