"""From what was seen to figures: medians over rounds, percentiles over all jobs, ratios."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cases import AIMS, BASELINE, CASES, HEADRACE, SIDES, Aim, Case
from benchmarks.clients import Seen
from benchmarks.meters import Reading
from loadtests.facts import percentile

KINDS = ("web", "push", "worker", "sweeper", "redis", "postgres")
MS = 1000.0
STAGES = ("submit", "queue_wait", "run", "notify", "end_to_end")
Figures = dict[str, float | None]


@dataclass
class Legs:
    """What all rounds saw of one case on one side."""

    rates: list[float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    commands: list[float] = field(default_factory=list)
    efficiency: list[float] = field(default_factory=list)
    neighbours: list[float] = field(default_factory=list)
    by_command: dict[str, float] = field(default_factory=dict)
    paced: list[Seen] = field(default_factory=list)

    def saturated(self, case: Case, seen: Sequence[Seen], took: Reading, idle: float, cores: int) -> None:
        """A leg at saturation; `idle` is how many Redis commands a second both sides send when nothing is asked."""
        jobs = max(1, len(seen))
        self.rates.append(len(seen) / took.seconds)
        for kind, used in took.cpu.items():
            self.cpu.setdefault(kind, []).append(used * MS / jobs)
        ours = sum(used for kind, used in took.cpu.items() if kind != "machine")
        self.neighbours.append(max(0.0, took.cpu["machine"] - ours) / took.seconds)
        self.commands.append(max(0.0, sum(took.commands.values()) - idle * took.seconds) / jobs)
        self.by_command = {name: round(n / jobs, 2) for name, n in took.commands.items() if n > jobs / 20}
        if case.cpu_ms:
            self.efficiency.append(_efficiency(seen, took, cores))


def _efficiency(seen: Sequence[Seen], took: Reading, cores: int) -> float:
    """Work done, of what the cores could have done less what all but the workers took, neighbours too."""
    work = sum(float(one.result["cpu_ms"]) for one in seen) / MS
    return work / (cores * took.seconds - (took.cpu["machine"] - took.cpu["worker"]))


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def figures(legs: Legs) -> Figures:
    """The figures of one case on one side, times in ms."""
    found: Figures = {"rate": _median(legs.rates)}
    by_kind = {kind: _median(legs.cpu.get(kind, ())) for kind in KINDS}
    found["cpu"] = sum(used or 0 for used in by_kind.values())
    found |= {f"cpu_{kind}": used for kind, used in by_kind.items()}
    found["cpu_client"] = _median(legs.cpu.get("client", ()))
    found |= {"commands": _median(legs.commands), "efficiency": _median(legs.efficiency)}
    found["neighbours"] = _median(legs.neighbours)
    for stage in STAGES:
        times = [value * MS for one in legs.paced if (value := getattr(one, stage)) is not None]
        found[f"{stage}_p50"] = percentile(times, 0.5) if times else None
        found[f"{stage}_p99"] = percentile(times, 0.99) if times else None
    return found


def case_figures(legs: dict[str, Legs]) -> dict[str, Any]:
    """One case: both sides, and ours as a ratio of the baseline's."""
    sides = {side: figures(legs[side]) for side in SIDES}
    return {
        **sides,
        "ratio": ratios(sides[BASELINE], sides[HEADRACE]),
        "paced_jobs": {side: len(legs[side].paced) for side in SIDES},
        "rates": {side: legs[side].rates for side in SIDES},
        "commands": {side: legs[side].by_command for side in SIDES},
    }


def ratios(first: Figures, second: Figures) -> Figures:
    """second / first, where both are known."""
    known = {name: (first.get(name), ours) for name, ours in second.items()}
    return {name: ours / theirs for name, (theirs, ours) in known.items() if ours is not None and theirs}


def verdicts(cases: dict[str, Any], growth: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Each aim, what was measured, and whether that reaches it."""
    everything = {**cases, **({"growth": {"ratio": growth["ratio"]}} if growth else {})}
    return [_verdict(aim, everything[aim.case][aim.of]) for aim in AIMS if aim.case in everything]


def _verdict(aim: Aim, found: Figures) -> dict[str, Any]:
    value = found.get(aim.measure)
    reached = value is not None and aim.reached(value)
    return {"case": aim.case, "measure": aim.measure, "of": aim.of, "aim": str(aim), "value": value, "reached": reached}


TITLES = {case.name: case.title for case in CASES} | {"growth": "full ledger"}
