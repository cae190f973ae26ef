"""Sweeps up after what dies: expired leases, jobs that are due, jobs that the broker has lost.

Any number of sweepers may run; the `Leader` row lets one work. If two ever did at once, nothing would be lost or
doubled: each step is a conditional UPDATE, and a second message for a job is dropped by its claim.
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


def sweep(spare_the_silent: bool = False) -> dict[str, int]:
    """One round; how many jobs each step moved. The broker comes last: one that hangs holds up nothing before it."""
    began = time.monotonic()
    moved = {"lost": 0 if spare_the_silent else _take_from_the_dead()}
    if GATE.look():
        _publish(moved)
    swept(time.monotonic() - began, **moved)
    if any(moved.values()):
        log.info("swept", **moved)
    return moved


def _take_from_the_dead() -> int:
    return sum(services.lose(job, _silence(job)) for job in services.expired_leases(BATCH))


def _silence(job: Any) -> str:
    """Why a lease has run out, as far as the ledger knows: a worker stops renewing what is past its time limit."""
    seen = job.lease_until - timedelta(seconds=settings.ENV.lease_s)
    limit = settings.LANES[job.lane].time_limit
    if not job.joining and (seen - job.started_at).total_seconds() > limit:
        return f"it ran longer than its lane allows ({limit} s) and could not be stopped"
    return f"no sign of life for {(job.now - seen).total_seconds():.0f} s, its process or its host died"


def _publish(moved: dict[str, int]) -> None:
    try:
        moved["due"] = _again(services.due(BATCH))
        moved["overtaken"] = _again(_overtaken())
    except (OperationalError, OSError, RedisError) as error:
        log.warning("broker out of reach, queued jobs wait in the ledger", error=str(error))


def _again(ids: list[Any]) -> int:
    return len(ids) if ids and services.publish_again(ids) else 0


def _overtaken() -> list[Any]:
    again: list[Any] = []
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=0, timeout=1)
        channel = connection.default_channel
        bind_queues(channel)  # in every round: a broker that was wiped has forgotten them, and nobody else notices
        for name, lane in settings.LANES.lanes.items():
            for queue in lane.queues:
                empty, head = _head(channel, queue)
                if empty or head:
                    again += services.overtaken(name, head, BATCH - len(again), _kinds_of(name, queue))
    return again


def _kinds_of(lane: str, queue: str) -> list[str] | None:
    """The kinds whose jobs go through this queue of the lane; None: all of them."""
    if len(settings.LANES[lane].queues) == 1:
        return None
    return [kind for kind in kinds.ALL if (lane, queue) in bound_to(settings.LANES, f"{lane}.{kind}")]


def _head(channel: Any, queue: str) -> tuple[bool, datetime | None]:
    """Whether the queue is empty, and when its next message was published (None: it is no job's)."""
    with channel.conn_or_acquire() as client:
        raw = client.lindex(queue, -1)
    if raw is None:
        return True, None
    at = json.loads(raw).get("headers", {}).get("published_at")
    return False, datetime.fromtimestamp(at, UTC) if at else None
