"""Hands jobs to Celery. A job that cannot be published waits in the ledger; the sweeper publishes it later."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

import kinds
from config.celery import app, bindings, bound_to
from jobs.backpressure import GATE
from jobs.models import Job, State, unlocked

log = structlog.get_logger(__name__)
TASK = "jobs.run"
SCHEMA = 1  # of its message: the ids of some jobs. A worker leaves one that it does not know to another release's
SPREAD = 16  # messages, at least, that short jobs are spread over: workers share them


@cache
def route(lane: str, name: str) -> dict[str, str]:
    """Where Celery sends a message: a routing key, and the queue that the lane table binds it to.

    Naming the queue makes Celery declare it and its binding, so a message sent before any worker came is kept.

    Raises:
        ImproperlyConfigured: no queue of the lane is bound to the key, or another lane's is as well.
    """
    key = f"{lane}.{name}"
    found = bound_to(settings.LANES, key)
    if [of for of, _ in found] != [lane]:
        bound = f"bound in the lanes {', '.join(of for of, _ in found)}" if found else "bound by no lane"
        raise ImproperlyConfigured(
            f"The routing key {key!r} is {bound}; it needs exactly one binding, in the lane {lane!r}: "
            "mend app/config/lanes.yml, or the lane that the kind names."
        )
    return {"queue": found[0][1], "routing_key": key}


def publish(jobs: Sequence[Job]) -> bool:
    """Publish queued jobs; False, and marked as unpublished, when the broker cannot take them.

    A message has its job's id, or its first job's, as task_id.

    Duplicates do no harm: only one claim of a job succeeds.
    """
    if not jobs:
        return True
    if not GATE.is_open():
        mark_unpublished(job.pk for job in jobs)
        return False
    try:
        with app.producer_pool.acquire(block=True, timeout=1) as producer, _bindings(producer), producer.batch():
            for together in _messages(jobs):
                _send(together, producer)
    except (KombuError, OSError, RedisError) as error:  # not all that redis-py raises is wrapped by Kombu
        log.warning("jobs not published: the sweeper will publish them", jobs=len(jobs), error=str(error))
        mark_unpublished(job.pk for job in jobs)
        return False
    return True


@contextmanager
def _bindings(producer: Any) -> Iterator[None]:
    """Has the bindings from the lane table. Kombu would ask Redis for them before each message; and where Redis was
    wiped, and has forgotten them, it would drop what it cannot route.
    """
    channel, table = producer.channel, bindings(settings.LANES)
    channel.get_table = lambda _exchange: table
    if not hasattr(channel.Client, "cache_info"):  # Kombu makes one for each batch: a tenth of a submit's time
        channel.Client = lru_cache(1)(channel.Client)
    try:
        yield
    finally:
        del channel.get_table


def _messages(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """What travels together: short jobs that nobody has tried, if there are enough for several workers."""
    short: defaultdict[tuple[str, str], list[Job]] = defaultdict(list)
    for job in jobs:
        kind = kinds.ALL.get(job.kind)
        if kind and kind.short and not job.attempt:
            short[job.lane, job.kind].append(job)
        else:
            yield [job]
    for (lane, _), some in short.items():
        size = max(1, min(settings.LANES[lane].chunk, len(some) // SPREAD))
        yield from (some[at : at + size] for at in range(0, len(some), size))


def _send(jobs: Sequence[Job], producer: object) -> None:
    job = jobs[0]
    at = job.published_at.timestamp() if job.published_at else None
    ids = [str(one.pk) for one in jobs]
    app.send_task(
        TASK,
        ids,
        task_id=ids[0],
        producer=producer,
        retry=False,
        ignore_result=True,
        argsrepr=f"('{job.pk}',)",  # Celery would take its time to find out
        kwargsrepr="{}",
        headers={"schema": SCHEMA, "published_at": at},  # queues are first in, first out: the sweeper sees who waits
        **route(job.lane, job.kind),
    )


def mark_unpublished(ids: Iterable[uuid.UUID]) -> None:
    """Leave these queued jobs to the next round of the sweeper."""
    with transaction.atomic():
        unlocked(Job.objects.filter(pk__in=list(ids), state=State.QUEUED)).update(published_at=None)
