"""Ids for new jobs. Work that may have to be done twice gets the same ids both times, and finds what it has stored.

jobs/outages.py does each request within `repeatable`, and says `repeat` before it does one again.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import uuid_utils.compat as uuids


class Ids:
    """The ids that one piece of work takes, in their order."""

    def __init__(self) -> None:
        self.repeated = False
        self._given: list[uuid.UUID] = []
        self._used = 0

    @property
    def taken(self) -> bool:
        """Whether the work came so far as to make something new."""
        return bool(self._given)

    def take(self) -> uuid.UUID:
        """The next id: a new one the first time, the same one after `repeat`."""
        if self._used == len(self._given):
            self._given.append(uuids.uuid7())
        self._used += 1
        return self._given[self._used - 1]

    def repeat(self) -> None:
        """The work is done from the start once more."""
        self.repeated, self._used = True, 0


_current: ContextVar[Ids | None] = ContextVar("ids", default=None)


@contextmanager
def repeatable() -> Iterator[Ids]:
    """Within this, `new_id` remembers what it gave."""
    ids = Ids()
    token = _current.set(ids)
    try:
        yield ids
    finally:
        _current.reset(token)


def new_id() -> uuid.UUID:
    """An id for a new job: a UUIDv7, so that ids sort by time."""
    ids = _current.get()
    return ids.take() if ids else uuids.uuid7()


def is_repeated() -> bool:
    """Whether this is work done once more, so that what it is to store may be there already."""
    ids = _current.get()
    return ids is not None and ids.repeated
