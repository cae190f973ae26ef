"""Sweeps up after what dies: expired leases, jobs that are due, jobs that the broker has lost.

Any number of sweepers may run; the `Leader` row lets one work. If two ever did at once, nothing would be lost or
doubled: each step is a conditional UPDATE, and a second message for a job is dropped by its claim.
"""

import json
from datetime import UTC, datetime
from typing import Any

import structlog
from django.conf import settings
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from config.celery import app, queues_of
from jobs import services

log = structlog.get_logger(__name__)
BATCH = 500


def sweep() -> dict[str, int]:
    """One round; how many jobs each step moved."""
    moved = {"lost": _take_from_the_dead(), "due": _publish_due()}
    try:
        moved["overtaken"] = _publish_overtaken()
    except (OperationalError, OSError, RedisError) as error:
        log.warning("broker out of reach, queued jobs wait in the ledger", error=str(error))
    if any(moved.values()):
        log.info("swept", **moved)
    return moved


def _take_from_the_dead() -> int:
    return sum(services.lose(job, f"no sign of life from {job.worker}") for job in services.expired_leases(BATCH))


def _publish_due() -> int:
    ids = services.due(BATCH)
    return len(ids) if ids and services.publish_again(ids) else 0


def _publish_overtaken() -> int:
    again: list[Any] = []
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=0, timeout=1)
        channel = connection.default_channel
        bind_queues(channel)
        for name, lane in settings.LANES.lanes.items():
            for queue in lane.queues:
                empty, head = _head(channel, queue)
                if empty or head:
                    again += services.overtaken(name, head, BATCH)
    return len(again) if again and services.publish_again(again) else 0


def _head(channel: Any, queue: str) -> tuple[bool, datetime | None]:
    """Whether the queue is empty, and when its next message was published (None: it is no job's)."""
    with channel.conn_or_acquire() as client:
        raw = client.lindex(queue, -1)
    if raw is None:
        return True, None
    at = json.loads(raw).get("headers", {}).get("published_at")
    return False, datetime.fromtimestamp(at, UTC) if at else None


def bind_queues(channel: Any) -> None:
    """Done every round: a wiped broker forgot its bindings and drops what it cannot route; nobody else notices."""
    for queue in queues_of(settings.LANES):
        queue(channel).declare()
