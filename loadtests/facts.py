"""What is known of a run when it has ended: run.json, key by key. figures.py computes it, report.py draws it.

Unless a comment says otherwise, times are in seconds, rates in jobs a second, sizes in bytes, and dictionaries are by
lane. `at` and `began_at` are seconds since the epoch on our clock (clock.py). None: there was nothing to measure. A
"stage" is a part of a job's way (STAGES) or of a shape (shapes.yml).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import TypeAdapter

from loadtests.samples import GeneratorLimits, HostSample, Lane, LaneSample, StoreSample

STAGES = ("submit", "queue wait", "run", "notify", "end to end")
"""The stages of a job; docs/loadtesting.md says from when to when each is counted."""
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
KEPT_UP = 0.9
"""Share of what arrived that a lane must finish within a stage of the shape, or it did not keep up."""


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: one of the values. `share` is between 0 and 1; there must be a value."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Facts:
    """The whole of run.json."""

    run: Head
    audit: Audited
    verdicts: list[Verdict]
    table: list[Row]
    breakdown: dict[str, dict[str, Summary]]  # by lane and stage of a job, of those that were followed to their end
    ways: list[Way]
    stages: list[ShapeStage]
    ceilings: dict[str, Ceiling]
    knees: dict[str, str]  # in words; empty where the shape does not raise the load step by step
    over_time: OverTime
    lanes: dict[str, Lane]
    lane_samples: list[LaneSample]
    host: Host
    stores: Stores
    generator: Generators
    passed: bool


@dataclass(frozen=True)
class Head:
    """What was run, when, and against what."""

    shape: str
    summary: str
    model: str
    host: str  # the server's address
    began: str  # ISO 8601, UTC
    began_at: float
    seconds: float  # the length, with the time that the last jobs took
    interrupted: bool
    processes: int  # of the load generator
    pieces: list[str]  # the work, in words
    clock: ClockOffset
    one_socket: bool = False


@dataclass(frozen=True)
class ClockOffset:
    """The ledger's clock minus this program's."""

    offset: float
    uncertainty: float | None


CLASSES = ("verified", "lost", "double", "wrong")
EXCEPTIONS = 200


@dataclass(frozen=True)
class Finding:
    """What the audit says of one job. `verdict` is one of CLASSES, `name` the job's lane and kind."""

    verdict: str
    id: str
    name: str
    why: str = ""


@dataclass(frozen=True)
class Audited:
    """How many jobs are of which class, those that are not as promised, and requests that did not succeed."""

    submitted: int
    verified: int
    lost: int
    double: int
    wrong: int
    exceptions: list[Finding]  # the first EXCEPTIONS
    refused: dict[str, int]  # submits that were not accepted, by the server's sentence
    failed: int  # requests after the submit that had to be sent again

    @classmethod
    def of(cls, findings: Sequence[Finding], refused: dict[str, int], failed: int) -> Self:
        """Count the findings of an audit."""
        verdicts = [finding.verdict for finding in findings]
        counts = {name: verdicts.count(name) for name in CLASSES}
        exceptions = [finding for finding in findings if finding.verdict != "verified"][:EXCEPTIONS]
        return cls(len(findings), **counts, exceptions=exceptions, refused=refused, failed=failed)

    @property
    def counts(self) -> str:
        """The counts in words."""
        return ", ".join(f"{getattr(self, name)} {name}" for name in CLASSES)

    @property
    def passed(self) -> bool:
        """Whether every job is as promised; not if there was none, since that shows nothing."""
        return self.submitted == self.verified > 0


@dataclass(frozen=True)
class Verdict:
    """A limit of slo.yml and what was measured of a lane, in words. `ok` is None if there was too little to judge."""

    lane: str
    measure: str
    limit: str
    measured: str
    ok: bool | None


@dataclass(frozen=True)
class Summary:
    """Some times: how many, how many a second, percentiles and the maximum."""

    count: int
    rate: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float], seconds: float = 1.0, **more: Any) -> Self:
        """Summarize values that were measured within `seconds`; `more` are the fields that a subclass adds."""
        found: dict[str, Any] = {name: percentile(values, share) for name, share in PERCENTILES.items()}
        rate = len(values) / seconds if seconds > 0 else 0.0
        return cls(count=len(values), rate=rate, max=max(values), **found, **more)


@dataclass(frozen=True)
class Row(Summary):
    """A stage of all jobs of one lane and kind. Polled jobs are a kind of their own."""

    lane: str
    kind: str
    stage: str


@dataclass(frozen=True)
class Way(Summary):
    """`notify` of all jobs that were asked for in one way (shapes.yml)."""

    way: str


@dataclass(frozen=True)
class OverTime:
    """The run in bins of equal length; `width` is that length."""

    width: float
    lanes: dict[str, Bins]


@dataclass(frozen=True)
class Bins:
    """One lane: what was due and what had ended in each bin, and end to end of those that ended."""

    arrived: list[float]
    ended: list[float]
    p50: list[float | None]
    p95: list[float | None]


@dataclass(frozen=True)
class ShapeStage:
    """One stage of the shape; `start` and `end` are seconds since the run began."""

    name: str
    start: float
    end: float
    lanes: dict[str, LaneStage]


@dataclass(frozen=True)
class LaneStage:
    """One lane in one stage of the shape."""

    arrived: float
    accepted: float
    ended: float
    run: float | None = None  # median run time
    p50: float | None = None  # end to end
    p95: float | None = None
    queued: int = 0  # jobs, at most
    saturated: bool = False  # jobs waited at nearly every look

    @property
    def held_up_by(self) -> Literal["", "lane", "way in"]:
        """Why the lane did not keep up, if so: the lane itself, or the way in (web tier, database, load generator)."""
        if self.accepted < KEPT_UP * self.arrived:
            return "way in"
        return "lane" if self.saturated and self.ended < KEPT_UP * self.arrived else ""


@dataclass(frozen=True)
class Plan:
    """A lane's slots as deploy/sizing.py plans them, over all hosts, and its reason."""

    slots: int
    why: str


@dataclass(frozen=True)
class Ceiling:
    """What a lane should do at most, and what it did."""

    pool: str
    slots: int  # as they are
    service: float | None  # the run time while the load was low
    predicted: float | None  # slots / service
    rate: float  # over the whole run
    measured: float  # at best while it was saturated; if it never was, over the whole run
    saturated: bool
    efficiency: float | None  # share of the predicted rate, at best while it was saturated
    used: float | None  # share of the predicted rate, over the whole run
    plan: Plan | None


@dataclass(frozen=True)
class Host:
    """The server's host, where it is this one (`known`)."""

    known: bool
    cores: int
    samples: list[HostSample]


@dataclass(frozen=True)
class Stores:
    """What they were asked; `missing` says by name why one was not."""

    missing: dict[str, str]
    samples: list[StoreSample]


@dataclass(frozen=True)
class Generator:
    """One process of the load generator: its CPU as a share of a core, and how late its event loop was."""

    name: str
    cpu: float
    delay_p99: float
    delay_max: float
    series: list[tuple[float, float, float]]  # every second: at, CPU, and how late at most


@dataclass(frozen=True)
class Generators:
    """All processes of the load generator; `invalid` are the reasons not to believe them."""

    processes: list[Generator]
    invalid: list[str]
    limits: GeneratorLimits


def write(path: Path, value: Any) -> None:
    """Write dataclasses (Facts, or a list of records) as JSON."""
    path.write_text(json.dumps(value, default=asdict), encoding="utf-8")


def read(path: Path) -> Facts:
    """Read a run.json, of an earlier version too.

    Raises:
        OSError: it cannot be read.
        pydantic.ValidationError: it is something else.
    """
    return TypeAdapter(Facts).validate_json(path.read_bytes())
