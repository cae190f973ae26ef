"""Lists of jobs, newest first, by the moment that the database stamped: ids sort by the clocks of the web hosts."""

import json
import uuid
from datetime import UTC, datetime

from django.db.models import DateTimeField, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from jobs.models import Job
from jobs.schemas import as_json

NEWEST_FIRST = ("-created_at", "-pk")
LATEST_MS = 4_102_444_800_000  # the year 2100; an id may claim a later one than Python knows
MAX_BYTES = 2_000_000  # of the jobs on one page, and at most one job more
FEW = 4  # jobs that are read at once before it is known how large they are


def older(jobs: QuerySet[Job], than: uuid.UUID) -> QuerySet[Job]:
    """Those that come after this one in the list, newest first."""
    at = _stamped(than)
    return jobs.filter(created_at__lte=at).exclude(created_at=at, pk__gte=than).order_by(*NEWEST_FIRST)


def newer(jobs: QuerySet[Job], than: uuid.UUID) -> QuerySet[Job]:
    """Those that come before this one in the list, oldest first."""
    at = _stamped(than)
    return jobs.filter(created_at__gte=at).exclude(created_at=at, pk__lte=than).order_by("created_at", "pk")


def page(jobs: QuerySet[Job], limit: int) -> tuple[list[str], uuid.UUID | None]:
    """So many of the jobs as JSON, fewer where they are large; and the last one's id, if there are more.

    A job is read, written down and forgotten, since a hundred with large results would take tens of megabytes.
    """
    texts: list[str] = []
    size, last, rest = 0, None, jobs
    while True:
        fit = (MAX_BYTES - size) * len(texts) // size + 1 if texts else FEW
        step = max(1, min(fit, limit + 1 - len(texts)))  # one more tells that there is another page
        rows = list(rest[:step])
        for job in rows:
            if len(texts) == limit or size > MAX_BYTES:
                return texts, last
            texts.append(json.dumps(as_json(job)))
            size, last = size + len(texts[-1]), job.pk
        if len(rows) < step:
            return texts, None
        rest = older(jobs, rows[-1].pk)


def _stamped(job_id: uuid.UUID) -> Coalesce:
    """When the job was stored; of one that has been deleted, what its id says. The database compares its own stamps:
    SQLite's are texts, and the same moment is another text when Python has read it.
    """
    stored = Job.objects.filter(pk=job_id).values("created_at")[:1]
    said = datetime.fromtimestamp(min(job_id.int >> 80, LATEST_MS) / 1000, UTC)
    return Coalesce(Subquery(stored), Value(said, DateTimeField()))
