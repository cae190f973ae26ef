"""Hints: one Redis channel on which whoever changes a job says its id. Losing one loses nothing: see push.py."""

import time
import uuid
from functools import cache

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

CHANNEL = "headrace:jobs"
QUIET_S = 5.0  # after a failed hint, say nothing for this long: a hung broker must not slow the work down

log = structlog.get_logger(__name__)
_quiet_until = 0.0


@cache
def _client() -> redis.Redis:
    once = Retry(NoBackoff(), 0)  # redis-py's default tries four times: 15 s measured with a broker that hangs
    return redis.Redis.from_url(settings.ENV.broker_url, socket_timeout=1, socket_connect_timeout=1, retry=once)


def tell(job_id: uuid.UUID) -> None:
    """Say that a job has changed; a broker that is down is no error."""
    global _quiet_until  # noqa: PLW0603  (a breaker is state of the process)
    if time.monotonic() < _quiet_until:
        return
    try:
        _client().publish(CHANNEL, str(job_id))
    except redis.RedisError as error:
        _quiet_until = time.monotonic() + QUIET_S
        log.warning("hint not sent", job=str(job_id), error=str(error))
