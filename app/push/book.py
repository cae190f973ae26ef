"""What a push process knows of jobs: from hints, and from reads where these do not say enough."""

import json
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs.hints import Hint
from jobs.models import Job
from jobs.schemas import changing, iso, lasting

if TYPE_CHECKING:
    from push.watcher import Watch

MOST = 8_000_000  # characters that are kept of jobs that nobody follows yet: of some thousands


class Known:
    """One job: the newest version that we heard of, and the texts, if we have them, of the version that we know."""

    __slots__ = (
        "_lasting",
        "_text",
        "changing",
        "finished",
        "heard",
        "id",
        "notified",
        "owner",
        "unsure",
        "version",
        "watches",
    )

    def __init__(self, job_id: uuid.UUID) -> None:
        self.id = job_id
        self.owner: int | None = None
        self.version = self.heard = 0
        self.finished = self.notified = False
        self.unsure = False  # it has changed, we were not told to what version
        self._lasting = self.changing = self._text = ""
        self.watches: set[Watch] = set()

    @property
    def complete(self) -> bool:
        """Whether nothing needs to be read to tell of it."""
        return bool(self._lasting) and self.version >= self.heard > 0 and not self.unsure

    @property
    def size(self) -> int:
        return len(self._lasting) + len(self.changing)

    def hear(self, hint: Hint) -> bool:
        """Take what a hint says; False: it says nothing new."""
        if 0 < hint.version <= self.heard:
            return False
        self.heard = hint.version or self.heard
        self.unsure = self.unsure or not hint.version
        if hint.changing:
            self._know(hint.owner, hint.version, hint.finished, hint.changing)
            self._lasting = hint.lasting or self._lasting
        return True

    def take(self, job: Job) -> None:
        """What was read."""
        self._lasting = self._lasting or json.dumps(lasting(job))
        self.notified = job.notified_at is not None
        if job.version >= self.version:
            self._know(job.owner_id, job.version, job.finished, json.dumps(changing(job)))
        self.heard, self.unsure = max(self.version, self.heard), False

    def _know(self, owner: int | None, version: int, finished: bool, text: str) -> None:
        self.owner, self.version, self.finished, self.changing, self._text = owner, version, finished, text, ""

    @property
    def text(self) -> str:
        """The message that tells of it, the same for all who follow."""
        if not self._text:
            job = f"{self._lasting[:-1]}, {self.changing[1:]}"
            self._text = f'{{"type": "job", "job": {job}, "sent_at": "{iso(datetime.now(UTC))}"}}'
        return self._text


class Book:
    """The jobs that are followed, and those that were heard of lately: a client follows a job as soon as it has
    submitted it, and it may have ended by then.
    """

    def __init__(self) -> None:
        self._followed: dict[uuid.UUID, Known] = {}
        self._lately: OrderedDict[uuid.UUID, tuple[Known, int]] = OrderedDict()  # and its size when it came
        self._size = 0

    def __iter__(self) -> Iterator[Known]:
        return iter(self._followed.values())

    def get(self, job_id: uuid.UUID) -> Known | None:
        return self._followed.get(job_id) or self._lately.get(job_id, (None, 0))[0]

    def hear(self, hint: Hint) -> Known | None:
        """What we now know of the job; None if the hint is no news, or of a job of which we know nothing else."""
        assert hint.id  # noqa: S101  (for mypy)
        known = self._followed.get(hint.id)
        if known is not None:
            return known if known.hear(hint) else None
        known = self._forget(hint.id) or (Known(hint.id) if hint.lasting else None)
        if known is None:
            return None
        news = known.hear(hint)
        if known.complete:
            self._lately[hint.id] = known, known.size
            self._size += known.size
            while self._size > MOST:
                self._forget(next(iter(self._lately)))
        return known if news else None

    def _forget(self, job_id: uuid.UUID) -> Known | None:
        known, size = self._lately.pop(job_id, (None, 0))
        self._size -= size
        return known

    def follow(self, job_id: uuid.UUID) -> Known:
        """The job, kept until `leave`."""
        return self._followed.setdefault(job_id, self._forget(job_id) or Known(job_id))

    def leave(self, job_id: uuid.UUID) -> None:
        """Nobody follows the job any more."""
        self._followed.pop(job_id, None)

    def close(self) -> None:
        """Hints may be missed from now on, so what is heard of no job that we do not ask for is what it is."""
        self._lately.clear()
        self._size = 0
