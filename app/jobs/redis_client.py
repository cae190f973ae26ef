"""The Redis clients that we use beside Celery's own. They try each call once.

redis-py would try it four times: 15 s were measured with a broker that hangs, and whoever calls would wait as long. A
subscriber must know of each reconnect, because what is published in between does not reach it.
"""

import os
from functools import cache

import redis
import redis.asyncio
import redis.asyncio.retry
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry


def client(timeout_s: float) -> redis.Redis:
    """The broker; every call raises RedisError after `timeout_s` to connect, or as long again without an answer."""
    return _client(timeout_s, os.getpid())


@cache
def _client(timeout_s: float, _pid: int) -> redis.Redis:
    """Each process has its own. A pool process that was forked while another thread of its worker used the client would
    find the lock of its connections taken, for ever: redis-py sees that it was forked, but keeps the lock.
    """
    limits = {"socket_connect_timeout": timeout_s, "socket_timeout": timeout_s}
    return redis.Redis.from_url(settings.ENV.broker_url, retry=Retry(NoBackoff(), 0), **limits)


def subscriber(connect_timeout_s: float) -> redis.asyncio.Redis:
    """The broker for asyncio; it may be silent for as long as it likes, so the caller must ping it."""
    never = redis.asyncio.retry.Retry(NoBackoff(), 0)
    return redis.asyncio.Redis.from_url(settings.ENV.broker_url, socket_connect_timeout=connect_timeout_s, retry=never)
