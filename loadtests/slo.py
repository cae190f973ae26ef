"""Reads slo.yml and judges a run by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from loadtests import HERE
from loadtests.facts import PERCENTILES, STAGES, Verdict, percentile
from loadtests.ledger import Record
from loadtests.samples import GeneratorLimits, Lane
from loadtests.shapes import Strict, checked

LIMITS = HERE / "slo.yml"
LEAST = 5
"""A percentile of fewer jobs than this is not judged."""


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
        if self.measure not in ("refused", "efficiency") and not _parsed(self.measure):
            raise ValueError(f"{self.measure!r} is no measure")
        known = self.of in (None, "latency target") or str(self.of).startswith("stage ") or _parsed(str(self.of))
        if not known:
            raise ValueError(f"{self.of!r} is nothing to measure against")
        return self

    def concerns(self, shape: str, lane: str | None) -> bool:
        """Whether it is for this shape and lane; None is all lanes together."""
        return (self.shapes is None or shape in self.shapes) and (lane is None or not self.lanes or lane in self.lanes)

    @property
    def words(self) -> str:
        """The limit in words."""
        limit = f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:g}"
        return f"{limit} x {self.of}" if self.of else limit

    @property
    def what(self) -> str:
        """The measure in words."""
        return f"{self.measure} during {self.during}" if self.during else self.measure


def _parsed(measure: str) -> tuple[str, float] | None:
    """`queue wait p95` as (`queue wait`, 0.95); None if it is no stage with a percentile."""
    stage, _, name = measure.rpartition(" ")
    return (stage, PERCENTILES[name]) if stage in STAGES and name in PERCENTILES else None


class Slo(Strict):
    """The whole file."""

    limits: list[Limit]
    generator: GeneratorLimits


def read(path: Path = LIMITS) -> Slo:
    """The limits of a file.

    Raises:
        LoadError: it cannot be read, or a value in it makes no sense.
    """
    return checked(path, Slo)


@dataclass(frozen=True)
class Measured:
    """What is judged. `records` and `efficiency` are by lane; `refused` counts submits."""

    shape: str
    lanes: Mapping[str, Lane]
    records: Mapping[str, Sequence[Record]]
    efficiency: Mapping[str, float | None]
    refused: int

    def stage(self, lane: str, measure: str, during: str | None) -> float | None:
        """A percentile of a job's stage, in seconds, of jobs that were due in a stage of the shape (None: in all)."""
        found = _parsed(measure)
        if found is None:
            return None
        stage, share = found
        records = [one for one in self.records.get(lane, ()) if during is None or one.stage == during]
        values = [spans[stage] for one in records if stage in (spans := one.stages())]
        return percentile(values, share) if len(values) >= LEAST else None


def judge(slo: Slo, measured: Measured) -> list[Verdict]:
    """Every limit that is for this shape, for each lane that it concerns."""
    found = []
    for limit in slo.limits:
        if limit.measure != "refused":
            lanes = [lane for lane in measured.records if limit.concerns(measured.shape, lane)]
            found += [_of_lane(limit, lane, measured) for lane in lanes]
        elif limit.concerns(measured.shape, None):
            found.append(_verdict(limit, "all", float(measured.refused), 1.0, ""))
    return found


def _of_lane(limit: Limit, lane: str, measured: Measured) -> Verdict:
    if limit.measure == "efficiency":
        return _verdict(limit, lane, measured.efficiency.get(lane), 1.0, "")
    value = measured.stage(lane, limit.measure, limit.during)
    return _verdict(limit, lane, value, _base(limit, lane, measured), "s")


def _base(limit: Limit, lane: str, measured: Measured) -> float | None:
    """The value that a ratio refers to; 1 for a limit that is no ratio."""
    if limit.of is None:
        return 1.0
    if limit.of == "latency target":
        return measured.lanes[lane].latency_target_s
    if limit.of.startswith("stage "):
        return measured.stage(lane, limit.measure, limit.of.removeprefix("stage "))
    return measured.stage(lane, limit.of, limit.during)


def _verdict(limit: Limit, lane: str, value: float | None, base: float | None, unit: str) -> Verdict:
    if value is None or not base:
        return Verdict(lane, limit.what, limit.words, "too few jobs" if unit else "not saturated", None)
    ratio = value / base
    ok = ratio <= limit.at_most if limit.at_most is not None else ratio >= (limit.at_least or 0.0)
    measured = f"{ratio:.2f} x ({_time(value)} / {_time(base)})" if limit.of else f"{value:.3g} {unit}".strip()
    return Verdict(lane, limit.what, limit.words, measured, ok)


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 0.9995 else f"{seconds:.1f} s"
