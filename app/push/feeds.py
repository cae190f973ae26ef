"""All jobs of one user, for those who follow them together."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime, timedelta

from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.db.models import Q
from django.db.models.functions import Now

from jobs.hints import Hint
from jobs.models import FINISHED, OPEN, Job
from jobs.schemas import iso
from push.book import Known
from push.identity import Identity
from push.reader import AT_ONCE, READER
from push.waking import Wake

REPLAY = timedelta(minutes=10)  # a cursor may be so old
SLACK = timedelta(seconds=10)  # of a transaction, between the time that it writes and its commit


class TooOld(Exception):
    """The cursor is older than REPLAY, or none of ours."""


class Cursor(str):
    """A time of the database up to which everything was told."""

    __slots__ = ()

    @property
    def text(self) -> str:
        """The message that tells of it."""
        return json.dumps({"type": "cursor", "cursor": self})


class Feed:
    """What happens to the jobs of a user, but not to parts of them: from hints, and every few seconds from a query."""

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id
        self.followers: set[Follower] = set()
        self.cursor: Cursor | None = None
        self._jobs: dict[uuid.UUID, Known] = {}
        self._absent: set[uuid.UUID] = set()
        self._seen_until: datetime | None = None
        self._looking = asyncio.Lock()

    def hear(self, hint: Hint, known: Known | None) -> None:
        """A hint of a job, of which `known` is what the process knows, if it does."""
        assert hint.id  # noqa: S101  (for mypy)
        known = self._jobs.setdefault(hint.id, known or Known(hint.id))
        known.hear(hint)
        self._tell(known)

    def _tell(self, known: Known) -> None:
        for follower in self.followers:
            follower.tell(known)

    async def look(self) -> None:
        """Ask what has changed, for hints that were lost.

        Raises:
            DatabaseError.
        """
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        first, since = self._seen_until is None, self._seen_until or datetime.now(UTC)
        now, versions = await _since(self.user_id, since - SLACK)
        for job_id, version in versions:
            known = self._jobs.setdefault(job_id, Known(job_id))
            if version > known.heard:
                known.heard = version
                if not first:
                    self._tell(known)
        self._forget({job_id for job_id, _ in versions})
        self._seen_until, self.cursor = now, Cursor(iso(now))
        for follower in self.followers:
            if follower.owed:
                follower.changed.set()

    def _forget(self, recent: set[uuid.UUID]) -> None:
        """What two looks have not found ended a while ago; what one has not found may be newer than it."""
        absent = self._jobs.keys() - recent
        for job_id in absent & self._absent:
            del self._jobs[job_id]
        self._absent = absent

    def known(self, job_ids: Iterable[uuid.UUID]) -> list[Known]:
        return [self._jobs.get(job_id) or Known(job_id) for job_id in job_ids]


class Follower:
    """One client of a feed: what it is still to be told, each job once."""

    __slots__ = ("_told", "_waiting", "changed", "feed", "identity", "owed", "signed_out")

    def __init__(self, identity: Identity, feed: Feed) -> None:
        self.identity, self.feed, self.signed_out = identity, feed, False
        self.owed = True  # a cursor, since something was told after the last one
        self.changed = Wake()
        self._told: Cursor | None = None
        self._waiting: dict[uuid.UUID, Known] = {}

    def tell(self, known: Known) -> None:
        self._waiting[known.id] = known
        self.changed.set()

    async def begin(self, since: str) -> None:
        """Have what changed since then told first.

        Raises:
            TooOld, DatabaseError.
        """
        if self.feed.cursor is None:
            await self.feed.look()
        if since:
            _, versions = await _since(self.feed.user_id, _time_of(since) - SLACK)
            for known in self.feed.known(job_id for job_id, _ in versions):
                self.tell(known)

    async def news(self) -> AsyncGenerator[Known, None]:
        """What there is to be told now. A job that is gone is not told of."""
        while self._waiting:
            some = [self._waiting.pop(job_id) for job_id in list(self._waiting)[:AT_ONCE]]
            await asyncio.gather(*(READER.fill(known) for known in some if not known.complete))
            for known in some:
                if known.complete and known.owner == self.feed.user_id:
                    self.owed = True
                    yield known

    def cursor(self, silent: bool) -> Cursor | None:
        """A new one, after something was told; when the client was told nothing for long, any."""
        cursor = self.feed.cursor
        if not silent and (not self.owed or cursor == self._told):
            return None
        self.owed, self._told = False, cursor
        return cursor


def _time_of(cursor: str) -> datetime:
    try:
        moment = datetime.fromisoformat(cursor)
    except ValueError:
        raise TooOld from None
    if moment.tzinfo is None or abs(datetime.now(UTC) - moment) > REPLAY:
        raise TooOld
    return moment


@database_sync_to_async  # type: ignore[untyped-decorator]
def _since(user_id: int, moment: datetime) -> tuple[datetime, list[tuple[uuid.UUID, int]]]:
    """The time, and id and version of the user's jobs that are open, or have ended since then."""
    now = User.objects.annotate(now=Now()).values_list("now", flat=True).get(pk=user_id)
    mine = Job.objects.filter(owner_id=user_id, parent=None).order_by()
    opened = mine.filter(Q(state__in=OPEN)).values_list("id", "version")
    ended = mine.filter(Q(state__in=FINISHED), finished_at__gt=moment).values_list("id", "version")
    return now, [*opened, *ended]
