"""From what was seen to figures: medians over rounds, percentiles over all jobs, ratios."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cases import BASELINE, HEADRACE, Aim, Case
from benchmarks.clients import Seen
from benchmarks.meters import Reading
from loadtests.facts import percentile

KINDS = ("web", "push", "worker", "sweeper", "redis", "postgres")
MS = 1000.0
STAGES = ("submit", "queue_wait", "run", "notify", "end_to_end")
Figures = dict[str, float | None]


@dataclass(frozen=True)
class AtRest:
    """What both sides send to Redis in a second, and one side to its database, when nothing is asked."""

    commands: float = 0
    statements: float = 0


@dataclass
class Legs:
    """What all rounds saw of one case on one side."""

    rates: list[float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    commands: list[float] = field(default_factory=list)
    statements: list[float] = field(default_factory=list)
    efficiency: list[float] = field(default_factory=list)
    neighbours: list[float] = field(default_factory=list)
    by_command: dict[str, float] = field(default_factory=dict)
    paced: list[Seen] = field(default_factory=list)
    paced_cpu: dict[str, list[float]] = field(default_factory=dict)

    def took(self, jobs: int, took: Reading, rest: AtRest) -> None:
        """A leg in which so many jobs ended."""
        self.rates.append(jobs / took.seconds)
        jobs = max(1, jobs)
        for kind, used in took.cpu.items():
            self.cpu.setdefault(kind, []).append(used * MS / jobs)
        ours = sum(used for kind, used in took.cpu.items() if kind != "machine")
        self.neighbours.append(max(0.0, took.cpu["machine"] - ours) / took.seconds)
        self.commands.append(max(0.0, sum(took.commands.values()) - rest.commands * took.seconds) / jobs)
        self.statements.append(max(0.0, took.statements - rest.statements * took.seconds) / jobs)
        self.by_command = {name: round(n / jobs, 2) for name, n in took.commands.items() if n > jobs / 20}

    def saturated(self, case: Case, seen: Sequence[Seen], took: Reading, rest: AtRest, cores: int) -> None:
        """A leg at saturation."""
        self.took(len(seen), took, rest)
        if case.cpu_ms:
            self.efficiency.append(_efficiency(seen, took, cores))

    def at_a_rate(self, seen: Sequence[Seen], took: Reading) -> None:
        """A leg at 30 % load."""
        self.paced += seen
        for kind, used in took.cpu.items():
            self.paced_cpu.setdefault(kind, []).append(used * MS / max(1, len(seen)))


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
    paced = {kind: used for kind in KINDS if (used := _median(legs.paced_cpu.get(kind, ()))) is not None}
    found |= {"paced_cpu": sum(paced.values()) or None, "paced_cpu_push": paced.get("push")}
    found |= {"commands": _median(legs.commands), "statements": _median(legs.statements)}
    found |= {"efficiency": _median(legs.efficiency), "neighbours": _median(legs.neighbours)}
    for stage in STAGES:
        times = [value * MS for one in legs.paced if (value := getattr(one, stage)) is not None]
        found[f"{stage}_p50"] = percentile(times, 0.5) if times else None
        found[f"{stage}_p99"] = percentile(times, 0.99) if times else None
    return found


def case_figures(legs: dict[str, Legs]) -> dict[str, Any]:
    """One case: each way that it was measured, and ours as a ratio of what is in the baseline's place."""
    ways = {way: figures(seen) for way, seen in legs.items()}
    return {
        **ways,
        "ratio": ratios(ways[BASELINE], ways[HEADRACE]),
        "paced_jobs": {way: len(seen.paced) for way, seen in legs.items()},
        "rates": {way: seen.rates for way, seen in legs.items()},
        "commands": {way: seen.by_command for way, seen in legs.items()},
    }


def batch_figures(legs: dict[str, dict[str, Legs]]) -> dict[str, Any]:
    """Jobs that nobody follows: of each side the best of its ways to submit many."""
    rates = {side: {way: _median(seen.rates) or 0 for way, seen in ways.items()} for side, ways in legs.items()}
    best = {side: figures(legs[side][max(ways, key=ways.__getitem__)]) for side, ways in rates.items()}
    return {**best, "ratio": ratios(best[BASELINE], best[HEADRACE]), "rates": rates}


def ratios(first: Figures, second: Figures) -> Figures:
    """second / first, where both are known."""
    known = {name: (first.get(name), ours) for name, ours in second.items()}
    return {name: ours / theirs for name, (theirs, ours) in known.items() if ours is not None and theirs}


def verdicts(wanted: Iterable[Aim], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each aim at what was measured at all, its value, and whether that reaches it."""
    return [_verdict(aim, found[aim.case][aim.of]) for aim in wanted if aim.of in found.get(aim.case, {})]


def _verdict(aim: Aim, found: Figures) -> dict[str, Any]:
    value = found.get(aim.measure)
    reached = value is not None and aim.reached(value)
    return {"case": aim.case, "measure": aim.measure, "of": aim.of, "aim": str(aim), "value": value, "reached": reached}
