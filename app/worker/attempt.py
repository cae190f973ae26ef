"""One attempt of a job: claims it, calls its kind, and tells the ledger how it ended."""

import itertools
import json
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from typing import Any, Self, TypeVar

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Reject
from celery.signals import worker_shutting_down
from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections

import kinds
from config.lanes import Lane
from jobs import services
from jobs.models import Job, JobArtifact
from jobs.services import Claim
from kinds.base import KindFailed, Outcome, PartOutcome, Split, Stopped, Transient

log = structlog.get_logger(__name__)
REPORT_EVERY_S = 0.25
TOGETHER_S = 0.02  # what has ended within this is told together
MOST_TOGETHER = 8
ending: set[str] = set()  # messages of which a job's work is done here, and its end is being told to the ledger
held: dict[str, list[str]] = {}  # the jobs that are claimed by each message that runs in this process
_told_to_stop = mmap(-1, 1)  # one byte, which the pool's processes share with their parent
T = TypeVar("T")


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_waiting(**_: Any) -> None:
    _told_to_stop[0] = 1


class OverTime(Exception):
    """The job passed its lane's soft time limit (threads and solo, where Celery has none)."""


class Reporter:
    """The progress callback of one attempt: writes every REPORT_EVERY_S seconds at most, and stops jobs."""

    def __init__(self, claim: Claim, lane: Lane) -> None:
        self._claim = claim
        self._due = time.monotonic() + REPORT_EVERY_S
        self._deadline = time.monotonic() + lane.soft_time_limit

    def __call__(self, share: float, note: str = "") -> None:
        now = time.monotonic()
        if now > self._deadline:
            raise OverTime
        if now < self._due:
            return
        self._due = now + REPORT_EVERY_S
        try:
            go_on = services.report(self._claim, min(max(share, 0.0), 1.0), note)
        except (OperationalError, InterfaceError):
            close_old_connections()  # without the database the work goes on, and its end waits
            return
        if not go_on:
            raise Stopped


def execute(job_ids: Sequence[uuid.UUID], worker: str) -> None:
    """Claim the jobs of a message, run one after the other, and end each. Those that are not claimed are duplicates."""
    message = str(job_ids[0])
    claims = _claim(job_ids, worker, log.bind(job=message))
    for job_id in set(job_ids).difference(claim.id for claim in claims):
        log.info("message dropped: the job is not queued, not due, or for another release", job=str(job_id))
    held[message] = [str(claim.id) for claim in claims]
    try:
        with Ends(message) as ends:
            for claim in claims:
                bound = log.bind(job=str(claim.id), kind=claim.kind, attempt=claim.attempt)
                bound.info("attempt started")
                ends.add(claim, _attempt(claim, bound), bound)
    finally:
        del held[message]


@dataclass(frozen=True)
class Succeeded:
    """Tells the ledger what an attempt has made."""

    claim: Claim
    outcome: Outcome

    def __call__(self) -> bool:
        return services.succeed(self.claim, self.outcome.result, self.outcome.artifact)

    @property
    def plain(self) -> bool:
        """Nothing but its row changes."""
        return self.outcome.artifact is None and self.claim.parent_id is None and not self.claim.joining


class Ends:
    """Tells the ledger how the attempts of a message ended: of short ones that succeeded, of some together."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._plain: list[tuple[Succeeded, Any]] = []
        self._due = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, claim: Claim, tell: Callable[[], bool], bound: Any) -> None:
        """The attempt of this claim is over."""
        if isinstance(tell, Succeeded) and tell.plain:
            if not self._plain:
                self._due = time.monotonic() + TOGETHER_S
            self._plain.append((tell, bound))
            if time.monotonic() > self._due or len(self._plain) == MOST_TOGETHER:
                self._flush()
        else:
            _told(bound, _tell(claim, tell, bound, self._message))

    def _flush(self) -> None:
        plain, self._plain = self._plain, []
        for (_, bound), kept in zip(plain, self._told(plain), strict=True):
            _told(bound, kept)

    def _told(self, plain: Sequence[tuple[Succeeded, Any]]) -> list[bool]:
        if len(plain) > 1:
            done = [(one.claim, one.outcome.result) for one, _ in plain]
            ending.add(self._message)
            try:
                return _through_outages(partial(services.succeed_all, done), plain[0][1], float("inf"))
            except (OperationalError, InterfaceError):
                raise
            except Exception as error:  # noqa: BLE001  (the ledger cannot store one of them: each is told by itself)
                plain[0][1].warning("results not stored together", error=str(error))
            finally:
                ending.discard(self._message)
        return [_tell(one.claim, one, bound, self._message) for one, bound in plain]


def _told(bound: Any, kept: bool) -> None:
    bound.info("attempt ended" if kept else "output discarded: this attempt no longer owns the job")


def _tell(claim: Claim, tell: Callable[[], bool], bound: Any, message: str) -> bool:
    """Tell the ledger how the attempt ended, however long the database is away, unless this worker is told to stop."""
    ending.add(message)
    try:
        return _through_outages(tell, bound, float("inf"))
    except (OperationalError, InterfaceError):
        raise
    except Exception:  # noqa: BLE001  (the ledger cannot store what the kind returned: the job ends all the same)
        bound.exception("the kind has a bug: the job fails")
        return _through_outages(partial(services.fail, claim, _bug(claim)), bound, float("inf"))
    finally:
        ending.discard(message)


def _claim(job_ids: Sequence[uuid.UUID], worker: str, bound: Any) -> list[Claim]:
    """Claim, waiting for a database that is away; if it stays away, the message goes back to its queue.

    A claim that was committed, but whose answer was lost, is given back: nobody would run the job, and its lease would
    be renewed for as long as this worker has the message.
    """
    pool = settings.LANES[settings.ENV.lane].pool if settings.ENV.lane else ""
    tries = itertools.count()

    def attempt() -> list[Claim]:
        tried_before = next(tries) > 0
        claims = services.claim_all(job_ids, worker, pool)
        if tried_before:
            for job_id in set(job_ids).difference(claim.id for claim in claims):
                services.lose_on(worker, job_id, "the database went away while it was claimed")
        return claims

    try:
        return _through_outages(attempt, bound, 2 * settings.ENV.lease_s)
    except (OperationalError, InterfaceError) as error:
        raise Reject(str(error), requeue=True) from error


def _attempt(claim: Claim, bound: Any) -> Callable[[], bool]:
    """Run the kind; returns the call that tells the ledger how it ended."""
    lane = settings.LANES[claim.lane]
    transient: tuple[type[Exception], ...] = (Transient, *kinds.ALL[claim.kind].transient)
    try:
        return _settlement(claim, _run(claim, Reporter(claim, lane)))
    except Stopped:
        return partial(services.stopped, claim)
    except (OverTime, SoftTimeLimitExceeded):
        return partial(services.fail, claim, services.time_limit_sentence(lane.soft_time_limit))
    except transient as error:
        return partial(services.retry, claim, _sentence(error))
    except KindFailed as error:
        return partial(services.fail, claim, _sentence(error))
    except Exception:  # noqa: BLE001  (whatever a kind raises, its job ends with a sentence and the slot stays usable)
        bound.exception("the kind has a bug: the job fails")
        return partial(services.fail, claim, _bug(claim))


def _bug(claim: Claim) -> str:
    return f"The {claim.kind} kind failed in a way its author did not expect."


def _sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).replace("\x00", "")[:1000]


def _run(claim: Claim, progress: Reporter) -> Outcome | Split:
    kind = kinds.ALL[claim.kind]
    params = kind.params.model_validate(claim.params)
    if not claim.joining:
        return kind.run(params, progress)
    if kind.join is None:
        raise TypeError(f"{kind.name} split itself but has no join")
    return kind.join(params, _parts(claim), progress)


def _parts(claim: Claim) -> list[PartOutcome]:
    parts = Job.objects.filter(parent_id=claim.id).order_by("part")
    files = dict(JobArtifact.objects.filter(job__parent_id=claim.id).values_list("job_id", "content"))
    content = {job_id: bytes(raw) for job_id, raw in files.items()}  # PostgreSQL returns memoryviews
    return [PartOutcome(one.state, one.params, one.result, one.error, content.get(one.pk)) for one in parts]


def _settlement(claim: Claim, outcome: Outcome | Split) -> Callable[[], bool]:
    if isinstance(outcome, Split):
        if not outcome.parts:
            raise ValueError(f"{claim.kind} split itself into no parts")
        return partial(services.split, claim, outcome.parts)
    too_big = _too_big(outcome)
    if too_big:
        return partial(services.fail, claim, too_big)
    return Succeeded(claim, outcome)


def _too_big(outcome: Outcome) -> str:
    size = len(json.dumps(outcome.result, allow_nan=False).encode())
    limit = settings.ENV.max_result_bytes
    if size > limit:
        return f"The result is {size:,} bytes, over the limit of {limit:,}; ask for less in one job."
    size = len(outcome.artifact.content) if outcome.artifact else 0
    limit = settings.ENV.max_artifact_bytes
    if size > limit:
        return f"The file is {size:,} bytes, over the limit of {limit:,}; ask for less in one job."
    return ""


def _through_outages(tell: Callable[[], T], bound: Any, patience_s: float) -> T:
    """Call, and call again while the database is away; the fence makes a second call harmless.

    What the attempt has made is kept until then, past its time limit too, unless the worker is told to stop.
    """
    pause = 0.1
    deadline = time.monotonic() + patience_s
    while True:
        try:
            try:
                return tell()
            except (OperationalError, InterfaceError) as error:
                if time.monotonic() > deadline or _told_to_stop[0]:
                    raise
                bound.warning("the database does not take it: trying again", error=str(error))
                close_old_connections()
                time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  (jitter, not a secret)
                pause = min(2 * pause, 2.0)
        except SoftTimeLimitExceeded:
            if patience_s < float("inf"):
                raise
