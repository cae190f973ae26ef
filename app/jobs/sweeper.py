"""Recovers jobs: from workers that died, and from a broker that lost their messages; and publishes those that are due.

Any number of sweepers may run; one leads and works. If two ever worked at once, no job would be lost or run twice: each
step is a conditional UPDATE, and a second message for a job is dropped when its claim fails.
"""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

import kinds
from config.celery import app, bound_to
from fleet.records import swept
from jobs import services
from jobs.backpressure import GATE
from jobs.publish import bind_queues

log = structlog.get_logger(__name__)
BATCH = 1000  # jobs that a step moves in a round; a round that leaves more to do is followed by the next one at once


def sweep(take_back: bool = True) -> dict[str, int]:
    """One round; how many jobs each step moved. `take_back`: from workers whose leases have run out.

    The steps that need the broker come last, so that a broker that hangs delays no other step.
    """
    began = time.monotonic()
    moved = {"lost": _take_back() if take_back else 0}
    if GATE.look():
        _publish(moved)
    swept(time.monotonic() - began, **moved)
    if any(moved.values()):
        log.info("jobs recovered or published", **moved)
    return moved


def _take_back() -> int:
    return sum(services.lose(job, _why_lost(job)) for job in services.expired_leases(BATCH))


def _why_lost(job: Any) -> str:
    """Why a lease has run out, as far as the ledger knows; a worker does not renew what is past its time limit."""
    seen = job.lease_until - timedelta(seconds=settings.ENV.lease_s)
    limit = settings.LANES[job.lane].time_limit
    if not job.joining and (seen - job.started_at).total_seconds() > limit:
        return f"it ran longer than its lane allows ({limit} s) and could not be stopped"
    return f"no sign of life for {(job.now - seen).total_seconds():.0f} s, its process or its host died"


def _publish(moved: dict[str, int]) -> None:
    try:
        moved["due"] = _publish_now(services.due(BATCH))
        moved["overtaken"] = _publish_now(_overtaken())
    except (OperationalError, OSError, RedisError) as error:
        log.warning("broker out of reach: queued jobs wait in the ledger until it answers", error=str(error))


def _publish_now(ids: list[Any]) -> int:
    return len(ids) if ids and services.publish_now(ids) else 0


def _overtaken() -> list[Any]:
    found: list[Any] = []
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=0, timeout=1)
        channel = connection.default_channel
        bind_queues(channel)  # in every round: a broker that was wiped has forgotten them, and nobody else notices
        for name, lane in settings.LANES.lanes.items():
            for queue in lane.queues:
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
