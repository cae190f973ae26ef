"""The life of a job. Nothing else writes `Job.state`; every change is one conditional UPDATE, so a race has one winner.

queued --claim--> running --succeed | fail | cancel--> succeeded | failed | cancelled
running --retry | lose--> queued        (a transient error, a dead worker)
running --split--> running, no lease    (its parts run as jobs of their own)
running, no lease --the last part ends--> queued, joining
"""

import random
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, cast

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Case, DateTimeField, F, QuerySet, When
from django.db.models.functions import Now
from django.db.models.sql import UpdateQuery

import kinds
from config.celery import app
from fleet.records import tally
from jobs import hints
from jobs.models import FINISHED, OPEN, Job, JobArtifact, State
from jobs.publish import publish
from jobs.statements import Statement, write
from kinds.base import Artifact, Part

log = structlog.get_logger(__name__)
ENV = settings.ENV


@dataclass(frozen=True)
class Claim:
    """The right to run one attempt of a job, until its lease runs out."""

    id: uuid.UUID
    attempt: int
    kind: str
    lane: str
    params: dict[str, Any]
    joining: bool
    parent_id: uuid.UUID | None


def _lease() -> Any:
    return Now() + timedelta(seconds=ENV.lease_s)


def _hint_after_commit(job_id: uuid.UUID) -> None:
    transaction.on_commit(partial(hints.tell, job_id))


def _publish_after_commit(ids: Sequence[uuid.UUID]) -> None:
    """The rows are read after the commit: `published_at` is by the database's clock, and the message carries it."""
    transaction.on_commit(lambda: publish(list(Job.objects.filter(pk__in=ids, state=State.QUEUED))))


# ---- running --------------------------------------------------------------------------------------------------------


def claim(job_id: uuid.UUID, worker: str, pool: str) -> Claim | None:
    """Take a queued job that is due. None: it is running, has ended, or is not due; drop the message."""
    statement = _claiming()
    values = statement.bind(id=_stored(job_id), worker=worker, pool=pool)
    for job in list(Job.objects.raw(statement.sql, values)):
        hints.tell(job_id)
        return Claim(job.pk, job.attempt, job.kind, job.lane, job.params, job.joining, job.parent_id)
    return None


def _stored(job_id: uuid.UUID) -> Any:
    """The id as this database stores it; SQLite has no UUIDs."""
    return Job._meta.pk.get_db_prep_value(job_id, connection)


@cache
def _claiming() -> Statement:
    """The conditional update, which returns what the worker must know of the job."""
    nobody = uuid.UUID(int=0)
    due = Job.objects.filter(pk=nobody, state=State.QUEUED).exclude(run_after__gt=Now())
    query = cast(UpdateQuery, due.query.chain(UpdateQuery))
    first = Case(When(joining=True, then=F("started_at")), default=Now(), output_field=DateTimeField())
    query.add_update_values(
        {
            "state": State.RUNNING,
            "attempt": F("attempt") + 1,
            "version": F("version") + 1,
            "lease_until": _lease(),
            "worker": "its worker",
            "pool": "its pool",
            "started_at": first,
            "note": "",
        }
    )
    blanks = {"id": _stored(nobody), "worker": "its worker", "pool": "its pool"}
    return write(query, blanks, "{} RETURNING id, attempt, kind, lane, params, joining, parent_id")


def _held(claim: Claim) -> QuerySet[Job]:
    """The fence: the row of this job, only while this attempt owns it."""
    return Job.objects.filter(pk=claim.id, attempt=claim.attempt, state=State.RUNNING, open_parts=0)


def report(claim: Claim, share: float, note: str) -> bool:
    """Record progress. False: stop working, because a cancel was asked for or this attempt no longer owns the job."""
    rows = _held(claim).filter(cancel_requested=False)
    if not rows.update(progress=share, note=note[:200], version=F("version") + 1):
        return False
    hints.tell(claim.id)
    return True


def renew(worker: str, job_ids: Sequence[uuid.UUID]) -> int:
    """Renew, in one statement, the leases of the jobs that a worker is really running; how many it still owns."""
    mine = Job.objects.filter(pk__in=job_ids, worker=worker, state=State.RUNNING, lease_until__isnull=False)
    return mine.update(lease_until=_lease()) if job_ids else 0


# ---- ending ---------------------------------------------------------------------------------------------------------


def _end(rows: QuerySet[Job], job_id: uuid.UUID, parent_id: uuid.UUID | None, state: State, **values: Any) -> bool:
    """Move the row to a terminal state if it is still in `rows`, and tell its parent. Locks parents before parts."""
    artifact: Artifact | None = values.pop("artifact", None)
    alone = parent_id is None and artifact is None  # one statement needs no BEGIN and COMMIT around it
    with nullcontext() if alone else transaction.atomic():
        parent = Job.objects.select_for_update().filter(pk=parent_id).first() if parent_id else None
        ended = rows.filter(pk=job_id).update(
            state=state, finished_at=Now(), lease_until=None, version=F("version") + 1, **values
        )
        if not ended:
            return False
        if artifact is not None:
            content = {"media_type": artifact.media_type, "filename": artifact.filename, "content": artifact.content}
            JobArtifact.objects.create(job_id=job_id, **content)
        if parent is not None:
            _part_ended(parent)
        _hint_after_commit(job_id)
    return True


def _part_ended(parent: Job) -> None:
    """One part less to wait for; after the last one the parent is queued again, to join. The caller holds its lock."""
    left = parent.open_parts - 1
    rows = Job.objects.filter(pk=parent.pk)
    waiting = parent.state == State.RUNNING
    rows.update(
        open_parts=left,
        version=F("version") + 1,
        **({"progress": (parent.parts_total - left) / parent.parts_total} if waiting else {}),
    )
    if waiting and left == 0:
        _queue_to_join(rows, parent)
    _hint_after_commit(parent.pk)


def _queue_to_join(rows: QuerySet[Job], parent: Job) -> None:
    allowed = parent.attempt + settings.LANES[parent.lane].max_attempts
    rows.update(state=State.QUEUED, joining=True, published_at=Now(), run_after=None, max_attempts=allowed)
    _publish_after_commit([parent.pk])


def succeed(claim: Claim, result: dict[str, Any], artifact: Artifact | None = None) -> bool:
    """End with a result, or as cancelled if that was asked for. False: this attempt no longer owns the job."""
    rows = _held(claim).filter(cancel_requested=False)
    done = {"result": result, "artifact": artifact, "progress": 1.0, "note": "", "error": ""}
    return _end(rows, claim.id, claim.parent_id, State.SUCCEEDED, **done) or stopped(claim)


def fail(claim: Claim, sentence: str) -> bool:
    """End as failed with a sentence that says why; otherwise as `succeed`."""
    rows = _held(claim).filter(cancel_requested=False)
    return _end(rows, claim.id, claim.parent_id, State.FAILED, error=sentence, note="") or stopped(claim)


def stopped(claim: Claim) -> bool:
    """End as cancelled: the work has stopped. False: no cancel was asked for, or this attempt does not own the job."""
    rows = _held(claim).filter(cancel_requested=True)
    return _end(rows, claim.id, claim.parent_id, State.CANCELLED, note="", error="")


def split(claim: Claim, parts: Sequence[Part]) -> bool:
    """Hand the work to child jobs: the parent gives up its lease and waits, and no worker is busy with it."""
    parent = Job.objects.get(pk=claim.id)
    children = [_child(parent, number, part) for number, part in enumerate(parts)]
    with transaction.atomic():
        rows = _held(claim).filter(cancel_requested=False)
        waits = rows.update(lease_until=None, parts_total=len(parts), open_parts=len(parts), version=F("version") + 1)
        if not waits:
            return False
        Job.objects.bulk_create(children)
        _hint_after_commit(claim.id)
        transaction.on_commit(partial(publish, children))
    return True


def _child(parent: Job, number: int, part: Part) -> Job:
    kind = kinds.ALL[part.kind]
    params = kind.params.model_validate(part.params)
    lane = kind.lane_for(params)
    return Job(
        owner_id=parent.owner_id,
        kind=kind.name,
        lane=lane,
        params=params.model_dump(mode="json"),
        max_attempts=settings.LANES[lane].max_attempts,
        parent=parent,
        part=number,
    )


# ---- another attempt ------------------------------------------------------------------------------------------------


def retry(claim: Claim, sentence: str) -> bool:
    """Queue a job again after a transient error, or fail it if that was its last attempt.

    Backoff: random(0, base x 2^(attempt - 1)), "full jitter" of Brooker, AWS Architecture Blog, 2015.
    """
    job = Job.objects.filter(pk=claim.id).only("max_attempts").first()
    if job is None or claim.attempt >= job.max_attempts:
        return fail(claim, sentence)
    delay = random.uniform(0, ENV.retry_base_s * 2 ** (claim.attempt - 1))  # noqa: S311  (jitter, not a secret)
    rows = _held(claim).filter(cancel_requested=False)
    return _requeue(rows, claim.id, f"trying again: {sentence}", timedelta(seconds=delay)) or stopped(claim)


def _requeue(rows: QuerySet[Job], job_id: uuid.UUID, note: str, delay: timedelta | None = None) -> bool:
    """The sweeper publishes it within a second or so: whoever calls this must not wait for a broker that hangs."""
    queued = rows.filter(pk=job_id).update(
        state=State.QUEUED,
        lease_until=None,
        version=F("version") + 1,
        note=note[:200],
        run_after=Now() + delay if delay else None,
        published_at=None,
    )
    if queued:
        _hint_after_commit(job_id)
    return bool(queued)


def lose(job: Job, cause: str) -> bool:
    """Take a job (as just read) from a dead worker: queue it again, or end it if that was its last attempt."""
    rows = Job.objects.filter(pk=job.pk, attempt=job.attempt, state=State.RUNNING, open_parts=0)
    worker = job.worker or "an unknown worker"
    if job.cancel_requested:
        return _end(rows, job.pk, job.parent_id, State.CANCELLED, note="", error="")
    last = job.attempt >= job.max_attempts
    lost = "attempt lost: the job fails, it was the last" if last else "attempt lost: the job is queued again"
    log.warning(lost, job=str(job.pk), attempt=job.attempt, worker=worker, cause=cause)
    if not last:
        return _requeue(rows, job.pk, f"running again: {cause} ({worker})")
    times = f"its worker died {job.attempt} times, the last time" if job.attempt > 1 else "its worker died,"
    sentence = f"Gave up: {times} {worker}: {cause}."
    ended = _end(rows, job.pk, job.parent_id, State.FAILED, error=sentence, note="")
    if ended:
        tally(poisoned=1)
    return ended


def lose_on(worker: str, job_id: uuid.UUID, cause: str) -> bool:
    """A worker says that it has lost a job that it ran (its pool process died), so the lease need not run out first."""
    job = Job.objects.filter(pk=job_id, worker=worker, state=State.RUNNING, open_parts=0).first()
    return job is not None and lose(job, cause)


def overrun_on(worker: str, job_id: uuid.UUID, limit_s: float) -> bool:
    """A worker has killed a job at its hard time limit: trying again would take as long, so it fails."""
    rows = Job.objects.filter(worker=worker, state=State.RUNNING, open_parts=0)
    job = rows.filter(pk=job_id).first()
    if job is None:
        return False
    rows = rows.filter(attempt=job.attempt)
    return _end(rows, job.pk, job.parent_id, State.FAILED, note="", error=time_limit_sentence(limit_s))


def time_limit_sentence(limit_s: float) -> str:
    """What the user of a job that ran too long reads."""
    return f"Stopped: it ran longer than its lane allows ({limit_s:g} s); ask for less work in one job."


# ---- cancelling -----------------------------------------------------------------------------------------------------


def cancel(job_id: uuid.UUID) -> Job:
    """Cancel a job: at once if queued or waiting for parts; if running, killed (prefork) or asked to stop.

    Returns the job as it is now; one that has already ended is returned unchanged.
    """
    with transaction.atomic():
        parent_id = Job.objects.values_list("parent_id", flat=True).get(pk=job_id)
        if parent_id:
            Job.objects.select_for_update().filter(pk=parent_id).first()
        job = Job.objects.select_for_update().get(pk=job_id)
        if job.state in OPEN:
            _cancel_open(job)
    return Job.objects.get(pk=job_id)


def _cancel_open(job: Job) -> None:
    rows = Job.objects.filter(attempt=job.attempt, state=job.state, open_parts=job.open_parts)
    if job.state == State.RUNNING and not job.open_parts:
        rows.filter(pk=job.pk).update(cancel_requested=True, note="stopping", version=F("version") + 1)
        _hint_after_commit(job.pk)
        transaction.on_commit(partial(_kill, job))
        return
    _end(rows, job.pk, job.parent_id, State.CANCELLED, cancel_requested=True, note="")
    for part in Job.objects.select_for_update().filter(parent=job, state__in=OPEN).order_by("part"):
        _cancel_open(part)


def _kill(job: Job) -> None:
    """Ask the worker to kill the pool process that runs it. Only prefork can; elsewhere the next report stops it."""
    if job.pool != "prefork":
        return
    try:
        app.control.revoke(str(job.pk), terminate=True, destination=[job.worker])
    except Exception as error:  # noqa: BLE001  (whatever the broker does, the next progress report stops the job)
        log.warning("job not killed: it stops at its next progress report", job=str(job.pk), error=str(error))


# ---- sweeping (jobs/sweeper.py calls these) -------------------------------------------------------------------------


def expired_leases(limit: int) -> list[Job]:
    """Running jobs whose lease has run out, with the database's `now`."""
    rows = Job.objects.filter(state=State.RUNNING, lease_until__lt=Now()).annotate(now=Now())
    return list(rows.order_by("lease_until")[:limit])


def due(limit: int) -> list[uuid.UUID]:
    """Queued jobs that are due and not yet published."""
    rows = Job.objects.filter(state=State.QUEUED, published_at=None).exclude(run_after__gt=Now())
    return list(rows.order_by("run_after", "id").values_list("pk", flat=True)[:limit])


def overtaken(
    lane: str, head_published_at: datetime | None, limit: int, of: Sequence[str] | None = None
) -> list[uuid.UUID]:
    """Queued jobs that the broker lost: their queue is empty (`None`), or its head was published well after them.

    `of`: the kinds of the queue, where a lane has several.
    """
    long_ago = Now() - timedelta(seconds=ENV.lost_after_s)
    rows = Job.objects.filter(state=State.QUEUED, lane=lane, published_at__lt=long_ago)
    if of is not None:
        rows = rows.filter(kind__in=of)
    if head_published_at is not None:
        rows = rows.filter(published_at__lt=head_published_at - timedelta(seconds=1))
    return list(rows.order_by("published_at").values_list("pk", flat=True)[:limit])


def publish_now(ids: Sequence[uuid.UUID]) -> bool:
    """Publish queued jobs, with `published_at` set to now."""
    Job.objects.filter(pk__in=ids, state=State.QUEUED).update(published_at=Now())
    rows = Job.objects.filter(pk__in=ids, state=State.QUEUED).only("lane", "kind", "published_at")
    return publish(list(rows.order_by("id")))


def expire(older_than: timedelta, limit: int = 500) -> int:
    """Delete jobs that ended longer ago than this, with their parts and artifacts; how many rows went."""
    old = Job.objects.filter(parent=None, state__in=FINISHED, finished_at__lt=Now() - older_than)
    ids = list(old.order_by("finished_at").values_list("pk", flat=True)[:limit])
    return Job.objects.filter(pk__in=ids).delete()[0]


def mark_notified(job_ids: Sequence[uuid.UUID]) -> None:
    """Store when the first client of each of these jobs was told of its end: now."""
    Job.objects.filter(pk__in=job_ids, notified_at=None, state__in=FINISHED).update(notified_at=Now())
