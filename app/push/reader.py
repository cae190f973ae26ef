"""Reads jobs for all clients of this process together."""

import asyncio
import uuid
from collections.abc import Sequence

from channels.db import database_sync_to_async

from jobs.models import Job
from jobs.schemas import with_artifacts
from push.book import Known

AT_ONCE = 100  # jobs that are read by one query


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

    async def fill(self, known: Known) -> bool:
        """Read a job of which we do not know enough. False: there is none.

        Raises:
            DatabaseError: the database is away.
        """
        job = await self.read(known.id)
        if job is not None:
            known.take(job)
        return job is not None

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


READER = Reader()
