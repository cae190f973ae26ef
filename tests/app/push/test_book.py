"""What a push process knows of jobs from hints, without a server: for who follows one job, and for who follows all."""

import asyncio
import json
import uuid
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError

from jobs import hints
from jobs.hints import Hint
from jobs.models import Job, State
from push import book, feeds, messages, reader, sockets, streams, watcher
from push.book import Book, Known
from push.feeds import Cursor, Feed, Follower
from push.identity import Identity

OWNER = 7
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def job_of(**values: Any) -> Job:
    plain = {"owner_id": OWNER, "kind": "digest", "params": {}, "max_attempts": 3, "created_at": BEGAN}
    return Job(**{**plain, "version": 1, **values})


def hint_of(job: Job, new: bool = False) -> Hint:
    hint = hints.read(hints._hint(job, new).encode())
    assert hint
    return hint


def changed(job: Job, **values: Any) -> Job:
    return job_of(**{"pk": job.pk, "version": job.version + 1, **values})


def note_of(known: Known) -> str:
    return str(json.loads(known.text)["job"]["note"])


# ---- one job --------------------------------------------------------------------------------------------------------


def test_the_newest_hint_is_what_is_told_in_whatever_order_they_come() -> None:
    job = job_of(note="first")
    second, third = changed(job, note="second"), changed(changed(job), note="third")
    known = Known(job.pk)
    assert known.hear(hint_of(job, new=True))
    assert note_of(known) == "first"
    assert known.hear(hint_of(third))
    assert not known.hear(hint_of(second))
    assert known.complete
    assert (known.version, note_of(known)) == (3, "third")


@pytest.mark.parametrize("short", [Hint(uuid.UUID(int=1)), Hint(uuid.UUID(int=1), OWNER, 2)])
def test_a_hint_that_does_not_say_it_all_makes_who_follows_read(short: Hint) -> None:
    job = job_of(pk=short.id)
    known = Known(job.pk)
    known.hear(hint_of(job, new=True))
    assert known.hear(short)
    assert not known.complete
    known.take(changed(job, note="read"))
    assert known.complete
    assert note_of(known) == "read"


def test_what_was_read_before_a_hint_came_does_not_replace_it() -> None:
    job = job_of(note="read")
    known = Known(job.pk)
    known.hear(hint_of(changed(job, note="heard")))
    assert not known.complete, "what never changes is not known"
    known.take(job)
    assert known.complete
    assert note_of(known) == "heard"


def test_who_follows_a_new_job_finds_what_was_heard_of_it() -> None:
    known_jobs, job = Book(), job_of()
    known_jobs.hear(hint_of(job, new=True))
    known_jobs.hear(hint_of(changed(job, state=State.RUNNING)))
    known = known_jobs.follow(job.pk)
    assert known.complete
    assert known.version == 2
    known_jobs.hear(hint_of(changed(changed(job))))
    assert known.version == 3
    known_jobs.leave(job.pk)
    assert not known_jobs.follow(job.pk).complete, "hints of it may have been missed"


def test_what_was_heard_is_for_nothing_once_hints_may_be_missed() -> None:
    known_jobs, job = Book(), job_of()
    known_jobs.hear(hint_of(job, new=True))
    known_jobs.close()
    assert not known_jobs.follow(job.pk).complete


def test_jobs_that_nobody_follows_take_so_much_memory_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    known_jobs, jobs = Book(), [job_of() for _ in range(10)]
    one = len("".join(hints._hint(jobs[0], new=True).split("\n")[1:]))
    monkeypatch.setattr(book, "MOST", 3 * one + 50)
    for job in jobs:
        known_jobs.hear(hint_of(job, new=True))
        known_jobs.hear(hint_of(changed(job)))
    assert [job for job in jobs if known_jobs.get(job.pk)] == jobs[-3:]
    assert known_jobs.hear(hint_of(job_of())) is None, "nobody could be told of it without a read"


def test_memory_is_counted_right_when_a_job_is_read_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed shares what the book knows, and reads it where a hint was lost."""
    known_jobs, job, new = Book(), job_of(note="x" * 200), job_of()
    known_jobs.hear(hint_of(job, new=True))
    shared = known_jobs.get(job.pk)
    assert shared
    shared.take(changed(job, note=""))
    known_jobs.follow(job.pk)
    monkeypatch.setattr(book, "MOST", len(hints._hint(new, new=True)))
    known_jobs.hear(hint_of(new, new=True))
    assert known_jobs.get(new.pk)


def test_notify_times_of_jobs_that_end_together_are_stored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[list[uuid.UUID]] = []

    async def store(told: Any) -> None:
        stored.append([job_id for job_id, _ in told])
        if len(stored) == 1:
            raise OperationalError("away")

    monkeypatch.setattr(messages, "_store", store)
    monkeypatch.setattr(messages, "TOGETHER_S", 0)
    first, second, third = (uuid.UUID(int=number) for number in range(3))

    async def steps() -> None:
        notified = messages.Notified()
        for some in ((first, second), (third,)):
            for one in some:
                notified.add(one)
            assert notified._task
            await notified._task

    asyncio.run(steps())
    assert stored == [[first, second], [third]]


# ---- all jobs of a user ---------------------------------------------------------------------------------------------


class Ledger:
    """What the database would say, and how often it was asked."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.jobs: list[Job] = []
        self.reads = self.looks = 0

    async def since(self, user_id: int, moment: datetime) -> tuple[datetime, list[tuple[uuid.UUID, int]]]:
        self.looks += 1
        self.now += timedelta(seconds=1)
        return self.now, [(job.pk, job.version) for job in self.jobs]

    async def read(self, ids: Any) -> dict[uuid.UUID, Job]:
        self.reads += 1
        return {job.pk: job for job in self.jobs if job.pk in ids}


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    ledger = Ledger()
    monkeypatch.setattr(feeds, "_since", ledger.since)
    monkeypatch.setattr(reader, "_jobs", ledger.read)
    monkeypatch.setattr(feeds, "READER", reader.Reader())
    return ledger


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> watcher.Watcher:
    """A watcher without tasks of its own."""
    quiet = watcher.Watcher()
    monkeypatch.setattr(quiet, "_tasks", [None])
    monkeypatch.setattr(watcher, "WATCHER", quiet)
    return quiet


def run(steps: Coroutine[Any, Any, None]) -> None:
    async def within_seconds() -> None:
        async with asyncio.timeout(20):
            await steps

    asyncio.run(within_seconds())


async def news(follower: Follower) -> list[tuple[uuid.UUID, int]]:
    return [(known.id, known.version) async for known in follower.news()]


def test_hints_are_told_at_once_each_job_once_and_without_a_read(ledger: Ledger, quiet: watcher.Watcher) -> None:
    async def steps() -> None:
        with quiet.feed(Identity(OWNER)) as follower, quiet.feed(Identity(OWNER)) as another:
            job = job_of()
            quiet._hear(hint_of(job, new=True))
            quiet._hear(hint_of(changed(job)))
            for one in (follower, another):
                assert one.changed.is_set()
                assert await news(one) == [(job.pk, 2)]
                assert await news(one) == []
        assert (ledger.looks, ledger.reads) == (0, 0)

    run(steps())


def test_who_comes_later_is_told_of_a_job_that_the_process_has_heard_of(ledger: Ledger, quiet: watcher.Watcher) -> None:
    async def steps() -> None:
        job = job_of()
        quiet._hear(hint_of(job, new=True))
        with quiet.feed(Identity(OWNER)) as follower:
            quiet._hear(hint_of(changed(job)))
            assert await news(follower) == [(job.pk, 2)]
        assert ledger.reads == 0

    run(steps())


def test_parts_and_jobs_of_others_are_not_told(ledger: Ledger, quiet: watcher.Watcher) -> None:
    async def steps() -> None:
        with quiet.feed(Identity(OWNER)) as follower:
            quiet._hear(hint_of(job_of(parent_id=uuid.UUID(int=1)), new=True))
            quiet._hear(hint_of(job_of(owner_id=OWNER + 1), new=True))
            assert await news(follower) == []
            ledger.jobs = [job_of(owner_id=OWNER + 1), job_of()]
            for job in ledger.jobs:
                follower.tell(Known(job.pk))  # however it came to be told
            follower.tell(Known(job_of().pk))  # it is gone
            assert await news(follower) == [(ledger.jobs[1].pk, 1)]

    run(steps())


def test_many_new_jobs_make_the_watcher_look(quiet: watcher.Watcher) -> None:
    many = Hint(None, OWNER)
    quiet._hear(many)
    assert not quiet._poll_now.is_set(), "nobody is there to be told"
    with quiet.feed(Identity(OWNER)):
        quiet._hear(Hint(None, OWNER + 1))
        assert not quiet._poll_now.is_set()
        quiet._hear(many)
        assert quiet._poll_now.is_set()


def test_a_look_finds_what_hints_did_not_tell_and_nothing_else(ledger: Ledger) -> None:
    async def steps() -> None:
        feed = Feed(OWNER)
        feed.followers.add(follower := Follower(Identity(OWNER), feed))
        before, heard = job_of(), job_of()
        ledger.jobs = [before, heard]
        await feed.look()
        assert await news(follower) == [], "what was there before is listed, not told"
        feed.hear(hint_of(changed(heard), new=True), None)
        lost = job_of()
        ledger.jobs = [before, changed(heard), lost]
        assert await news(follower) == [(heard.pk, 2)]
        await feed.look()
        assert await news(follower) == [(lost.pk, 1)]
        ledger.jobs = [changed(before)]
        await feed.look()
        assert await news(follower) == [(before.pk, 2)]

    run(steps())


def test_a_feed_forgets_what_ended_but_not_what_a_look_could_not_see_yet(ledger: Ledger) -> None:
    async def steps() -> None:
        feed = Feed(OWNER)
        feed.followers.add(follower := Follower(Identity(OWNER), feed))
        opened, ended, new = job_of(), job_of(), job_of()
        ledger.jobs = [opened, ended]
        await feed.look()
        ledger.jobs = [opened]
        feed.hear(hint_of(new, new=True), None)
        await feed.look()
        ledger.jobs = [opened, new]
        await feed.look()
        assert set(feed._jobs) == {opened.pk, new.pk}
        assert await news(follower) == [(new.pk, 1)]
        assert ledger.reads == 0, "what the hint said was not forgotten"

    run(steps())


def test_a_cursor_follows_what_was_told_and_is_of_a_look_after_it(ledger: Ledger) -> None:
    async def steps() -> None:
        feed = Feed(OWNER)
        feed.followers.add(follower := Follower(Identity(OWNER), feed))
        await follower.begin("")
        first = follower.cursor(silent=False)
        assert first
        assert follower.cursor(silent=False) is None, "nothing was told since"
        assert follower.cursor(silent=True) == first, "it is still alive"
        feed.hear(hint_of(job_of(), new=True), None)
        await news(follower)
        assert follower.cursor(silent=False) is None, "what was told may be later than the last look"
        follower.changed.clear()
        await feed.look()
        assert follower.changed.is_set()
        later = follower.cursor(silent=False)
        assert later
        assert later > first
        follower.changed.clear()
        await feed.look()
        assert not follower.changed.is_set()
        assert follower.cursor(silent=False) is None

    run(steps())


def test_a_quiet_follower_is_sent_a_cursor_as_a_sign_of_life(
    ledger: Ledger, quiet: watcher.Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "KEEPALIVE_S", 0.02)

    async def steps() -> None:
        told = watcher.follow_all(Identity(OWNER))
        said = [await anext(told) for _ in range(3)]
        await told.aclose()
        assert [type(one) for one in said] == [Cursor] * 3
        assert not quiet.feeds
        assert len(quiet) == 0

    run(steps())


def test_who_follows_all_is_sent_away_when_the_process_ends(ledger: Ledger, quiet: watcher.Watcher) -> None:
    async def steps() -> None:
        told = watcher.follow_all(Identity(OWNER))
        await anext(told)
        waits = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0)
        quiet.close()
        with pytest.raises(watcher.GoingAway):
            await waits

    run(steps())


def test_a_cursor_may_be_any_bytes(ledger: Ledger, quiet: watcher.Watcher) -> None:
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def steps() -> None:
        from_client: asyncio.Queue[Any] = asyncio.Queue()
        from_client.put_nowait({"type": "websocket.connect"})
        scope = {"method": "GET", "headers": [], "identity": Identity(OWNER), "query_string": b"since=\xff"}
        await streams.all_jobs(scope, from_client.get, send)
        await sockets.all_jobs(scope, from_client.get, send)

    run(steps())
    assert said[0]["status"] == 410
    assert said[-1] == {"type": "websocket.close", "code": 4410}
