"""Follows jobs for the clients of a push process, with one Redis subscription and at most one read at a time for all.

A hint (jobs/hints.py) says what a job is now, and wakes who watches it; where it does not say all, the row is read. A
hint may be lost, so every POLL_S seconds one query over all watched jobs wakes those whose version has grown: with
Redis down a change comes late, but is not missed.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import Error as DatabaseError

from jobs import tokens
from jobs.hints import CHANNEL, Hint, read
from jobs.models import Job
from jobs.redis_client import subscriber
from push.book import Book, Known
from push.feeds import Cursor, Feed, Follower
from push.identity import Identity, signed_out
from push.reader import READER
from push.waking import Wake

log = structlog.get_logger(__name__)
POLL_S = 2.0
KEEPALIVE_S = 20.0  # a client is sent something at least this often: proxies cut connections after 60 s of silence
PING_S = 5.0  # Redis is pinged after this long without a message; after as long again the connection is given up
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
    """One client's watch of one job: the version that was sent, and what says to look at it again."""

    __slots__ = ("changed", "identity", "known", "signed_out", "version")

    def __init__(self, identity: Identity, known: Known) -> None:
        self.identity, self.known, self.signed_out = identity, known, False
        self.version = 0
        self.changed = Wake()


class Watcher:
    """Wakes the watches of this process. Its tasks start with the first watch and last as long as the process."""

    def __init__(self) -> None:
        self.closing = False
        self.listening = False
        self.book = Book()
        self.feeds: dict[int, Feed] = {}
        self._of_user: Counter[int] = Counter()
        self._tasks: list[asyncio.Task[None]] = []
        self._poll_now = asyncio.Event()

    def __len__(self) -> int:
        return self._of_user.total()

    def _count(self, identity: Identity) -> None:
        if self._of_user[identity.user_id] >= settings.ENV.max_followed:
            raise TooMany
        if not self._tasks:
            self._tasks = [asyncio.create_task(_for_ever(step)) for step in (self._listen, self._poll)]
        self._of_user[identity.user_id] += 1

    def _discount(self, identity: Identity) -> None:
        self._of_user -= Counter([identity.user_id])  # and forgets who has none left

    def watch(self, job_id: uuid.UUID, identity: Identity) -> Watch:
        """A watch, to be ended with `unwatch`; it wakes when the job may have changed. Look at the job afterwards, to
        miss no change.

        Raises:
            TooMany.
        """
        self._count(identity)
        watch = Watch(identity, self.book.follow(job_id))
        watch.known.watches.add(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Whoever watched does not any more."""
        watch.known.watches.discard(watch)
        if not watch.known.watches:
            self.book.leave(watch.known.id)
        self._discount(watch.identity)

    @contextmanager
    def feed(self, identity: Identity) -> Iterator[Follower]:
        """Everything that happens to the jobs of a user.

        Raises:
            TooMany.
        """
        self._count(identity)
        feed = self.feeds.setdefault(identity.user_id, Feed(identity.user_id))
        follower = Follower(identity, feed)
        feed.followers.add(follower)
        try:
            yield follower
        finally:
            feed.followers.discard(follower)
            if not feed.followers:
                del self.feeds[identity.user_id]
            self._discount(identity)

    def close(self) -> None:
        """Make every `follow` raise GoingAway, now and from now on."""
        self.closing = True
        for one in [watch for known in self.book for watch in known.watches] + self._followers():
            one.changed.set()

    async def stop(self) -> None:
        """End the tasks."""
        self.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _followers(self) -> list[Any]:
        return [follower for feed in self.feeds.values() for follower in feed.followers]

    async def _listen(self) -> None:
        """Receive hints until the connection breaks."""
        client = subscriber(connect_timeout_s=2)
        try:
            async with client, client.pubsub() as pubsub:
                await pubsub.subscribe(CHANNEL, tokens.CHANNEL)
                await self._receive(pubsub)
        finally:
            self.listening = False
            self.book.close()

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
        elif message["type"] == "message" and message["channel"] == tokens.CHANNEL.encode():
            tokens.forget()
            self._poll_now.set()
        elif message["type"] == "message" and (hint := read(message["data"])):
            self._hear(hint)

    def _hear(self, hint: Hint) -> None:
        known = self.book.hear(hint) if hint.id else None
        if known:
            for watch in known.watches:
                watch.changed.set()
        feed = self.feeds.get(hint.owner or 0)
        if feed and not hint.part:
            if hint.id is None:
                self._poll_now.set()
            else:
                feed.hear(hint, self.book.get(hint.id))

    async def _poll(self) -> None:
        """Read the versions of all watched jobs, and who is signed out, after POLL_S or when `_poll_now` is set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._poll_now.wait()
        self._poll_now.clear()
        if watched := {known.id: known for known in self.book}:
            versions = await _versions(list(watched))
            for job_id, known in watched.items():
                now = versions.get(job_id)
                if now is None or now > known.version:
                    known.heard, known.unsure = max(now or 0, known.heard), True
                    for watch in known.watches:
                        watch.changed.set()
        for feed in list(self.feeds.values()):
            await feed.look()
        everybody = [watch for known in self.book for watch in known.watches] + self._followers()
        if everybody:
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


WATCHER = Watcher()


async def follow(job_id: uuid.UUID, identity: Identity) -> AsyncGenerator[Known | None, None]:
    """The job now, then each change until it has ended; None after KEEPALIVE_S seconds without one.

    Raises:
        UnknownJob, SignedOut, TooMany, GoingAway.
        DatabaseError: only before the first job, after `database_wait_s`; later an outage is waited for.
    """
    watcher = WATCHER
    watch = watcher.watch(job_id, identity)
    known = watch.known
    try:
        while not watcher.closing:
            watch.changed.clear()
            if watch.signed_out:
                raise SignedOut
            if not known.complete:
                await _read(watch)
            if known.owner != identity.user_id:
                raise UnknownJob
            if known.version > watch.version:
                watch.version = known.version
                yield known
            if known.finished:
                return
            if not await watch.changed.wait(KEEPALIVE_S):
                yield None
        raise GoingAway
    finally:
        watcher.unwatch(watch)


async def _read(watch: Watch) -> None:
    deadline = time.monotonic() + settings.ENV.database_wait_s
    while True:
        try:
            if not await READER.fill(watch.known):
                raise UnknownJob
            return
        except DatabaseError:
            if WATCHER.closing or (not watch.version and time.monotonic() > deadline):
                raise
            await asyncio.sleep(min(POLL_S, settings.ENV.database_wait_s) / 2)


async def follow_all(identity: Identity, since: str = "") -> AsyncGenerator[Known | Cursor, None]:
    """Each change of all of a user's jobs, but not of their parts, for as long as the client likes.

    A Cursor says up to when everything was told; with the last one as `since` nothing is missed, though what happened
    shortly before may be told again. There is one at the beginning, after changes, and after KEEPALIVE_S of silence.

    Raises:
        SignedOut, TooMany, TooOld, GoingAway, DatabaseError.
    """
    with WATCHER.feed(identity) as follower:
        await follower.begin(since)
        said = time.monotonic()
        while not WATCHER.closing:
            follower.changed.clear()
            if follower.signed_out:
                raise SignedOut
            async for known in follower.news():
                yield known
                said = time.monotonic()
            if cursor := follower.cursor(said < time.monotonic() - KEEPALIVE_S):
                yield cursor
                said = time.monotonic()
            await follower.changed.wait(said + KEEPALIVE_S - time.monotonic())
    raise GoingAway
