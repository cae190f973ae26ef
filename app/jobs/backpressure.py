"""Stops publishing before the broker is full; jobs wait in the ledger meanwhile.

At its memory limit Redis refuses every write, those of workers too, which record what they have taken: a full broker
cannot be emptied. So publishing stops well below the limit, and goes on when there is room again.
"""

import time

import redis
import structlog

from jobs.redis_client import client

ANSWER_S = 0.4  # to connect, and again to answer
FULL, ROOM = 0.8, 0.7  # shares of the broker's memory: publishing stops above the one, and goes on below the other
SEEN_FOR_S = 0.5
PROBE = "headrace.probe"  # a key that is written to see whether it may be
RECHECK_S = 2.0  # a broker that did not answer is asked again after this long: a submit waits while it is asked

log = structlog.get_logger(__name__)


class RefusesWrites(redis.RedisError):
    """It answers, but takes nothing: its replicas are away, it is a replica itself, or it cannot write its disk."""


def memory() -> float:
    """The share of its memory that the broker uses; 0 if it has no limit.

    Raises:
        RefusesWrites: it would not take a message.
        RedisError: it does not answer.
    """
    with client(ANSWER_S).pipeline(transaction=False) as pipe:
        pipe.info("memory")
        pipe.set(PROBE, 1, ex=60)
        found, written = pipe.execute(raise_on_error=False)
    if isinstance(found, redis.RedisError):
        raise found
    if isinstance(written, redis.ResponseError) and not isinstance(written, redis.exceptions.OutOfMemoryError):
        raise RefusesWrites(f"the broker refuses writes: {written}")
    return float(found["used_memory"] / found["maxmemory"]) if found["maxmemory"] else 0.0


def state() -> tuple[str, float]:
    """The broker in a word or two, and the share of its memory that it uses."""
    try:
        share = memory()
    except RefusesWrites:
        return "refuses writes", 0
    except redis.RedisError:
        return "down", 0
    return "full" if share > FULL else "ok", share


class Gate:
    """Whether jobs may be published now, as this process sees it."""

    def __init__(self) -> None:
        self.full = False
        self._open = True
        self._until = float("-inf")

    def is_open(self) -> bool:
        """As seen at most SEEN_FOR_S seconds ago (RECHECK_S, if the broker did not answer)."""
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + SEEN_FOR_S  # meanwhile other threads use the last answer
            self.look()
        return self._open

    def look(self) -> bool:
        """As it is now: asks the broker."""
        try:
            self._measure(memory())
        except redis.RedisError as error:
            log.warning("broker out of reach: jobs wait in the ledger until it answers", error=str(error))
            self._open, self._until = False, time.monotonic() + RECHECK_S
        else:
            self._open, self._until = not self.full, time.monotonic() + SEEN_FOR_S
        return self._open

    def _measure(self, share: float) -> None:
        full = share > (ROOM if self.full else FULL)
        if full != self.full:
            nearly_full = "broker nearly full: jobs wait in the ledger until it has room"
            log.warning(nearly_full if full else "broker has room: publishing goes on", memory=round(share, 2))
        self.full = full


GATE = Gate()
