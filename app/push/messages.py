"""What the push process says of a job, and that it notes who has been told of an end."""

import asyncio
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import structlog
from channels.db import database_sync_to_async
from django.db import Error as DatabaseError

from jobs import services
from jobs.models import Job
from jobs.schemas import as_json, iso

log = structlog.get_logger(__name__)
SLOW_S = 30.0  # a client that takes nothing for this long is let go


def message_of(job: Job | None) -> str:
    """What both transports send: the job, or (None) a sign of life."""
    body: dict[str, Any] = {"type": "job", "job": as_json(job)} if job else {"type": "alive"}
    return json.dumps(body | {"sent_at": iso(datetime.now(UTC))})


def told(job: Job | None) -> None:
    """After a message has gone out: note, once and in nobody's way, that a client knows of the end."""
    if job is None or not job.finished or job.notified_at:
        return
    NOTES.add(job.pk)


class Notes:
    """Writes who has been told, one statement at a time: what ends during one is written together by the next."""

    def __init__(self) -> None:
        self._told: list[uuid.UUID] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, job_id: uuid.UUID) -> None:
        """A client has just been told of this job's end."""
        self._told.append(job_id)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._told:
            told, self._told = self._told, []
            try:
                await database_sync_to_async(services.mark_notified)(told)
            except DatabaseError as error:
                log.warning("notify times not kept", jobs=len(told), error=str(error))


NOTES = Notes()
