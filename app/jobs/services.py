"""The life of a job. Nothing else writes `Job.state`; every change is one conditional UPDATE, so a race has one winner.

queued --claim--> running --succeed | fail | cancel--> succeeded | failed | cancelled
running --retry | lose--> queued        (a transient error, a dead worker)
running --split--> running, no lease    (its parts run as jobs of their own)
running, no lease --the last part ends--> queued, joining
"""

import json
import random
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache, partial
from typing import Any

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import (
    Case,
    DateTimeField,
    DurationField,
    F,
    JSONField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
    When,
)
from django.db.models.functions import Cast, Length, Now
from django.db.models.lookups import LessThan

import kinds
from config.celery import app
from fleet.records import held, tally, writable
from jobs import hints
from jobs.models import DUE_AT, FINISHED, OPEN, Clock, Job, JobArtifact, State, counted, runnable, unlocked
from jobs.publish import publish
from jobs.statements import Update
from kinds.base import Artifact, Part

log = structlog.get_logger(__name__)
ENV = settings.ENV
ANY = Q()
MOST_SHARED_DEATHS = 10
FILE_DROPPED = "its file was dropped when it had gone into the whole"  # the note of a part


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
    return Clock() + timedelta(seconds=ENV.lease_s)


def _update(rows: QuerySet[Job], **values: Any) -> Job | None:
    """Change one row, if it is still in `rows`; what it is afterwards, as far as a hint tells of it."""
    job: Job | None = Update(rows, values | {"version": F("version") + 1}, hints.COLUMNS).one()
    return job


def _hint_after_commit(job: Job) -> None:
    transaction.on_commit(partial(hints.tell, job))


def _publish_after_commit(ids: Sequence[uuid.UUID]) -> None:
    """The rows are read after the commit: `published_at` is by the database's clock, and the message carries it."""
    transaction.on_commit(lambda: publish(list(Job.objects.filter(pk__in=ids, state=State.QUEUED))))


# ---- running --------------------------------------------------------------------------------------------------------


def claim(job_id: uuid.UUID, worker: str, pool: str) -> Claim | None:
    """`claim_all` for one job."""
    return next(iter(claim_all([job_id], worker, pool)), None)


def claim_all(job_ids: Sequence[uuid.UUID], worker: str, pool: str) -> list[Claim]:
    """Take those of the jobs that are queued and due, in this order. The others run, have ended, are not due, or are of
    a kind or a lane that this release does not know; drop their message, since the sweeper publishes again what stays
    queued.
    """
    ids = {f"id{number}": _stored(job_id) for number, job_id in enumerate(job_ids)}
    jobs = {job.pk: job for job in _claiming(len(job_ids)).all(**ids, worker=worker, pool=pool)}
    for job in jobs.values():
        hints.SOON.tell(job)
    taken = [jobs[job_id] for job_id in dict.fromkeys(job_ids) if job_id in jobs]
    return [Claim(job.pk, job.attempt, job.kind, job.lane, job.params, job.joining, job.parent_id) for job in taken]


def _stored(job_id: uuid.UUID) -> Any:
    """The id as this database stores it; SQLite has no UUIDs."""
    return Job._meta.pk.get_db_prep_value(job_id, connection)


NOBODY = uuid.UUID(int=0)  # stands for an id in what is written once


@cache
def _claiming(count: int) -> Update:
    """The conditional update, which returns what the worker must know of the job."""
    ours = {"kind__in": list(kinds.ALL), "lane__in": list(settings.LANES.lanes)}  # else another release must run it
    first = Case(When(joining=True, then=F("started_at")), default=Now(), output_field=DateTimeField())
    values = {
        "state": State.RUNNING,
        "attempt": F("attempt") + 1,
        "version": F("version") + 1,
        "lease_until": _lease(),
        "worker": "its worker",
        "pool": "its pool",
        "started_at": first,
        "note": "",
    }
    ids = [uuid.UUID(int=number) for number in range(count)]
    blanks = {f"id{number}": _stored(one) for number, one in enumerate(ids)}
    blanks |= {"worker": "its worker", "pool": "its pool"}
    columns = (*hints.COLUMNS, "kind", "lane", "params", "joining")
    return Update(runnable(Job.objects.filter(pk__in=ids, state=State.QUEUED, **ours)), values, columns, blanks)


def _held(claim: Claim) -> QuerySet[Job]:
    """The fence: the row of this job, only while this attempt owns it."""
    return Job.objects.filter(pk=claim.id, attempt=claim.attempt, state=State.RUNNING, open_parts=0)


def report(claim: Claim, share: float, note: str) -> bool:
    """Record progress. False: stop working, because a cancel was asked for or this attempt no longer owns the job."""
    note = note[:200]
    job = _reporting().one(id=_stored(claim.id), attempt=claim.attempt, progress=share, note=note)
    if job is None:
        return False
    hints.tell(job)
    return True


ANYBODY = Claim(NOBODY, 2_000_000_000, "", "", {}, False, None)  # stands for a claim in what is written once


@cache
def _reporting() -> Update:
    rows = _held(ANYBODY).filter(cancel_requested=False)
    values = {"progress": -1.0, "note": "its note", "version": F("version") + 1}
    blanks = {"id": _stored(NOBODY), "attempt": ANYBODY.attempt, "progress": -1.0, "note": "its note"}
    return Update(rows, values, hints.COLUMNS, blanks)


def renew(worker: str, job_ids: Sequence[uuid.UUID]) -> int:
    """Renew, in one statement, the leases of the jobs that a worker is really running; how many were renewed.

    A row that somebody else has locked is left out: the others must not wait for it.
    """
    mine = Job.objects.filter(pk__in=job_ids, worker=worker, state=State.RUNNING, lease_until__isnull=False)
    with transaction.atomic():
        return int(unlocked(mine).update(lease_until=_lease())) if job_ids else 0


# ---- ending ---------------------------------------------------------------------------------------------------------


def _end(rows: QuerySet[Job], job_id: uuid.UUID, parent_id: uuid.UUID | None, state: State, **values: Any) -> bool:
    """Move the row to a terminal state, without a result, if it is still in `rows`, and tell its parent."""
    ended = {"state": state, "finished_at": Now(), "lease_until": None, **values}
    return _ended(partial(_update, rows.filter(pk=job_id), **ended), parent_id)


def _ended(
    end: Callable[[], Job | None],
    parent_id: uuid.UUID | None,
    result: dict[str, Any] | None = None,
    artifact: Artifact | None = None,
    joins: bool = False,
) -> bool:
    """Call what ends the row; store what goes with it, and tell its parent. Locks parents before parts."""
    alone = parent_id is None and artifact is None and not joins  # one statement needs no BEGIN and COMMIT around it
    with nullcontext() if alone else transaction.atomic():
        parent = Job.objects.select_for_update().filter(pk=parent_id).first() if parent_id else None
        job = end()
        if job is None:
            return False
        job.result = result
        if artifact is not None:
            content = {"media_type": artifact.media_type, "filename": artifact.filename, "content": artifact.content}
            JobArtifact.objects.create(job_id=job.pk, **content)
        if joins:
            _drop_files_of_parts(job.pk)
        if parent is not None:
            _part_ended(parent)
        job.has_artifact = artifact is not None  # type: ignore[attr-defined]
        _hint_after_commit(job)
    return True


def _drop_files_of_parts(parent_id: uuid.UUID) -> None:
    """The whole has what they hold; the tiles of a poster would take as much again. Their results stay."""
    parts = Job.objects.filter(parent_id=parent_id)
    size = JobArtifact.objects.filter(job=OuterRef("pk")).values(size=Length("content"))
    parts.filter(artifact__isnull=False).update(
        note=FILE_DROPPED, stored_bytes=F("stored_bytes") - Subquery(size), version=F("version") + 1
    )
    files = JobArtifact.objects.filter(job_id__in=parts.values("pk"))
    files._raw_delete(files.db)


def _part_ended(parent: Job) -> None:
    """One part less to wait for; after the last one the parent is queued again, to join. The caller holds its lock."""
    left = parent.open_parts - 1
    values: dict[str, Any] = {"open_parts": left}
    if parent.state == State.RUNNING:
        values["progress"] = (parent.parts_total - left) / parent.parts_total
        if left == 0:
            lane = settings.LANES.lanes.get(parent.lane)  # none: the sweeper ends it
            allowed = parent.attempt + (lane.max_attempts if lane else 1)
            values |= {"state": State.QUEUED, "joining": True, "published_at": Now(), "run_after": None}
            values["max_attempts"] = allowed
            _publish_after_commit([parent.pk])
    if job := _update(Job.objects.filter(pk=parent.pk), **values):
        _hint_after_commit(job)


def succeed(claim: Claim, result: dict[str, Any], artifact: Artifact | None = None) -> bool:
    """End with a result, or as cancelled if that was asked for. False: this attempt no longer owns the job."""
    end = partial(_succeeding().one, **_success(claim, result, artifact))
    return _ended(end, claim.parent_id, result, artifact, claim.joining) or stopped(claim)


def succeed_all(done: Sequence[tuple[Claim, dict[str, Any]]]) -> list[bool]:
    """`succeed` for several jobs that leave nothing but a result, in one round trip."""
    jobs = _succeeding().each([_success(claim, result) for claim, result in done])
    for job, (_, result) in zip(jobs, done, strict=True):
        if job is not None:
            job.result, job.has_artifact = result, False
    hints.tell(*(job for job in jobs if job is not None))
    return [job is not None or stopped(claim) for job, (claim, _) in zip(jobs, done, strict=True)]


def _success(claim: Claim, result: dict[str, Any], artifact: Artifact | None = None) -> dict[str, Any]:
    text = json.dumps(result, allow_nan=False)
    stored = counted(len(text)) + (len(artifact.content) if artifact else 0)
    return {"id": _stored(claim.id), "attempt": claim.attempt, "result": text, "stored": stored}


@cache
def _succeeding() -> Update:
    values = {
        "state": State.SUCCEEDED,
        "finished_at": Now(),
        "lease_until": None,
        "version": F("version") + 1,
        "result": Cast(Value("its result"), JSONField()),
        "stored_bytes": F("stored_bytes") + -2,
        "progress": 1.0,
        "note": "",
        "error": "",
    }
    blanks = {"id": _stored(NOBODY), "attempt": ANYBODY.attempt, "result": "its result", "stored": -2}
    return Update(_held(ANYBODY).filter(cancel_requested=False), values, hints.COLUMNS, blanks)


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
        waits = _update(rows, lease_until=None, parts_total=len(parts), open_parts=len(parts))
        if waits is None:
            return False
        Job.objects.bulk_create(children, 1000)  # a statement may have 65,535 values
        _hint_after_commit(waits)
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


def _requeue(rows: QuerySet[Job], job_id: uuid.UUID, note: str, delay: timedelta | None = None, **values: Any) -> bool:
    """The sweeper publishes it within a second or so: whoever calls this must not wait for a broker that hangs."""
    job = _update(
        rows.filter(pk=job_id),
        state=State.QUEUED,
        lease_until=None,
        note=note[:200],
        run_after=Now() + delay if delay else None,
        published_at=None,
        **values,
    )
    if job is not None:
        _hint_after_commit(job)
    return job is not None


class Death(StrEnum):
    """How a worker left the job that it ran, and whether that uses up an attempt."""

    ALONE = "alone"  # the job may be the reason
    SHARED = "shared"  # it ran other jobs, and one of them may be
    OUTAGE = "outage"  # the database was away meanwhile: the worker may live, and nobody is to blame


def lose(job: Job, cause: str, death: Death = Death.ALONE, only: Q = ANY) -> bool:
    """Take a job (as just read) from a dead worker: queue it again, or end it if that was its last attempt.

    `only`: what must still be true of the row. Jobs that died together are tried apart: after a random time, up to a
    window that grows fourfold with each such death.
    """
    rows = Job.objects.filter(only, pk=job.pk, attempt=job.attempt, state=State.RUNNING, open_parts=0)
    worker = job.worker or "an unknown worker"
    if job.cancel_requested:
        return _end(rows, job.pk, job.parent_id, State.CANCELLED, note="", error="")
    shared = job.shared_deaths + (death is Death.SHARED)
    gives_up = job.attempt >= job.max_attempts if death is Death.ALONE else shared > MOST_SHARED_DEATHS
    if gives_up:
        died = job.attempt if death is Death.ALONE else shared
        times = f"its worker died {died} times, the last time" if died > 1 else "its worker died,"
        sentence = f"Gave up: {times} {worker}: {cause}."
        lost = _end(rows, job.pk, job.parent_id, State.FAILED, error=sentence, note="")
    else:
        window = min(600.0, ENV.lease_s / 8 * 4 ** (shared - 1))
        apart = timedelta(seconds=random.uniform(0, window))  # noqa: S311  (jitter, not a secret)
        free = {} if death is Death.ALONE else {"max_attempts": F("max_attempts") + 1, "shared_deaths": shared}
        delay = apart if death is Death.SHARED else None
        lost = _requeue(rows, job.pk, f"running again: {cause} ({worker})", delay, **free)
    if lost:
        said = "attempt lost: the job fails, it was the last" if gives_up else "attempt lost: the job is queued again"
        log.warning(said, job=str(job.pk), attempt=job.attempt, worker=worker, cause=cause, death=death)
    if lost and gives_up:
        tally(poisoned=1)
    return lost


def give_up(job: Job, sentence: str, only: Q = ANY) -> bool:
    """End an open job (as just read) that nobody can run. `only`: what must still be true of the row."""
    rows = Job.objects.filter(only, attempt=job.attempt, state=job.state, open_parts=0)
    ended = _end(rows, job.pk, job.parent_id, State.FAILED, error=sentence, note="")
    if ended:
        log.warning("job given up", job=str(job.pk), why=sentence)
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
        if asked := _update(rows.filter(pk=job.pk), cancel_requested=True, note="stopping"):
            _hint_after_commit(asked)
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


def probe() -> None:
    """Write nothing where workers say that they live, to see that they can.

    Raises:
        OperationalError: somebody has locked one of the two tables.
    """
    Job.objects.filter(pk=uuid.UUID(int=0)).update(version=0)
    writable()


def expired_leases(limit: int) -> list[Job]:
    """Running jobs that nobody holds, with the database's `now`: their lease has run out and no heartbeat of their
    worker names them, or they have no lease although they wait for no parts. Rows that are locked are left out.
    """
    nobody = Q(lease_until__lt=Now()) | Q(lease_until=None, open_parts=0)
    rows = Job.objects.filter(nobody, state=State.RUNNING).annotate(now=Now()).order_by("lease_until")
    if not rows.exists():
        return []
    with transaction.atomic():
        found = list(rows.select_for_update(skip_locked=True, no_key=True)[:limit])
    holders = held() if found else set()
    return [job for job in found if (job.worker, str(job.pk)) not in holders]


def not_held_up(job: Any) -> Q:
    """What must be true of an expired lease when its job is taken back: it was not renewed, and the statement did not
    wait (for a lock, for a database that stood still): whoever renews would have waited as well.
    """
    soon = LessThan(Clock(), job.now + timedelta(seconds=ENV.renew_s))
    return Q(soon, lease_until=job.lease_until)


def orphans(limit: int, patience: timedelta) -> list[Job]:
    """Queued jobs, due for longer than that, of lanes or kinds that this release no longer has: no worker runs them."""
    rows = Job.objects.filter(state=State.QUEUED)
    rows = rows.exclude(lane__in=list(settings.LANES.lanes), kind__in=list(kinds.ALL))
    return list(rows.annotate(due=DUE_AT).filter(due__lt=Now() - patience)[:limit])


def due(limit: int) -> list[uuid.UUID]:
    """Queued jobs that are due and not yet published."""
    rows = runnable(Job.objects.filter(state=State.QUEUED, published_at=None))
    return list(rows.order_by("run_after", "id").values_list("pk", flat=True)[:limit])


def is_any_queued() -> bool:
    """Whether any job waits, due or not."""
    return Job.objects.filter(state=State.QUEUED).exists()


def lanes_that_wait() -> list[str]:
    """Lanes with a job that was published a while ago and has not started."""
    long_ago = Job.objects.filter(state=State.QUEUED, published_at__lt=Now() - timedelta(seconds=ENV.lost_after_s))
    return [lane for lane in settings.LANES.lanes if long_ago.filter(lane=lane).exists()]


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
    """Publish those of the jobs that are queued and that nobody has locked, with `published_at` set to now."""
    queued = Job.objects.filter(pk__in=ids, state=State.QUEUED)
    with transaction.atomic():
        free = list(queued.select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True))
        Job.objects.filter(pk__in=free).update(published_at=Now())
    rows = queued.filter(pk__in=free).only("lane", "kind", "attempt", "published_at")
    return publish(list(rows.order_by("id")))


def expire(older_than: timedelta, limit: int = 500) -> int:
    """Delete jobs that ended longer ago than this, with their parts and artifacts; how many rows went.

    By ids, in SQL: what Django would load of them to delete it may be more than a worker's memory. A job with more than
    `limit` parts loses those first, and goes in a later step.
    """
    old = Job.objects.filter(parent=None, state__in=FINISHED, finished_at__lt=Now() - older_than)
    ids = list(old.order_by("finished_at").values_list("pk", flat=True)[:limit])
    parts = list(Job.objects.filter(parent_id__in=ids).values_list("pk", flat=True)[:limit])
    return _delete(parts) if len(parts) == limit else _delete(parts) + _delete(ids)


def _delete(ids: Sequence[uuid.UUID]) -> int:
    with transaction.atomic():
        for rows in (JobArtifact.objects.filter(job_id__in=ids), Job.objects.filter(pk__in=ids)):
            count = rows._raw_delete(rows.db)
    return int(count or 0)  # Django says None where it knows that nothing is to be done


def mark_notified(told: Sequence[tuple[uuid.UUID, timedelta]]) -> None:
    """Store when the first client of each of these jobs was told of its end: so long ago."""
    if told:
        _notifying().many([{"id": _stored(job_id), "ago": _interval(ago)} for job_id, ago in told])


def _interval(time: timedelta) -> Any:
    return DurationField().get_db_prep_value(time, connection)


@cache
def _notifying() -> Update:
    ago = timedelta(days=-1)
    rows = Job.objects.filter(pk=NOBODY, notified_at=None, state__in=FINISHED)
    values = {"notified_at": Now() - Value(ago, output_field=DurationField())}
    return Update(rows, values, (), {"id": _stored(NOBODY), "ago": _interval(ago)})
