"""What the API takes and gives, as models for the OpenAPI document; and the one function that puts a job into JSON."""

import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from django.db.models import Exists, OuterRef, QuerySet
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from jobs.models import Job, JobArtifact, State

MAX_BATCH = 1000
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
FURTHEST = timedelta(days=366)
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC with microseconds and a Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if moment else None


# ---- a job ----------------------------------------------------------------------------------------------------------


def with_artifacts(jobs: QuerySet[Job]) -> QuerySet[Job]:
    """Jobs that know whether they left a file, without loading it."""
    return jobs.annotate(has_artifact=Exists(JobArtifact.objects.filter(job=OuterRef("pk"))))


def _has_artifact(job: Job) -> bool:
    if job.state != State.SUCCEEDED:
        return False
    known: bool | None = getattr(job, "has_artifact", None)
    return JobArtifact.objects.filter(job=job.pk).exists() if known is None else known


def as_json(job: Job) -> dict[str, Any]:
    """A job as the API, the WebSocket and the event stream tell it; `JobOut` describes it."""
    return lasting(job) | changing(job)


def lasting(job: Job) -> dict[str, Any]:
    """What of a job never changes."""
    url = f"/api/jobs/{job.pk}"
    return {
        "id": str(job.pk),
        "kind": job.kind,
        "lane": job.lane,
        "params": job.params,
        "parent": str(job.parent_id) if job.parent_id else None,
        "idempotency_key": job.idempotency_key,
        "created_at": iso(job.created_at),
        "url": url,
        "events_url": f"{url}/events",
        "ws_url": f"/ws/jobs/{job.pk}",
    }


def changing(job: Job) -> dict[str, Any]:
    """The rest."""
    return {
        "pool": job.pool,
        "worker": job.worker,
        "state": str(job.state),
        "progress": job.progress,
        "note": job.note,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "result": job.result if job.state == State.SUCCEEDED else None,
        "error": job.error or None,
        "artifact_url": f"/api/jobs/{job.pk}/artifact" if _has_artifact(job) else None,
        "parts_total": job.parts_total,
        "open_parts": job.open_parts,
        "cancel_requested": job.cancel_requested,
        "run_after": iso(job.run_after),
        "started_at": iso(job.started_at),
        "finished_at": iso(job.finished_at),
        "notified_at": iso(job.notified_at),
        "timings": job.timings,
        "version": job.version,
    }


class Strict(BaseModel):
    """Unknown fields are refused: a misspelt one would otherwise be ignored in silence."""

    model_config = ConfigDict(extra="forbid")


Instant = Annotated[datetime, PlainSerializer(iso, return_type=str)]
JobId = Annotated[
    uuid.UUID, Field(description="A UUIDv7, by the clock of the host that took the job; lists go by `created_at`.")
]
LaneName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="A lane, as `GET /api/lanes` lists.")]
KindName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="A kind, as `GET /api/kinds` lists.")]
StateName = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class TimingsOut(Strict):
    """In seconds; null while it is not known."""

    queue_wait: float | None = Field(description="From submit (or from when it was due) to start.")
    run: float | None = Field(description="From start to end.")
    notify: float | None = Field(description="From end to the first client being told.")


class JobOut(Strict):
    """One job."""

    id: JobId
    kind: str
    lane: str
    params: dict[str, Any]
    parent: uuid.UUID | None = Field(description="The job that this one is a part of.")
    idempotency_key: str | None
    created_at: datetime
    url: str
    events_url: str
    ws_url: str
    pool: str = Field(description="The pool of the worker that ran it last; empty before.")
    worker: str = Field(description="The worker that ran it last; empty before.")
    state: StateName
    progress: float = Field(ge=0, le=1)
    note: str = Field(description="What it is doing, in a few words.")
    attempt: int
    max_attempts: int
    result: dict[str, Any] | None
    error: str | None = Field(description="One sentence on why it failed.")
    artifact_url: str | None = Field(description="Where its file is, if it left one.")
    parts_total: int
    open_parts: int
    cancel_requested: bool
    run_after: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    notified_at: datetime | None
    timings: TimingsOut
    version: int = Field(description="Grows with every change.")


class JobsOut(Strict):
    """A page of jobs, newest first."""

    items: list[JobOut]
    next_cursor: uuid.UUID | None = Field(description="Pass it as `cursor` for the next page; null on the last one.")


class BatchOut(Strict):
    jobs: list[JobOut] = Field(description="In the order of the request.")


# ---- what clients send ----------------------------------------------------------------------------------------------


def _moment(value: object) -> object:
    if not (isinstance(value, str) and RFC3339.fullmatch(value)):
        raise ValueError("use a date and time with a time zone, such as 2030-01-31T12:00:00Z")
    return value


def _within_reach(moment: datetime) -> datetime:
    """Bounded, because a database cannot store year 9999 in every time zone. The past means now."""
    if not (EARLIEST <= moment <= datetime.now(UTC) + FURTHEST):
        raise ValueError("choose a time within the next 366 days")
    return moment.astimezone(UTC)


class SubmissionIn(Strict):
    """A job to be run."""

    kind: str = Field(max_length=40, description="What work it asks for: one of `GET /api/kinds`.")
    params: dict[str, Any] = Field(default_factory=dict, description="As the kind's JSON schema says.")
    idempotency_key: str | None = Field(
        None,
        pattern=r"^[ -~]{1,128}$",
        description="Your own name for this submission: sent twice, it is accepted once. Printable ASCII.",
    )
    run_after: Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(_within_reach)] | None = Field(
        None, description="Do not start before this; at most 366 days ahead."
    )


class BatchIn(Strict):
    """Jobs to be run: all are accepted, or none."""

    jobs: list[SubmissionIn] = Field(min_length=1, max_length=MAX_BATCH)


class JobFilters(Strict):
    """Which jobs to list. Without `parent`, only jobs that are not part of another."""

    kind: KindName | None = None
    lane: LaneName | None = None
    state: StateName | None = None
    parent: uuid.UUID | None = Field(None, description="List the parts of this job.")
    cursor: uuid.UUID | None = Field(None, description="`next_cursor` of the page before.")
    limit: int = Field(20, ge=1, le=100)


# ---- lanes, kinds, problems -----------------------------------------------------------------------------------------


class WorkerOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    host: str
    pool: str
    concurrency: int
    running: int
    started_at: Instant
    seen_at: Instant


class LaneOut(BaseModel):
    """One lane now; times in seconds."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    pool: str
    queued: int
    running: int
    oldest_queued_s: float | None = Field(description="Age of the job that has waited longest; null if none waits.")
    latency_target_s: float
    max_backlog: int
    finished_per_minute: float
    failed_per_minute: float
    slots: int
    workers: list[WorkerOut]


class LanesOut(BaseModel):
    items: list[LaneOut]


class KindOut(BaseModel):
    """One kind of work."""

    name: str
    title: str
    summary: str
    lane: str | None = Field(description="The lane that runs it; null: `params.lane` says.")
    pool: str | None = Field(description="That lane's pool; null where the lane is.")
    json_schema: dict[str, Any] = Field(alias="schema", description="JSON schema of `params`.")


class KindsOut(BaseModel):
    items: list[KindOut]


class FieldProblem(BaseModel):
    field: str
    why: str


class ProblemOut(BaseModel):
    """What went wrong (RFC 9457): `detail` is one sentence that says what to change."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = Field(None, description="Which fields are not right, and why.")
