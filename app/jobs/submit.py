"""Submitting: check, commit the rows, answer. The jobs are published after the commit; if that fails, the client is not
told, and the sweeper publishes them later."""

import hashlib
import json
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Min, Q, Sum
from django.db.models.functions import Now
from pydantic import ValidationError

import kinds
from config.postgresql import Prepared
from jobs import hints
from jobs.ids import is_repeated, new_id
from jobs.models import OPEN, Job, State, counted, runnable
from jobs.publish import publish
from jobs.room import room
from jobs.statements import Statement, write
from kinds.base import Kind, Params

BACKLOG_SEEN_FOR_S = 1.0
STORED_SEEN_FOR_S = 60.0


@dataclass(frozen=True)
class Submission:
    """What a client asks for."""

    kind: str
    params: dict[str, Any]
    idempotency_key: str | None = None
    run_after: datetime | None = None


@dataclass
class Refused(Exception):
    """A submission that was not accepted: one sentence that says what to change, and which fields.

    `index` is the place, in a batch, of the one that was refused; `http_status` is what it is answered with.
    """

    detail: str
    fields: list[dict[str, str]] = field(default_factory=list)
    index: int | None = None
    http_status = 422

    def __str__(self) -> str:
        return self.detail


class InvalidSubmission(Refused):
    """The kind is unknown or its params are wrong."""


class KeyConflict(Refused):
    """The idempotency key was used for another submission."""

    http_status = 409


class TooManyOpenJobs(Refused):
    """The user has as many open jobs as allowed."""

    http_status = 429


class TooMuchStored(Refused):
    """What the user's jobs keep is over the limit."""

    http_status = 429


class LaneFull(Refused):
    """The lane's backlog is over its limit; it may be accepted after settings.RETRY_AFTER_S seconds."""

    http_status = 503


class DatabaseFull(Refused):
    """The database has no room for more jobs."""

    http_status = 503


@dataclass(frozen=True)
class _Checked:
    id: uuid.UUID
    submission: Submission
    kind: Kind
    lane: str
    params: dict[str, Any]
    fingerprint: str
    size: int


def available_kinds() -> dict[str, Kind]:
    """The kinds that users may submit, by name."""
    synthetic = settings.ENV.synthetic_kinds
    return {name: kind for name, kind in kinds.ALL.items() if not kind.internal and (synthetic or not kind.synthetic)}


def _invalid(error: ValidationError, kind: Kind) -> InvalidSubmission:
    fields = [
        {"field": ".".join(["params", *map(str, one["loc"])]), "why": one["msg"].removeprefix("Value error, ")}
        for one in error.errors(include_input=False, include_url=False)
    ]
    first = fields[0]
    return InvalidSubmission(f"{first['field']} of {kind.name} is not right: {first['why']}.", fields)


def _params(kind: Kind, raw: dict[str, Any]) -> Params:
    try:
        return kind.params.model_validate_json(json.dumps(raw, allow_nan=True))
    except ValidationError as error:
        raise _invalid(error, kind) from None


def _check(one: Submission) -> _Checked:
    allowed = available_kinds()
    if one.kind not in allowed:
        why = f"there is no such kind; choose one of {', '.join(allowed)}"
        raise InvalidSubmission(f"kind is not right: {why}.", [{"field": "kind", "why": why}])
    kind = allowed[one.kind]
    params = _params(kind, one.params)
    stored = params.model_dump(mode="json")
    body = json.dumps([one.kind, stored, one.run_after.isoformat() if one.run_after else None], sort_keys=True)
    fingerprint = hashlib.sha256(body.encode()).hexdigest()
    return _Checked(new_id(), one, kind, kind.lane_for(params), stored, fingerprint, len(body))


def _check_all(submissions: Sequence[Submission]) -> list[_Checked]:
    checked: list[_Checked] = []
    for one in submissions:
        try:
            checked.append(_check(one))
        except InvalidSubmission as refused:
            refused.index = len(checked)
            raise
    return checked


def submit(owner_id: int, submissions: Sequence[Submission]) -> list[tuple[Job, bool]]:
    """Accept all submissions or none; for each its job, and whether it is new (False: its key was known).

    Raises:
        InvalidSubmission, KeyConflict, TooManyOpenJobs, TooMuchStored, LaneFull, DatabaseFull: nothing was stored.
    """
    checked = _check_all(submissions)
    for tries_left in (2, 1, 0):
        try:
            return _store(owner_id, checked)
        except IntegrityError:  # another request stored one of the keys in between: its job is found next time
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def _store(owner_id: int, checked: Sequence[_Checked]) -> list[tuple[Job, bool]]:
    if job := _store_at_once(owner_id, checked):
        return [(job, True)]
    with transaction.atomic():
        known = _known(owner_id, checked)
        stored = _stored_before(owner_id, checked)
        new: list[Job] = []
        answer: list[tuple[Job, bool]] = []
        for one in checked:
            if one.id in stored:
                answer.append((stored[one.id], True))
                continue
            key = one.submission.idempotency_key
            job = known.get(key) if key else None
            answer.append((job, False) if job else (_job(owner_id, one), True))
            if job and job.fingerprint != one.fingerprint:
                raise KeyConflict(f"The idempotency key {key!r} was used for another submission; use a new key.")
            if not job:
                new.append(answer[-1][0])
                known |= {key: new[-1]} if key else {}
        if new:
            _refuse_floods(owner_id, {job.lane for job in new if job.run_after is None})
            _refuse_crowds(owner_id, new)
            Job.objects.bulk_create(new)
            transaction.on_commit(partial(hints.tell_of_new, new))
        unsent = [job for job in (*new, *stored.values()) if job.published_at and job.state == State.QUEUED]
        transaction.on_commit(partial(publish, unsent))
    return answer


def _store_at_once(owner_id: int, checked: Sequence[_Checked]) -> Job | None:
    """One job, as most clients send it, in one statement. None: it is not such a one, or the limit does not let it in,
    and the way above says so.
    """
    one = checked[0].submission
    plain = len(checked) == 1 and one.idempotency_key is None and one.run_after is None and not is_repeated()
    if not plain or connection.vendor != "postgresql":
        return None
    job = _job(owner_id, checked[0])
    _refuse_floods(owner_id, {job.lane})
    fields, statement = _inserting(settings.ENV.max_open_jobs)
    values = {field.attname: field.get_db_prep_save(getattr(job, field.attname), connection) for field in fields}
    with connection.cursor() as cursor:
        statement.run(cursor, **values, owner=owner_id)
        row = cursor.fetchone()
    if row is None:
        return None
    job.created_at, job.published_at = row
    transaction.on_commit(partial(hints.tell_of_new, [job]))
    transaction.on_commit(partial(publish, [job]))
    return job


@cache
def _inserting(limit: int) -> tuple[list[Any], Statement]:
    """Inserts a job, by these fields, of a user who has fewer than `limit` open; returns what the database chose."""
    chosen = ("created_at", "published_at")
    fields = [field for field in Job._meta.concrete_fields if field.name not in chosen]
    columns = ", ".join(str(field.column) for field in fields)
    values = ", ".join(["%s"] * len(fields))
    counting = _counting(limit)
    sql = Prepared(
        f"INSERT INTO {Job._meta.db_table} ({columns}) SELECT {values} "
        f"WHERE ({counting.sql}) < {limit:d} RETURNING {', '.join(chosen)}"
    )
    names = [field.attname for field in fields]
    return fields, Statement(sql, (*names, *counting.values), (*names, *counting.blanks))


def _stored_before(owner_id: int, checked: Sequence[_Checked]) -> dict[uuid.UUID, Job]:
    """What this submit has stored already, if it is done once more because the answer to its commit was lost."""
    rows = Job.objects.filter(owner_id=owner_id, pk__in=[one.id for one in checked]) if is_repeated() else ()
    return {job.pk: job for job in rows}


def _known(owner_id: int, checked: Sequence[_Checked]) -> dict[str | None, Job]:
    keys = [one.submission.idempotency_key for one in checked if one.submission.idempotency_key]
    rows = Job.objects.filter(owner_id=owner_id, idempotency_key__in=keys) if keys else ()
    return {job.idempotency_key: job for job in rows}


def _job(owner_id: int, one: _Checked) -> Job:
    later = {"run_after": one.submission.run_after, "published_at": None} if one.submission.run_after else {}
    return Job(
        id=one.id,
        owner_id=owner_id,
        kind=one.kind.name,
        lane=one.lane,
        params=one.params,
        max_attempts=settings.LANES[one.lane].max_attempts,
        idempotency_key=one.submission.idempotency_key,
        fingerprint=one.fingerprint,
        stored_bytes=counted(one.size),
        **later,
    )


# ---- back-pressure --------------------------------------------------------------------------------------------------

_backlog_seen: dict[str, tuple[float, int]] = {}
_stored_seen: dict[int, tuple[float, int, datetime | None]] = {}


def _refuse_floods(owner_id: int, lanes: Collection[str]) -> None:
    """By what this process has seen in the last seconds."""
    if room().full:
        raise DatabaseFull("The database has no room for more jobs; try again later, when some have been deleted.")
    _refuse_collectors(owner_id)
    for lane in lanes:
        most, wait_s = settings.LANES[lane].max_backlog, settings.RETRY_AFTER_S
        if backlog(lane, most) >= most:
            raise LaneFull(f"The {lane} lane has {most} jobs waiting, its limit; try again in {wait_s} s.")


def _refuse_crowds(owner_id: int, new: Sequence[Job]) -> None:
    limit = settings.ENV.max_open_jobs
    open_jobs = _open_jobs(owner_id, limit + 1)
    if open_jobs + len(new) > limit:
        raise TooManyOpenJobs(f"You have {open_jobs} open jobs of at most {limit}; wait for some to end.")
    if later := sum(job.run_after is not None for job in new):
        _refuse_hoards(owner_id, later)


def _refuse_hoards(owner_id: int, later: int) -> None:
    most = settings.ENV.max_scheduled_jobs
    scheduled = Job.objects.filter(owner_id=owner_id, parent=None, state=State.QUEUED, run_after__gt=Now())
    if (there := scheduled[: most + 1].count()) + later > most:
        raise TooManyOpenJobs(
            f"You have {there} jobs that are to run later, of at most {most}; wait for some to start, or cancel some."
        )


def _refuse_collectors(owner_id: int) -> None:
    """Jobs that are open already may still store something, so a user may get past the limit by what they make."""
    most, days = settings.ENV.max_stored_bytes, settings.ENV.retention_days
    used, oldest = _stored(owner_id)
    if used > most:
        first = f", the first of them at {oldest + timedelta(days=days):%Y-%m-%d %H:%M} UTC" if oldest else ""
        raise TooMuchStored(
            f"Your jobs keep {used / 1e6:,.1f} MB, over the limit of {most / 1e6:,.1f}; they are deleted {days:g} days "
            f"after their end{first}: submit again when enough of them are."
        )


def _stored(owner_id: int) -> tuple[int, datetime | None]:
    """Bytes that a user's jobs keep, and when the oldest of these ended; added up anew after STORED_SEEN_FOR_S seconds,
    or a hundred times as long as that takes.
    """
    until, used, oldest = _stored_seen.get(owner_id, (float("-inf"), 0, None))
    if (now := time.monotonic()) > until:
        rows = Job.objects.filter(owner_id=owner_id, stored_bytes__gt=0)
        used, oldest = rows.aggregate(Sum("stored_bytes", default=0), Min("finished_at")).values()
        until = time.monotonic() + max(STORED_SEEN_FOR_S, 100 * (time.monotonic() - now))
        _stored_seen[owner_id] = (until, used, oldest)
    return used, oldest


def _open_jobs(owner_id: int, most: int) -> int:
    statement = _counting(most)
    with connection.cursor() as cursor:
        statement.run(cursor, owner=owner_id)
        return int(cursor.fetchone()[0])


@cache
def _counting(most: int) -> Statement:
    """The open jobs of a user, counted up to `most`."""
    nobody = -1
    rows = Job.objects.filter(owner_id=nobody, parent=None).filter(Q(state__in=OPEN)).order_by().values("pk")
    return write(rows[:most].query, {"owner": nobody}, "SELECT COUNT(*) FROM ({}) AS open")


def backlog(lane: str, most: int) -> int:
    """How many jobs of a lane are queued and due, up to `most`; counted anew after BACKLOG_SEEN_FOR_S seconds."""
    seen_at, count = _backlog_seen.get(lane, (float("-inf"), 0))
    if time.monotonic() - seen_at > BACKLOG_SEEN_FOR_S:
        count = runnable(Job.objects.filter(lane=lane, state=State.QUEUED))[:most].count()
        _backlog_seen[lane] = (time.monotonic(), count)
    return count
