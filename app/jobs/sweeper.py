"""Recovers jobs: from workers that died, and from a broker that lost their messages; and publishes those that are due.

Any number of sweepers may run; one leads and works. If two ever worked at once, no job would be lost or run twice: each
step is a conditional UPDATE, and a second message for a job is dropped when its claim fails.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

import kinds
from config.celery import app, bound_to
from fleet.history import count_ended
from fleet.records import swept
from jobs import services
from jobs.backpressure import GATE
from jobs.outages import lock_timed_out
from jobs.services import Death

log = structlog.get_logger(__name__)
PATIENCE = timedelta(seconds=4 * settings.ENV.lease_s)  # in a deployment another host may know a lane before this one
MOST_LOCKED = 5  # so many locked jobs mean that the whole table is locked
BATCH = 1000  # jobs that a step moves in a round; a round that leaves more to do is followed by the next one at once


def sweep(
    trusted_s: Callable[[], float] = lambda: float("inf"),
    had_outage: bool = False,
    orphans: bool = True,
    counts: bool = True,
) -> dict[str, int]:
    """One round; how many jobs each step moved.

    `trusted_s`: for how many seconds the database has answered everybody at once, as of now; `had_outage`: before that
    it did not; `orphans`: look for jobs that no lane runs, which reads the whole backlog; `counts`: count for the fleet
    page what has ended. The steps that need the broker come last, so that a broker that hangs delays no other step.
    """
    began = time.monotonic()
    moved = {"lost": _take_back(trusted_s, had_outage)}
    if orphans:
        _end_orphans()
    if GATE.look():
        _publish(moved)
    swept(time.monotonic() - began, **moved)
    if counts:
        count_ended()
    if any(moved.values()):
        log.info("jobs recovered or published", **moved)
    return moved


def _take_back(trusted_s: Callable[[], float], had_outage: bool) -> int:
    """From workers whose leases have run out. Whoever lives has renewed its own within a lease of the last outage."""
    found = services.expired_leases(BATCH) if trusted_s() >= settings.ENV.lease_s else []
    if trusted_s() < settings.ENV.lease_s:  # even that statement waited
        return 0
    outage_ended_s = trusted_s() if had_outage else float("inf")
    together = Counter(job.worker for job in found if job.worker)
    return _each(found, lambda job: _take(job, together[job.worker] > 1, outage_ended_s))


def _each(found: list[Any], do: Callable[[Any], bool]) -> int:
    """Do it for each job; how many it moved. One that somebody has locked (it, or its parent) is left out."""
    moved = 0
    locked: set[Any] = set()
    for job in found:
        if job.parent_id not in locked:
            try:
                moved += do(job)
            except DatabaseError as error:
                if not lock_timed_out(error) or len(locked) == MOST_LOCKED:
                    raise
                locked.add(job.parent_id or job.pk)
    return moved


def _take(job: Any, together: bool, outage_ended_s: float) -> bool:
    silent_s = _silent_s(job)
    if job.lane not in settings.LANES.lanes:
        is_late = silent_s > PATIENCE.total_seconds()
        return is_late and services.give_up(job, _orphaned(job), services.not_held_up(job))
    cause, death = f"no sign of life for {silent_s:.0f} s, its process or its host died", Death.ALONE
    if job.lease_until is None:
        cause = "no worker held it, and it waited for no parts"
    elif silent_s - settings.ENV.lease_s > outage_ended_s:
        death = Death.OUTAGE
    elif _overran(job, silent_s):
        limit = settings.LANES[job.lane].time_limit
        cause = f"it ran longer than its lane allows ({limit} s) and could not be stopped"
    elif together:
        death = Death.SHARED
    return services.lose(job, cause, death, services.not_held_up(job))


def _silent_s(job: Any) -> float:
    """How long ago its worker was last heard of; without a lease, how long ago it started."""
    seen = job.lease_until - timedelta(seconds=settings.ENV.lease_s) if job.lease_until else job.started_at
    return float((job.now - seen).total_seconds())


def _overran(job: Any, silent_s: float) -> bool:
    """A worker does not renew what is past its time limit."""
    ran_s = (job.now - job.started_at).total_seconds() - silent_s
    return not job.joining and ran_s > settings.LANES[job.lane].time_limit


def _orphaned(job: Any) -> str:
    gone = f"kind {job.kind}" if job.lane in settings.LANES.lanes else f"lane {job.lane}"
    return f"Gave up: there is no {gone} any more, so no worker runs this job."


def _end_orphans() -> None:
    _each(services.orphans(BATCH, PATIENCE), lambda job: services.give_up(job, _orphaned(job)))


def _publish(moved: dict[str, int]) -> None:
    try:
        queued = services.is_any_queued()
        moved["due"] = _publish_now(services.due(BATCH)) if queued else 0
        moved["overtaken"] = _publish_now(_overtaken()) if queued else 0
    except (OperationalError, OSError, RedisError) as error:
        log.warning("broker out of reach: queued jobs wait in the ledger until it answers", error=str(error))


def _publish_now(ids: list[Any]) -> int:
    return len(ids) if ids and services.publish_now(ids) else 0


def _overtaken() -> list[Any]:
    """Only lanes in which a job has waited for a while are looked at in the broker."""
    found: list[Any] = []
    lanes = services.lanes_that_wait()
    if not lanes:
        return found
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=0, timeout=1)
        channel = connection.default_channel
        for name in lanes:
            for queue in settings.LANES[name].queues:
                empty, head = _head(channel, queue)
                if empty or head:
                    found += services.overtaken(name, head, BATCH - len(found), _kinds_of(name, queue))
    return found


def _kinds_of(lane: str, queue: str) -> list[str] | None:
    """The kinds whose jobs go through this queue of the lane; None: all of them."""
    if len(settings.LANES[lane].queues) == 1:
        return None
    return [kind for kind in kinds.ALL if (lane, queue) in bound_to(settings.LANES, f"{lane}.{kind}")]


def _head(channel: Any, queue: str) -> tuple[bool, datetime | None]:
    """Whether the queue is empty, and when its next message was published (None: not known, it is not a job's)."""
    with channel.conn_or_acquire() as client:
        raw = client.lindex(queue, -1)
    if raw is None:
        return True, None
    at = json.loads(raw).get("headers", {}).get("published_at")
    return False, datetime.fromtimestamp(at, UTC) if at else None
