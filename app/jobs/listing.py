"""Lists of jobs, newest first, by the moment that the database stamped: ids sort by the clocks of the web hosts."""

import uuid
from datetime import UTC, datetime

from django.db.models import QuerySet

from jobs.models import Job

NEWEST_FIRST = ("-created_at", "-pk")
LATEST_MS = 4_102_444_800_000  # the year 2100; an id may claim a later one than Python knows


def older(jobs: QuerySet[Job], than: uuid.UUID) -> QuerySet[Job]:
    """Those that come after this one in the list, newest first."""
    at = _stamped(than)
    return jobs.filter(created_at__lte=at).exclude(created_at=at, pk__gte=than).order_by(*NEWEST_FIRST)


def newer(jobs: QuerySet[Job], than: uuid.UUID) -> QuerySet[Job]:
    """Those that come before this one in the list, oldest first."""
    at = _stamped(than)
    return jobs.filter(created_at__gte=at).exclude(created_at=at, pk__lte=than).order_by("created_at", "pk")


def _stamped(job_id: uuid.UUID) -> datetime:
    """When the job was stored; of one that has been deleted, what its id says."""
    stored = Job.objects.filter(pk=job_id).values_list("created_at", flat=True).first()
    return stored or datetime.fromtimestamp(min(job_id.int >> 80, LATEST_MS) / 1000, UTC)
