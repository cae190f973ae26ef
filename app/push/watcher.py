"""Follows jobs for the clients of a push process, with one Redis subscription and at most one read at a time for all.

A hint (jobs/hints.py) wakes the watches of a job, and its row is read. A hint may be lost, so every POLL_S seconds one
query over all watched jobs wakes those whose version has grown: with Redis down a change comes late, but is not missed.
"""

import asyncio
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import Error as DatabaseError

from jobs.hints import CHANNEL
from jobs.models import Job
from jobs.redis_client import subscriber
from jobs.schemas import with_artifacts
from push.identity import Identity, signed_out

log = structlog.get_logger(__name__)
POLL_S = 2.0
KEEPALIVE_S = 20.0  # a client is sent something at least this often: proxies cut connections after 60 s of silence
PING_S = 5.0  # Redis is pinged after this long without a message; after as long again the connection is given up
AT_ONCE = 100  # jobs that are read by one query
PAUSES_S = (0.1, 5.0)  # the first one and the longest


class UnknownJob(Exception):
    """There is no such job, or it is somebody else's: the two look the same."""


class SignedOut(Exception):
    """Whoever follows may not any more."""


class TooMany(Exception):
    """The user follows as many jobs through this process as one may."""


class GoingAway(Exception):
    """This process is stopping; clients connect again, to another one or after the restart."""


class Watch:
    """One client's watch of one job: the version that was sent, and the event that says to read the job."""

    __slots__ = ("changed", "identity", "signed_out", "version")

    def __init__(self, identity: Identity) -> None:
        self.identity, self.signed_out = identity, False
        self.version = 0
        self.changed = asyncio.Event()


class Watcher:
    """Wakes the watches of this process. Its tasks start with the first watch and last as long as the process."""

    def __init__(self) -> None:
        self.closing = False
        self.listening = False
        self._watches: defaultdict[uuid.UUID, set[Watch]] = defaultdict(set)
        self._of_user: Counter[int] = Counter()
        self._tasks: list[asyncio.Task[None]] = []
        self._poll_now = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(watches) for watches in self._watches.values())

    @contextmanager
    def watch(self, job_id: uuid.UUID, identity: Identity) -> Iterator[Watch]:
        """A watch, whose event is set when the job may have changed. Read the job after entering, to miss no change.

        Raises:
            TooMany.
        """
        if self._of_user[identity.user_id] >= settings.ENV.max_followed:
            raise TooMany
        self._start()
        watch = Watch(identity)
        self._watches[job_id].add(watch)
        self._of_user[identity.user_id] += 1
        try:
            yield watch
        finally:
            self._of_user -= Counter([identity.user_id])  # and forgets who has none left
            self._watches[job_id].discard(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]

    def close(self) -> None:
        """Make every `follow` raise GoingAway, now and from now on."""
        self.closing = True
        for job_id in list(self._watches):
            self._wake(job_id)

    async def stop(self) -> None:
        """End the tasks."""
        self.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(_for_ever(step)) for step in (self._listen, self._poll)]

    def _wake(self, job_id: uuid.UUID) -> None:
        for watch in self._watches.get(job_id, ()):
            watch.changed.set()

    async def _listen(self) -> None:
        """Receive hints until the connection breaks."""
        client = subscriber(connect_timeout_s=2)
        try:
            async with client, client.pubsub() as pubsub:
                await pubsub.subscribe(CHANNEL)
                await self._receive(pubsub)
        finally:
            self.listening = False

    async def _receive(self, pubsub: Any) -> None:
        pinged = False
        while True:
            message = await pubsub.get_message(timeout=PING_S)
            if message is not None:
                pinged = False
                self._handle(message)
            elif pinged:
                raise ConnectionError("Redis does not answer")
            else:
                pinged = True
                await pubsub.ping()

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self.listening = True
            self._poll_now.set()  # for hints that were sent before this subscription
        elif message["type"] == "message":
            with suppress(ValueError):
                self._wake(uuid.UUID(message["data"].decode()))

    async def _poll(self) -> None:
        """Read the versions of all watched jobs, and who is signed out, after POLL_S or when `_poll_now` is set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._poll_now.wait()
        self._poll_now.clear()
        if not self._watches:
            return
        versions = await _versions(list(self._watches))
        for job_id, watches in self._watches.items():
            now = versions.get(job_id)
            for watch in watches:
                if now is None or now > watch.version:
                    watch.changed.set()
        everybody = [watch for watches in self._watches.values() for watch in watches]
        gone = await signed_out({watch.identity for watch in everybody})
        for watch in everybody:
            if watch.identity in gone:
                watch.signed_out = True
                watch.changed.set()


async def _for_ever(step: Callable[[], Awaitable[None]]) -> None:
    """Repeat a step, whatever it raises; after a failure with a pause that doubles while failures follow each other."""
    clock = asyncio.get_running_loop().time
    pause, longest = PAUSES_S
    while True:
        began = clock()
        try:
            await step()
        except Exception as error:  # noqa: BLE001  (a task that has ended would be worse than any error)
            what = f"{type(error).__name__}: {error}"
            log.warning("watching jobs failed: trying again after a pause", step=step.__name__, error=what, pause=pause)
            pause = PAUSES_S[0] if clock() - began > longest else min(2 * pause, longest)
            await asyncio.sleep(pause)
        else:
            pause = PAUSES_S[0]


@database_sync_to_async  # type: ignore[untyped-decorator]
def _versions(ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, int]:
    return dict(Job.objects.filter(pk__in=ids).values_list("pk", "version"))


@database_sync_to_async  # type: ignore[untyped-decorator]
def _jobs(ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Job]:
    return {job.pk: job for job in with_artifacts(Job.objects.filter(pk__in=ids))}


class Reader:
    """Reads jobs, one query at a time: what is asked for during a query is read together by the next one, or by the
    next few, because a result may have a quarter of a megabyte.
    """

    def __init__(self) -> None:
        self._asked: dict[uuid.UUID, asyncio.Future[Job | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def read(self, job_id: uuid.UUID) -> Job | None:
        """The job as it is now or later, None if there is none.

        Raises:
            DatabaseError: the database is away.
        """
        future = self._asked.get(job_id)
        if future is None:
            future = self._asked[job_id] = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read_all())
        return await asyncio.shield(future)  # a client that leaves must not cancel the read for the others

    async def _read_all(self) -> None:
        while self._asked:
            asked = {job_id: self._asked.pop(job_id) for job_id in list(self._asked)[:AT_ONCE]}
            try:
                found = await _jobs(list(asked))
            except Exception as error:  # noqa: BLE001  (it is raised in those who asked)
                for future in asked.values():
                    future.set_exception(error)
                    future.exception()  # asyncio would complain if nobody asks any more
            else:
                for job_id, future in asked.items():
                    future.set_result(found.get(job_id))


WATCHER = Watcher()
READER = Reader()


async def follow(job_id: uuid.UUID, identity: Identity) -> AsyncGenerator[Job | None, None]:
    """The job now, then each change until it has ended; None after KEEPALIVE_S seconds without one.

    Raises:
        UnknownJob, SignedOut, TooMany, GoingAway.
        DatabaseError: only before the first job, after `database_wait_s`; later an outage is waited for.
    """
    with WATCHER.watch(job_id, identity) as watch:
        while not WATCHER.closing:
            watch.changed.clear()
            if watch.signed_out:
                raise SignedOut
            job = await _read(job_id, watch)
            if job is None or job.owner_id != identity.user_id:
                raise UnknownJob
            if job.version > watch.version:
                watch.version = job.version
                yield job
            if job.finished:
                return
            if not await _changed(watch):
                yield None
    raise GoingAway


async def _read(job_id: uuid.UUID, watch: Watch) -> Job | None:
    deadline = time.monotonic() + settings.ENV.database_wait_s
    while True:
        try:
            return await READER.read(job_id)
        except DatabaseError:
            if WATCHER.closing or (not watch.version and time.monotonic() > deadline):
                raise
            await asyncio.sleep(min(POLL_S, settings.ENV.database_wait_s) / 2)


async def _changed(watch: Watch) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(KEEPALIVE_S):
            return await watch.changed.wait()
    return False
