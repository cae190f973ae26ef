"""What a hint says, to this release and to others; and starts, which are told a moment later."""

import json
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext

from harness.waiting import wait_until
from jobs import hints, services
from jobs.hints import Hint, read
from jobs.models import Job, State
from jobs.schemas import changing, lasting
from tests.app.ledger import job_of as job_in_ledger

ID = uuid.UUID(int=5)


def job_of(**values: Any) -> Job:
    plain = {"owner_id": 7, "kind": "digest", "params": {}, "max_attempts": 3, "created_at": datetime.now(UTC)}
    return Job(**{**plain, "version": 2, **values})


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hints that would be published."""
    texts: list[str] = []
    monkeypatch.setattr(hints, "_publish", texts.extend)
    return texts


def heard(sent: list[str]) -> list[Hint]:
    return [hint for text in sent if (hint := read(text.encode()))]


def test_hints_say_what_push_would_read(sent: list[str]) -> None:
    new, changed = job_of(note="two\nlines"), job_of(state=State.FAILED, version=3, parent_id=ID)
    hints.tell_of_new([new])
    hints.tell(changed)
    assert heard(sent) == [
        Hint(new.pk, 7, 2, False, False, json.dumps(changing(new)), json.dumps(lasting(new))),
        Hint(changed.pk, 7, 3, True, True, json.dumps(changing(changed))),
    ]


def test_long_ones_say_only_that_there_is_a_change(sent: list[str]) -> None:
    hints.tell_of_new([long := job_of(params={"text": "x" * hints.LONG})])
    hints.tell(failed := job_of(state=State.FAILED, error="x" * hints.LONG))
    assert heard(sent) == [Hint(long.pk, 7, 2), Hint(failed.pk, 7, 2, finished=True)]


@pytest.mark.parametrize("count", [0, 1, hints.MANY, hints.MANY + 1])
def test_of_many_new_jobs_only_their_owner_is_told(sent: list[str], count: int) -> None:
    jobs = [job_of() for _ in range(count)]
    hints.tell_of_new(jobs)
    told = [hint.id for hint in heard(sent)]
    assert told == ([job.pk for job in jobs] if count <= hints.MANY else [None])
    assert {hint.owner for hint in heard(sent)} <= {7}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (f"{ID}", Hint(ID)),
        (f"9 {ID} 7 4 1 0\n{{}}\n{{}}", Hint(ID, 7, 4, finished=True)),
        (f"9 {ID} 7 4 0 1 more\nwhatever", Hint(ID, 7, 4, part=True)),
        ("9 - 7 0 0 0", Hint(None, 7)),
    ],
)
def test_of_other_releases_hints_the_first_line_is_taken(text: str, hint: Hint) -> None:
    assert read(text.encode()) == hint


@pytest.mark.parametrize("data", [b"", b"\xff", b"hello", b"1 x 7 4 0 0", f"1 {ID} seven 4 0 0".encode(), b"1 -"])
def test_what_is_no_hint_is_passed_over(data: bytes) -> None:
    assert read(data) is None


@pytest.mark.django_db(transaction=True)
def test_each_change_is_one_statement_and_told_as_the_ledger_has_it(
    user: Any, empty_broker: Any, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints.SOON, "tell", hints.tell)

    def told_once() -> Hint:
        [hint] = heard(sent)
        sent.clear()
        job = Job.objects.get(pk=hint.id)
        assert json.loads(hint.changing or "") == changing(job)
        assert (hint.owner, hint.version, hint.finished) == (user.pk, job.version, job.finished)
        return hint

    def change(step: Callable[[], Any], statements: int = 1) -> Any:
        with CaptureQueriesContext(connection) as asked:
            done = step()
        assert len(asked) <= statements, [one["sql"] for one in asked]
        told_once()
        return done

    for end in (
        lambda claim: services.succeed(claim, {"words": 3}),
        lambda claim: services.succeed_all([(claim, {"words": 3})]),
        lambda claim: services.fail(claim, "No."),
    ):
        job = job_in_ledger(user)
        assert told_once().lasting
        claim = change(partial(services.claim, job.pk, "unit-1@host-one", "solo"))
        change(partial(services.report, claim, 0.5, "half way"))
        assert change(partial(end, claim))
    job = job_in_ledger(user)
    sent.clear()
    change(partial(services.cancel, job.pk), 99)


# ---- starts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The moment by which starts are told later is over when this is set."""
    over = threading.Event()
    monkeypatch.setattr(hints, "time", SimpleNamespace(sleep=lambda _: over.wait(20), monotonic=time.monotonic))
    monkeypatch.setattr(hints, "SOON", hints.Soon())
    return over


def test_a_start_is_told_later_and_not_of_a_job_that_has_changed_again(
    sent: list[str], moment: threading.Event
) -> None:
    short, long = job_of(), job_of()
    for job in (short, long):
        hints.SOON.tell(job)
    hints.tell(short)
    assert [hint.id for hint in heard(sent)] == [short.pk]
    moment.set()
    wait_until(lambda: len(sent) > 1, why="the start of the long one is told")
    hints.SOON.tell(job_of())
    wait_until(lambda: len(sent) > 2, why="starts are told for as long as the process lives")
    assert [hint.id for hint in heard(sent)][:2] == [short.pk, long.pk]


def test_a_forked_process_tells_of_its_starts(
    sent: list[str], moment: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment.set()
    hints.SOON.tell(job_of())
    wait_until(lambda: sent)
    monkeypatch.setattr(hints.SOON, "_pid", 1)  # what a child finds: its parent's, and
    monkeypatch.setattr(hints.SOON, "_some", threading.Event())  # nobody who waits for this
    hints.SOON.tell(job_of())
    wait_until(lambda: len(sent) == 2, why="the child has a thread of its own")


# ---- a broker that is away ------------------------------------------------------------------------------------------


def test_a_broker_that_fails_is_left_alone_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: clock.now)

    def away(**_: Any) -> Any:
        tried.append(clock.now)
        raise redis.ConnectionError

    monkeypatch.setattr(hints, "client", away)
    monkeypatch.setattr(hints, "time", clock)
    monkeypatch.setattr(hints, "_skip_until", 0.0)
    for clock.now in (1000.0, 1000.0 + hints.SKIP_S / 2, 1000.0 + hints.SKIP_S):
        hints.tell(job_of())
    assert tried == [1000.0, 1000.0 + hints.SKIP_S]
