"""How the broker is. One that fills up gets nothing more before it is full: the jobs wait in the ledger meanwhile.

At its memory limit Redis refuses writes, and workers write too, to record what they have taken: one that is full can
no longer be emptied. So publishing stops well before that, and goes on when there is room again.
"""

import time
from functools import cache

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

ANSWER_S = 0.4  # to connect, and again to answer
FULL, ROOM = 0.8, 0.7  # of its memory: publishing stops above the one, and goes on below the other
SEEN_FOR_S = 0.5
QUIET_S = 2.0  # one that does not answer is left alone for this long: asking takes time, and submits wait for it

log = structlog.get_logger(__name__)


@cache
def _client() -> redis.Redis:
    once = Retry(NoBackoff(), 0)
    limits = {"socket_connect_timeout": ANSWER_S, "socket_timeout": ANSWER_S}
    return redis.Redis.from_url(settings.ENV.broker_url, retry=once, **limits)


def memory() -> float:
    """The share of its memory that the broker uses; 0 if it has no limit.

    Raises:
        RedisError: it does not answer.
    """
    found = _client().info("memory")
    return float(found["used_memory"] / found["maxmemory"]) if found["maxmemory"] else 0.0


class Gate:
    """Whether jobs may be published now, as this process sees it."""

    def __init__(self) -> None:
        self.full = False
        self._open = True
        self._until = float("-inf")

    def is_open(self) -> bool:
        """As seen a moment ago."""
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + SEEN_FOR_S  # other threads go by what was seen before
            self.look()
        return self._open

    def look(self) -> bool:
        """As it is now."""
        try:
            self._measure(memory())
        except redis.RedisError as error:
            log.warning("broker out of reach, jobs wait in the ledger", error=str(error))
            self._open, self._until = False, time.monotonic() + QUIET_S
        else:
            self._open, self._until = not self.full, time.monotonic() + SEEN_FOR_S
        return self._open

    def _measure(self, share: float) -> None:
        full = share > (ROOM if self.full else FULL)
        if full != self.full:
            what = "broker nearly full, jobs wait in the ledger" if full else "broker has room again"
            log.warning(what, memory=round(share, 2))
        self.full = full


GATE = Gate()
