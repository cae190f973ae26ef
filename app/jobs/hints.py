"""Hints: whoever changes a job publishes its id on one Redis channel.

No change is missed when a hint is lost: push/watcher.py also asks the database every few seconds.
"""

import time
import uuid

import redis
import structlog

from jobs.redis_client import client

CHANNEL = "headrace:jobs"
SKIP_S = 5.0  # after a failed hint none is sent for this long: a broker that hangs must not slow the work down

log = structlog.get_logger(__name__)
_skip_until = 0.0


def tell(job_id: uuid.UUID) -> None:
    """Publish that a job has changed; a broker that is down is no error."""
    global _skip_until  # noqa: PLW0603  (a breaker is state of the process)
    if time.monotonic() < _skip_until:
        return
    try:
        client(timeout_s=1).publish(CHANNEL, str(job_id))
    except redis.RedisError as error:
        _skip_until = time.monotonic() + SKIP_S
        log.warning("hint not sent: clients learn of the change by polling", job=str(job_id), error=str(error))
