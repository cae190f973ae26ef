"""What the push process sends of a job, and how it stores when a client was told of the end."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta

import structlog
from channels.db import database_sync_to_async
from django.db import Error as DatabaseError

from jobs import services
from push.book import Known
from push.feeds import Cursor

log = structlog.get_logger(__name__)
News = Known | Cursor | None
ALIVE = '{"type": "alive"}'
TOGETHER_S = 0.2  # the times of jobs that end within this are stored together
SEND_TIMEOUT_S = 30.0  # a client that reads nothing for this long is disconnected


def message_of(news: News) -> str:
    """What all transports send: a job, a cursor, or (None) a keepalive."""
    return news.text if news else ALIVE


def client_told(news: News) -> None:
    """Call this after a message was sent: if it told of the end, the time is stored, without waiting for it."""
    if isinstance(news, Known) and news.finished and not news.notified:
        news.notified = True
        NOTIFIED.add(news.id)


class Notified:
    """Stores `notified_at`, a few times a second at most: jobs that come in between are written together."""

    def __init__(self) -> None:
        self._told: list[tuple[uuid.UUID, float]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, job_id: uuid.UUID) -> None:
        """A client has just been told of this job's end."""
        self._told.append((job_id, time.monotonic()))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._told:
            await asyncio.sleep(TOGETHER_S)
            told, self._told = self._told, []
            try:
                await _store(told)
            except DatabaseError as error:
                log.warning("notify times not stored: these jobs will show none", jobs=len(told), error=str(error))


@database_sync_to_async  # type: ignore[untyped-decorator]
def _store(told: Sequence[tuple[uuid.UUID, float]]) -> None:
    now = time.monotonic()
    services.mark_notified([(job_id, timedelta(seconds=now - moment)) for job_id, moment in told])


NOTIFIED = Notified()
