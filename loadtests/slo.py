"""Reads slo.yml and judges a run by it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from loadtests import HERE
from loadtests.ledger import Record
from loadtests.percentiles import named, percentile
from loadtests.shapes import Strict, checked

LIMITS = HERE / "slo.yml"
STAGES = ("submit", "queue wait", "run", "notify", "end to end")
LEAST = 5
"""Jobs; of fewer no percentile is taken."""


class Limit(Strict):
    """One limit; slo.yml explains each field."""

    measure: str
    shapes: list[str] | None = None
    lanes: list[str] | None = None
    during: str | None = None
    at_most: float | None = Field(None, ge=0)
    at_least: float | None = Field(None, ge=0)
    of: str | None = None

    @model_validator(mode="after")
    def makes_sense(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("give either at_most or at_least")
        if self.measure not in ("refused", "efficiency") and not _is_stage(self.measure):
            raise ValueError(f"{self.measure!r} is no measure")
        known = self.of in (None, "latency target") or str(self.of).startswith("stage ") or _is_stage(str(self.of))
        if not known:
            raise ValueError(f"{self.of!r} is nothing to measure against")
        return self

    def concerns(self, shape: str, lane: str | None) -> bool:
        """Whether it is for this shape and lane; None is all lanes together."""
        return (self.shapes is None or shape in self.shapes) and (lane is None or not self.lanes or lane in self.lanes)

    @property
    def words(self) -> str:
        """As people read it."""
        limit = f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:g}"
        return f"{limit} x {self.of}" if self.of else limit

    @property
    def what(self) -> str:
        """The measure, as people read it."""
        return f"{self.measure} during {self.during}" if self.during else self.measure


def _is_stage(text: str) -> bool:
    found = named(text)
    return found is not None and found[0] in STAGES


class Generator(Strict):
    """Beyond these the generator is not to be believed."""

    cpu: float
    delay_p99_s: float


class Slo(Strict):
    """The whole file."""

    limits: list[Limit]
    generator: Generator


def read(path: Path = LIMITS) -> Slo:
    """The limits of a file.

    Raises:
        LoadError: it cannot be read, or a value in it makes no sense.
    """
    return checked(path, Slo)


@dataclass
class Verdict:
    """One limit, held against one lane. `ok` is None where there was too little to judge."""

    lane: str
    measure: str
    limit: str
    measured: str
    ok: bool | None


@dataclass(frozen=True)
class Measured:
    """What there is to judge."""

    shape: str
    lanes: Mapping[str, Any]
    records: Mapping[str, Sequence[Record]]
    efficiency: Mapping[str, float | None]
    refused: int

    def stage(self, lane: str, name: str, during: str | None) -> float | None:
        """A percentile of a stage, in seconds."""
        found = named(name)
        if found is None:
            return None
        stage, share = found
        records = [one for one in self.records.get(lane, ()) if during is None or one.stage == during]
        values = [spans[stage] for one in records if stage in (spans := one.stages())]
        return percentile(values, share) if len(values) >= LEAST else None


def judge(slo: Slo, measured: Measured) -> list[Verdict]:
    """Every limit that is for this shape, for each lane that it concerns."""
    return list(_verdicts(slo, measured))


def _verdicts(slo: Slo, measured: Measured) -> Iterator[Verdict]:
    for limit in slo.limits:
        if limit.measure == "refused":
            if limit.concerns(measured.shape, None):
                yield _verdict(limit, "all", float(measured.refused), 1.0, "")
            continue
        for lane in measured.records:
            if limit.concerns(measured.shape, lane):
                yield _of_lane(limit, lane, measured)


def _of_lane(limit: Limit, lane: str, measured: Measured) -> Verdict:
    if limit.measure == "efficiency":
        return _verdict(limit, lane, measured.efficiency.get(lane), 1.0, "")
    value = measured.stage(lane, limit.measure, limit.during)
    if limit.of is None:
        return _verdict(limit, lane, value, 1.0, "s")
    return _verdict(limit, lane, value, _base(limit, lane, measured), "s")


def _base(limit: Limit, lane: str, measured: Measured) -> float | None:
    """What a ratio is a ratio to."""
    of = str(limit.of)
    if of == "latency target":
        return float(measured.lanes[lane]["latency_target_s"])
    if of.startswith("stage "):
        return measured.stage(lane, limit.measure, of.removeprefix("stage "))
    return measured.stage(lane, of, limit.during)


def _verdict(limit: Limit, lane: str, value: float | None, base: float | None, unit: str) -> Verdict:
    if value is None or not base:
        return Verdict(lane, limit.what, limit.words, "too few jobs" if unit else "not saturated", None)
    ratio = value / base
    ok = ratio <= limit.at_most if limit.at_most is not None else ratio >= (limit.at_least or 0.0)
    measured = f"{ratio:.2f} x ({_time(value)} / {_time(base)})" if limit.of else f"{value:.3g} {unit}".strip()
    return Verdict(lane, limit.what, limit.words, measured, ok)


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 0.9995 else f"{seconds:.1f} s"
