"""The clients' own book: which jobs they were promised (a 202 with an id), and what they saw of each.

Times are in seconds. Moments are seconds since the epoch: `created`, `started` and `finished` on the clock of the
server's ledger, the others on this program's clock (clock.py).
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from loadtests.work import fingerprint

Json = dict[str, Any]
MOMENTS = ("created", "started", "finished")
TWICE = "two submits were answered with its id"


def epoch(moment: str | None) -> float | None:
    """An ISO 8601 moment as seconds since the epoch."""
    return datetime.fromisoformat(moment).timestamp() if moment else None


@dataclass(frozen=True)
class Ending:
    """An end of a job: its state, the server's moment (ISO 8601), and the fingerprint of its result."""

    state: str
    at: str
    result: str

    @classmethod
    def of(cls, job: Json) -> "Ending":
        """The end that a server's answer tells of."""
        return cls(job["state"], job["finished_at"], fingerprint(job["result"]))


@dataclass
class Record:
    """One job that the server accepted; jobs.json has them all."""

    id: str
    lane: str
    kind: str
    params: Json
    way: str
    stage: str  # of the shape, when it was due
    due_at: float  # when the request should have been sent
    sent_at: float
    accepted_at: float
    deadline_s: float  # counted from due_at
    told_at: float | None = None  # when its client was told of the end
    created: float | None = None
    started: float | None = None
    finished: float | None = None
    attempt: int = 0
    offset: float = 0.0  # the ledger's clock minus ours, as it was measured when the client was told
    endings: list[Ending] = field(default_factory=list)  # the different ends that were seen; there should be one
    verified: str = ""  # the fingerprint of the result that was found right
    wrong: str = ""  # why its result is not right
    trouble: str = ""  # what kept its client from seeing the end
    double: str = ""  # why it counts as two jobs
    closed: bool = False  # its client has seen the end or given up; if not, the run was stopped before that

    @property
    def name(self) -> str:
        """Its name in statistics."""
        return f"{self.lane}.{self.kind}" + (" polled" if self.polled else "")

    @property
    def polled(self) -> bool:
        """Whether its client polled: then the time until it was told depends on the client more than on the server."""
        return self.way == "poll"

    def saw(self, job: Json) -> None:
        """Note an end that the server told of; one that differs from those before makes the job a double."""
        end = Ending.of(job)
        if end not in self.endings:
            self.endings.append(end)
        self.created, self.started, self.finished = (epoch(job[f"{what}_at"]) for what in MOMENTS)
        self.attempt = job["attempt"]

    def stages(self) -> dict[str, float]:
        """The length of each stage of the job that is known (facts.STAGES). Only `notify` needs both clocks."""
        spans = {
            "submit": (self.sent_at, self.accepted_at),
            "queue wait": (self.created, self.started),
            "run": (self.started, self.finished),
            "notify": (None if self.finished is None else self.finished - self.offset, self.told_at),
            "end to end": (self.due_at, self.told_at),
        }
        return {name: last - first for name, (first, last) in spans.items() if first is not None and last is not None}


RECENT = 2000


@dataclass
class Tally:
    """Counts of one lane, kept up to date record by record: a long run has too many records to count them all again."""

    submitted: int = 0
    closed: int = 0
    failed: int = 0
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))  # told_at, end to end

    @property
    def open(self) -> int:
        """Jobs whose clients still wait."""
        return self.submitted - self.closed

    def close(self, record: Record) -> None:
        """Count a job whose client has finished with it."""
        self.closed += 1
        self.failed += bool(record.told_at is None or record.wrong or record.double or record.trouble)
        if record.told_at is not None:
            self.recent.append((record.told_at, record.told_at - record.due_at))


@dataclass
class LedgerNews:
    """What has changed in a ledger: records, refused submits by sentence, and the number of failed requests."""

    records: list[Record] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    failed: int = 0


class Ledger:
    """All records of this process; in the master, those of its workers."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self.refused: Counter[str] = Counter()
        self.failed = 0
        self._changed: set[str] = set()
        self._told = LedgerNews()  # what of `refused` and `failed` the master knows

    def accept(self, record: Record) -> None:
        """Note a new promise. The same id twice means that two submits were given one job."""
        if record.id in self.records:
            self.records[record.id].double = TWICE
        else:
            self.records[record.id] = record
            self.tallies[record.lane].submitted += 1
        self._changed.add(record.id)

    def close(self, record: Record) -> None:
        """Note that the job's client has seen its end, or has given up."""
        record.closed = True
        self.tallies[record.lane].close(record)
        self._changed.add(record.id)

    def refuse(self, sentence: str) -> None:
        """Note a submit that was not accepted: nothing was promised."""
        self.refused[sentence] += 1

    def fail(self) -> None:
        """Note a request after the submit that did not succeed; its client asks again."""
        self.failed += 1

    def news(self) -> LedgerNews:
        """What has changed since the last call, for the master."""
        records = [replace(self.records[each]) for each in sorted(self._changed)]
        refused = dict(self.refused - Counter(self._told.refused))  # asdict() cannot copy a Counter
        news = LedgerNews(records, refused, self.failed - self._told.failed)
        self._changed, self._told = set(), LedgerNews([], dict(self.refused), self.failed)
        return news

    def learn(self, news: LedgerNews) -> None:
        """Take over what a worker has told."""
        for record in news.records:
            self._merge(record)
        self.refused.update(news.refused)
        self.failed += news.failed

    def _merge(self, record: Record) -> None:
        known = self.records.get(record.id)
        if known is not None and known.sent_at != record.sent_at:
            known.double = TWICE
            return
        tally = self.tallies[record.lane]
        tally.submitted += known is None
        if record.closed and not (known and known.closed):
            tally.close(record)
        self.records[record.id] = record


def followed(records: Iterable[Record]) -> list[Record]:
    """Those whose clients were told of the end, rather than polled for it."""
    return [record for record in records if not record.polled]


def by_lane(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each lane; lanes are sorted."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.lane, []).append(record)
    return dict(sorted(groups.items()))
