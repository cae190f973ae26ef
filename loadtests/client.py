"""What a client does with a job: submit it, follow or poll it until it ends, read the result, verify it.

Each step is noted in the ledger, and in Locust's statistics: the stage is the request type, lane.kind the name.
"""

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import gevent

from loadtests import work
from loadtests.api import AWAY, FINISHED, Answer, Api, NotAccepted
from loadtests.clock import Clock, now
from loadtests.ends import Ends
from loadtests.ledger import Ledger, Record, epoch
from loadtests.shapes import Shape, Way
from loadtests.work import Page, Piece

Json = dict[str, Any]
Report = Callable[[str, str, float, str], None]
"""Called with a stage, a name, its seconds, and what went wrong (empty: nothing)."""
SETTLING = 0.1
"""Share of the deadline that a client waits beyond it before it gives up: a late job is measured too."""


@dataclass
class Desk:
    """What all clients of a process share."""

    shape: Shape
    pieces: Sequence[Piece]
    report: Report
    stage_at: Callable[[float], str]
    page: Page | None = None
    ends: Ends | None = None  # None: each client follows its job on a socket of its own
    ledger: Ledger = field(default_factory=Ledger)
    clock: Clock = field(default_factory=Clock)
    chance: random.Random = field(default_factory=random.Random)
    busy: int = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Counts a client as busy, from submit to verdict."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    def piece(self) -> Piece:
        """One of the shape's, by weight."""
        return self.chance.choices(self.pieces, [piece.weight for piece in self.pieces])[0]

    def way(self) -> Way:
        """One of the shape's, by weight."""
        ways = self.shape.ways
        return self.chance.choices(list(ways), list(ways.values()))[0]


class Client:
    """One client, with connections of its own."""

    def __init__(self, desk: Desk, api: Api) -> None:
        self.desk, self.api = desk, api
        if desk.ends:
            desk.ends.listen()

    def one(self, piece: Piece, way: Way, due_at: float | None = None) -> None:
        """Take one job from submit to verdict. It counts from `due_at`; without, from now."""
        body = piece.submission(self.desk.chance)
        if way == "keyed":
            body["idempotency_key"] = str(uuid.uuid4())
        with self.desk.at_work():
            records = self._submit("/api/jobs", body, [body], way, now() if due_at is None else due_at)
            if records and way == "keyed":
                self._again(body, records[0])
            for record in records:
                self._see_through(record)

    def batch(self, pieces: Sequence[Piece]) -> None:
        """Submit several jobs in one request, and follow them at the same time."""
        bodies = [piece.submission(self.desk.chance) for piece in pieces]
        with self.desk.at_work():
            records = self._submit("/api/jobs/batch", {"jobs": bodies}, bodies, "batch", now())
            following = [gevent.spawn(self._see_through, record) for record in records]
            try:
                gevent.joinall(following)
            finally:
                gevent.killall(following)

    def _submit(self, path: str, body: Json, bodies: Sequence[Json], way: Way, due_at: float) -> list[Record]:
        try:
            answer = self._insist(path, body, way, due_at + self.desk.shape.deadline_s)
        except NotAccepted as error:
            for one in bodies:
                self.desk.report("submit", self._name(one), now() - due_at, str(error))
            return []
        jobs = answer.body["jobs"] if path.endswith("batch") else [answer.body]
        return [self._accepted(one, job, answer, way, due_at) for one, job in zip(bodies, jobs, strict=True)]

    def _insist(self, path: str, body: Json, way: Way, until: float) -> Answer:
        """The answer to a submit. One with a key is sent again if the server is not reached, until the deadline."""
        while True:
            try:
                return self.api.ask("POST", path, body)
            except NotAccepted as error:
                self.desk.ledger.refuse(str(error))
                if way != "keyed" or error.status not in AWAY or now() > until:
                    raise
            gevent.sleep(self.desk.shape.poll_s)

    def _name(self, body: Json) -> str:
        lanes = (piece.lane for piece in self.desk.pieces if piece.work.kind == body["kind"])
        return f"{next(lanes, '?')}.{body['kind']}"

    def _accepted(self, body: Json, job: Json, answer: Answer, way: Way, due_at: float) -> Record:
        created = epoch(job["created_at"])
        if created is not None:
            self.desk.clock.bracket(answer.sent, answer.received, created)
        record = Record(
            id=job["id"],
            lane=job["lane"],
            kind=job["kind"],
            params=body["params"],
            way=way,
            stage=self.desk.stage_at(due_at),
            due_at=due_at,
            sent_at=answer.sent,
            accepted_at=answer.received,
            deadline_s=self.desk.shape.deadline_s,
        )
        self.desk.ledger.accept(record)
        self.desk.report("submit", record.name, record.accepted_at - record.sent_at, "")
        return record

    def _again(self, body: Json, record: Record) -> None:
        """Send the same key once more, as after a lost answer: it must give the same job."""
        with suppress(NotAccepted):
            answer = self.api.ask("POST", "/api/jobs", body)
            if answer.body["id"] != record.id or answer.status != 200:
                record.double = f"its idempotency key gave {answer.body['id']} as well, with {answer.status}"

    def _see_through(self, record: Record) -> None:
        desk = self.desk
        left = record.due_at + record.deadline_s - now()
        try:
            with gevent.Timeout(max(0.0, left) + SETTLING * record.deadline_s, False):
                self._until_verified(record)
        except NotAccepted as error:
            record.trouble = str(error)
        desk.ledger.close(record)
        self._report(record)

    def _until_verified(self, record: Record) -> None:
        seen, record.told_at = self._polled(record) if record.way == "poll" else self._pushed(record)
        record.offset = self.desk.clock.offset().seconds
        record.saw(seen)
        job = self._get(record).body
        record.saw(job)
        judge(record, job, self.desk.page)

    def _pushed(self, record: Record) -> tuple[Json, float]:
        if self.desk.ends:
            return self.desk.ends.of(record.id)
        for message, at in self.api.follow(f"/ws/jobs/{record.id}"):
            job = message.get("job")
            if job and job["state"] in FINISHED:
                return job, at
        raise AssertionError("follow() ends only with an exception")

    def _polled(self, record: Record) -> tuple[Json, float]:
        while True:
            answer = self._get(record)
            if answer.body["state"] in FINISHED:
                return answer.body, answer.received
            gevent.sleep(self.desk.shape.poll_s)

    def _get(self, record: Record) -> Answer:
        """The job. A server that is not reached is asked again, as any client would; the caller limits the time."""
        while True:
            try:
                return self.api.ask("GET", f"/api/jobs/{record.id}")
            except NotAccepted as error:
                self.desk.ledger.fail()
                if error.status not in AWAY:
                    raise
            gevent.sleep(self.desk.shape.poll_s)

    def _report(self, record: Record) -> None:
        spans = record.stages()
        failure = failure_of(record)
        for stage in ("queue wait", "run", "notify"):
            if stage in spans:
                self.desk.report(stage, record.name, spans[stage], "")
        self.desk.report("end to end", record.name, spans.get("end to end", now() - record.due_at), failure)


def judge(record: Record, job: Json, page: Page | None) -> None:
    """Note in the record whether a job's result is right."""
    if job["state"] != "succeeded":
        record.wrong = f"it {job['state']}: {job['error'] or 'no reason given'}"
        return
    record.wrong = work.wrong(record.kind, record.params, job["result"], page)
    record.verified = "" if record.wrong else work.fingerprint(job["result"])


def failure_of(record: Record) -> str:
    """What went wrong for a job's client, with the id; empty if nothing did."""
    if record.told_at is None:
        return f"lost {record.id}: its client was not told within {record.deadline_s:g} s"
    if record.told_at - record.due_at > record.deadline_s:
        return f"lost {record.id}: late, after {record.told_at - record.due_at:.1f} s of {record.deadline_s:g}"
    if record.trouble:
        return f"lost {record.id}: {record.trouble}"
    if record.double or len(record.endings) > 1:
        return f"double {record.id}: {record.double or 'it ended more than once'}"
    return f"wrong {record.id}: {record.wrong}" if record.wrong else ""
