"""The ledger: the row is the job, whatever Celery or Redis say. Only jobs.services writes `Job.state`."""

from datetime import datetime
from typing import Any

import uuid_utils.compat as uuids
from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce, Greatest, Now


class State(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (State.QUEUED, State.RUNNING)
FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
DUE_AT = Greatest("created_at", Coalesce("run_after", "created_at"))  # Job.due_at in a query


class Clock(Now):
    """What the database's clock says when it gets there. `Now()` is when the statement came, however long it waited."""

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="CLOCK_TIMESTAMP()", **context)


def runnable(rows: models.QuerySet[Any]) -> models.QuerySet[Any]:
    """Those of the rows that may run now. What is not due is no backlog: it is in nobody's way."""
    return rows.exclude(run_after__gt=Now())


def unlocked(rows: models.QuerySet[Any]) -> Any:
    """Those of the rows that nobody has locked when a statement gets to them, which does not wait for the others. Only
    in a transaction.
    """
    free = rows.order_by().select_for_update(skip_locked=True, no_key=True)
    return rows.model._default_manager.filter(pk__in=free.values("pk"))


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """None if one of them is not known; 0 if they are in the wrong order, as after a step of the database's clock."""
    return max(0.0, (end - start).total_seconds()) if start and end else None


def counted(size: int) -> int:
    """The bytes of params or of a result that count towards what a user stores. Few are no more than a job's row, and
    an index of all that is counted stays small without them.
    """
    return size if size >= 2000 else 0


class Job(models.Model):
    """One job. All times are the database's clock, so that hosts need not agree on theirs.

    A job that split itself into parts is `running` with `open_parts` > 0 and no lease: no worker holds it. When the
    last part ends it is queued again, `joining`, and its next run makes the outcome from the parts.
    """

    id = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="jobs", db_index=False)
    kind = models.CharField(max_length=40)
    lane = models.CharField(max_length=40)
    params = models.JSONField()
    idempotency_key = models.CharField(max_length=128, null=True, editable=False)  # noqa: DJ001  (absent, not empty)
    fingerprint = models.CharField(max_length=64, editable=False)

    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    version = models.PositiveIntegerField(default=1)
    attempt = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField()
    shared_deaths = models.PositiveSmallIntegerField(default=0, db_default=0)  # of workers that ran other jobs as well
    cancel_requested = models.BooleanField(default=False)
    lease_until = models.DateTimeField(null=True)
    worker = models.CharField(max_length=120, blank=True)
    pool = models.CharField(max_length=10, blank=True)
    progress = models.FloatField(default=0)
    note = models.CharField(max_length=200, blank=True)
    error = models.TextField(blank=True)
    result = models.JSONField(null=True)
    stored_bytes = models.IntegerField(default=0, db_default=0)  # params, result and file, as far as they are counted

    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="parts", db_index=False)
    part = models.PositiveIntegerField(null=True)
    parts_total = models.PositiveIntegerField(default=0)
    open_parts = models.PositiveIntegerField(default=0)
    joining = models.BooleanField(default=False)

    created_at = models.DateTimeField(db_default=Now())
    run_after = models.DateTimeField(null=True)
    published_at = models.DateTimeField(null=True, db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    notified_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            # Partial, as the indexes are: each change of a job writes an entry of every index that holds it.
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"], condition=Q(idempotency_key__isnull=False), name="job_key"
            ),
            models.UniqueConstraint(fields=["parent", "part"], condition=Q(parent__isnull=False), name="job_child"),
            models.CheckConstraint(condition=Q(state__in=State.values), name="job_state"),
        ]
        indexes = [
            models.Index(fields=["owner", "-created_at", "-id"], name="job_newest"),
            models.Index(fields=["owner"], condition=Q(state__in=OPEN, parent=None), name="job_open"),
            models.Index(fields=["lane", "published_at"], condition=Q(state=State.QUEUED), name="job_queued"),
            models.Index(fields=["run_after"], condition=Q(state=State.QUEUED, published_at=None), name="job_due"),
            models.Index(fields=["lease_until"], condition=Q(state=State.RUNNING), name="job_leased"),
            models.Index(fields=["finished_at"], condition=Q(state__in=FINISHED), name="job_finished"),
            models.Index(
                fields=["owner", "finished_at", "stored_bytes"], condition=Q(stored_bytes__gt=0), name="job_stored"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def due_at(self) -> datetime:
        """When it may start at the earliest; its queue wait counts from here."""
        return max(self.created_at, self.run_after or self.created_at)

    @property
    def timings(self) -> dict[str, float | None]:
        """Seconds of queue wait (submit or due -> start), run (start -> end) and notify (end -> pushed)."""
        return {
            "queue_wait": seconds_between(self.due_at, self.started_at),
            "run": seconds_between(self.started_at, self.finished_at),
            "notify": seconds_between(self.finished_at, self.notified_at),
        }


class JobArtifact(models.Model):
    """The file that a job left behind, apart from its row so that lists do not load it."""

    job = models.OneToOneField(Job, models.CASCADE, primary_key=True, related_name="artifact")
    media_type = models.CharField(max_length=100)
    filename = models.CharField(max_length=100)
    content = models.BinaryField()


class Leader(models.Model):
    """Which process has a role that only one may have at a time, and until when (jobs/leader.py)."""

    role = models.CharField(max_length=40, primary_key=True)
    holder = models.CharField(max_length=120)
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.role}: {self.holder}"


class ScheduleEntry(models.Model):
    """When an entry of Celery's beat_schedule was last sent, so that any beat goes on where another has stopped."""

    name = models.CharField(max_length=200, primary_key=True)
    last_run_at = models.DateTimeField(db_default=Now())
    total_run_count = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return self.name

    def claim(self, now: datetime) -> bool:
        """Count the run that was due `now`; False: another beat has counted it since this row was read."""
        unclaimed = ScheduleEntry.objects.filter(name=self.name, total_run_count=self.total_run_count)
        self.total_run_count += 1
        return bool(unclaimed.update(total_run_count=self.total_run_count, last_run_at=now))


class ApiToken(models.Model):
    """A bearer token; only its SHA-256 is kept (the token itself has 256 random bits, so no slow hash is needed)."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80, blank=True)
    sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.user} {self.name}".strip()
