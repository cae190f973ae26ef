"""What the push process sends of a job, and how it stores when a client was told of the end."""

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
SEND_TIMEOUT_S = 30.0  # a client that reads nothing for this long is disconnected


def message_of(job: Job | None) -> str:
    """What both transports send: the job, or (None) a keepalive."""
    body: dict[str, Any] = {"type": "job", "job": as_json(job)} if job else {"type": "alive"}
    return json.dumps(body | {"sent_at": iso(datetime.now(UTC))})


def client_told(job: Job | None) -> None:
    """Call this after a message was sent: if it told of the end, the time is stored, without waiting for it."""
    if job is not None and job.finished and not job.notified_at:
        NOTIFIED.add(job.pk)


class Notified:
    """Stores `notified_at`, one statement at a time: jobs that come during one are written together by the next."""

    def __init__(self) -> None:
        self._job_ids: list[uuid.UUID] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, job_id: uuid.UUID) -> None:
        """A client has just been told of this job's end."""
        self._job_ids.append(job_id)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._job_ids:
            told, self._job_ids = self._job_ids, []
            try:
                await database_sync_to_async(services.mark_notified)(told)
            except DatabaseError as error:
                log.warning("notify times not stored: these jobs will show none", jobs=len(told), error=str(error))


NOTIFIED = Notified()
