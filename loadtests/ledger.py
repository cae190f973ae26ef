"""The clients' own book: what they were promised (a 202 with an id), and what they saw of it.

Times are seconds since the epoch. Those named `..._at` are of our clock, those under `server` of the ledger's.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from loadtests.work import fingerprint

Json = dict[str, Any]
MOMENTS = ("created", "started", "finished")


def epoch(moment: str | None) -> float | None:
    """An ISO 8601 moment of the server's as seconds."""
    return datetime.fromisoformat(moment).timestamp() if moment else None


@dataclass
class Record:
    """One job that the server accepted."""

    id: str
    lane: str
    kind: str
    params: Json
    way: str
    stage: str
    due_at: float  # when the request should have been sent
    sent_at: float
    accepted_at: float
    deadline_s: float
    told_at: float | None = None  # when its client had the end
    created: float | None = None
    started: float | None = None
    finished: float | None = None
    attempt: int = 0
    offset: float = 0.0  # ledger's clock - ours, as it was measured when the client was told
    endings: list[list[Any]] = field(default_factory=list)  # the ends that were seen; there should be one
    verified: str = ""  # the fingerprint of the result that was found right
    wrong: str = ""  # why it is not right
    trouble: str = ""  # what kept its client from seeing the end
    double: str = ""  # why it is there twice
    closed: bool = False  # its client has seen it through, or has given it up; otherwise it was stopped in between

    @property
    def name(self) -> str:
        """How statistics name it."""
        return f"{self.lane}.{self.kind}" + (" polled" if self.polled else "")

    @property
    def polled(self) -> bool:
        """Its client asked again and again, so what it waited says more of the client than of the server."""
        return self.way == "poll"

    def saw(self, job: Json) -> None:
        """Note an end that the server told of; another one than before makes the job double."""
        end = ending(job)
        if end not in self.endings:
            self.endings.append(end)
        self.created, self.started, self.finished = (epoch(job[f"{what}_at"]) for what in MOMENTS)
        self.attempt = job["attempt"]

    def stages(self) -> dict[str, float]:
        """Seconds of each stage that is known. Only `notify` needs both clocks."""
        spans = {
            "submit": (self.sent_at, self.accepted_at),
            "queue wait": (self.created, self.started),
            "run": (self.started, self.finished),
            "notify": (None if self.finished is None else self.finished - self.offset, self.told_at),
            "end to end": (self.due_at, self.told_at),
        }
        return {name: last - first for name, (first, last) in spans.items() if first is not None and last is not None}


def ending(job: Json) -> list[Any]:
    """What makes an end the same end: its state, its moment, and what came of it."""
    return [job["state"], job["finished_at"], fingerprint(job["result"])]


RECENT = 2000


@dataclass
class Tally:
    """One lane at a glance, kept up record by record: a soak has too many to count them for each picture."""

    submitted: int = 0
    closed: int = 0
    failed: int = 0
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def close(self, record: Record) -> None:
        """Its client is done with it."""
        self.closed += 1
        self.failed += bool(record.told_at is None or record.wrong or record.double or record.trouble)
        if record.told_at is not None:
            self.recent.append((record.told_at, record.told_at - record.due_at))


class Ledger:
    """All records of this process; on a master, of all workers too."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self.refused: dict[str, int] = {}
        self.failed = 0
        self._news: dict[str, Record] = {}
        self._refusals: list[str] = []
        self._failures = 0

    def accept(self, record: Record) -> None:
        """A new promise. The same id twice means that two submits were given one job."""
        if record.id in self.records:
            self.records[record.id].double = "two submits were answered with its id"
        else:
            self.records[record.id] = record
            self.tallies[record.lane].submitted += 1
        self._news[record.id] = self.records[record.id]

    def close(self, record: Record) -> None:
        """Its client has seen it through, or has given it up."""
        record.closed = True
        self.tallies[record.lane].close(record)
        self._news[record.id] = record

    def refuse(self, sentence: str) -> None:
        """A submit that was not accepted: nothing was promised."""
        self.refused[sentence] = self.refused.get(sentence, 0) + 1
        self._refusals.append(sentence)

    def fail(self) -> None:
        """A request after the submit that was not answered as it should be; its client asks again."""
        self.failed += 1
        self._failures += 1

    def news(self) -> Json:
        """What has changed since the last time, for the master."""
        news, self._news = self._news, {}
        refusals, self._refusals = self._refusals, []
        failures, self._failures = self._failures, 0
        return {"records": [asdict(record) for record in news.values()], "refused": refusals, "failed": failures}

    def learn(self, news: Json) -> None:
        """What a worker has told."""
        for told in news["records"]:
            self._merge(Record(**told))
        for sentence in news["refused"]:
            self.refused[sentence] = self.refused.get(sentence, 0) + 1
        self.failed += news["failed"]

    def _merge(self, record: Record) -> None:
        known = self.records.get(record.id)
        if known is not None and known.sent_at != record.sent_at:
            known.double = "two submits were answered with its id"
            return
        tally = self.tallies[record.lane]
        tally.submitted += known is None
        if record.closed and not (known and known.closed):
            tally.close(record)
        self.records[record.id] = record


def followed(records: Iterable[Record]) -> list[Record]:
    """Those whose clients were told, rather than asked."""
    return [record for record in records if not record.polled]


def by_lane(records: Iterable[Record]) -> dict[str, list[Record]]:
    """In groups, lanes sorted."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.lane, []).append(record)
    return dict(sorted(groups.items()))
