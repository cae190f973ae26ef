"""Hints: whoever changes a job publishes what it is now on one Redis channel, so that push need not read it.

A hint is up to three lines. The first is `schema id owner version finished part`; the second is what of the job changes
(`schemas.changing`), and is missing where it is long; the third is what never changes, and is sent of new jobs only.
Who follows and is told no more than the id reads the row. No change is missed when a hint is lost: push/watcher.py also
asks the database every few seconds. Of the last release's hints, which were an id, the same is true.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import redis
import structlog

from jobs.models import Job
from jobs.redis_client import client
from jobs.schemas import changing, lasting

CHANNEL = "headrace:jobs"
SCHEMA = 1
LONG = 8000  # characters; what is longer is read from the ledger by who follows it
MANY = 20  # of so many new jobs only their owner is told
SOON_S = 0.02
SKIP_S = 5.0  # after a failed hint none is sent for this long: a broker that hangs must not slow the work down
COLUMNS = (
    "id",
    "owner_id",
    "parent_id",
    "state",
    "version",
    "attempt",
    "max_attempts",
    "cancel_requested",
    "worker",
    "pool",
    "progress",
    "note",
    "error",
    "parts_total",
    "open_parts",
    "created_at",
    "run_after",
    "started_at",
    "finished_at",
    "notified_at",
)


@dataclass(frozen=True, slots=True)
class Hint:
    """A hint that was received. Without an id: the owner has many new jobs. None is what it does not say."""

    id: uuid.UUID | None
    owner: int | None = None
    version: int = 0
    finished: bool = False
    part: bool = False
    changing: str | None = None
    lasting: str | None = None


def read(data: bytes) -> Hint | None:
    """What a hint says, of another schema its first line only; None for what we cannot read."""
    try:
        first, *texts = data.decode().split("\n")
        schema, *words = first.split()
        if not words:
            return Hint(uuid.UUID(schema))
        job_id, owner, version, finished, part, *_ = words
        told = (int(owner), int(version), finished == "1", part == "1")
        known = int(schema) == SCHEMA
        return Hint(None if job_id == "-" else uuid.UUID(job_id), *told, *(texts[:2] if known else ()))
    except ValueError:
        return None


log = structlog.get_logger(__name__)
_skip_until = 0.0


def tell(*jobs: Job) -> None:
    """Publish a change of each job, of which COLUMNS are known, and the result if it has one."""
    for job in jobs:
        SOON.forget(job.pk)
    _publish([_hint(job) for job in jobs])


class Soon:
    """Publishes changes after SOON_S: of a job that has changed again by then, which is most short ones, one hint less.

    Its thread starts with the first change, in the process that uses it: pool processes are forked.
    """

    def __init__(self) -> None:
        self._jobs: dict[uuid.UUID, Job] = {}
        self._some = threading.Event()
        self._pid = 0

    def tell(self, job: Job) -> None:
        """Publish this change, unless `forget` comes first."""
        self._jobs[job.pk] = job
        if self._pid != os.getpid():
            self._pid, self._some = os.getpid(), threading.Event()
            threading.Thread(target=self._run, args=(self._some,), name="hints", daemon=True).start()
        self._some.set()

    def forget(self, job_id: uuid.UUID) -> None:
        self._jobs.pop(job_id, None)

    def _run(self, some: threading.Event) -> None:
        while some.wait():
            some.clear()
            time.sleep(SOON_S)
            taken = [job for job_id in list(self._jobs) if (job := self._jobs.pop(job_id, None))]
            if taken:
                _publish([_hint(job) for job in taken])


def tell_of_new(jobs: Sequence[Job]) -> None:
    """Publish that there are new jobs, all of one owner."""
    many = [f"{SCHEMA} - {job.owner_id} 0 0 0" for job in jobs[:1]]
    _publish([_hint(job, new=True) for job in jobs] if len(jobs) <= MANY else many)


def _hint(job: Job, new: bool = False) -> str:
    first = f"{SCHEMA} {job.pk} {job.owner_id} {job.version} {job.finished:d} {job.parent_id is not None:d}"
    texts = [json.dumps(changing(job)), *([json.dumps(lasting(job))] if new else [])]
    return "\n".join([first, *texts]) if sum(map(len, texts)) <= LONG else first


def _publish(texts: Sequence[str]) -> None:
    """A broker that is down is no error."""
    global _skip_until  # noqa: PLW0603  (a breaker is state of the process)
    if time.monotonic() < _skip_until:
        return
    try:
        if not texts:
            return
        if len(texts) == 1:
            client(timeout_s=1).publish(CHANNEL, texts[0])
            return
        with client(timeout_s=1).pipeline(transaction=False) as pipe:
            for text in texts:
                pipe.publish(CHANNEL, text)
            pipe.execute()
    except redis.RedisError as error:
        _skip_until = time.monotonic() + SKIP_S
        log.warning("hints not sent: clients learn of changes by polling", count=len(texts), error=str(error))


SOON = Soon()
