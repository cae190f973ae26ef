"""The numbers of a run, as one JSON document: what the report draws, and what is kept to compare runs."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from loadtests.audit import Audit
from loadtests.context import Run
from loadtests.ledger import Record, by_lane, followed
from loadtests.percentiles import percentile, summary
from loadtests.shapes import Stage
from loadtests.sizing import planned
from loadtests.slo import STAGES, Generator, Verdict

Json = dict[str, Any]
BINS = 90
SATURATED = 0.7
"""Share of a stage's looks at a lane that must find jobs waiting, for it to count as saturated."""
LEAST_BACKLOG_S = 5.0
KEPT_UP = 0.9
"""Share of what arrived that a lane must finish within the stage, or it did not keep up."""
EXCEPTIONS = 200


# ---- stages of the shape --------------------------------------------------------------------------------------------


def spans(run: Run) -> list[tuple[Stage, float, float]]:
    """Each stage with its start and end, in seconds from the start of the run."""
    found, at = [], 0.0
    for stage in run.shape.stages:
        found.append((stage, at, at + stage.seconds))
        at += stage.seconds
    return found


def by_stage(run: Run, records: Sequence[Record], lanes: Sequence[Json]) -> list[Json]:
    """For each stage and lane: what arrived, what was finished, how long it took, whether it kept up."""
    return [
        {
            "name": stage.name,
            "start": start,
            "end": end,
            "lanes": {
                lane: _stage_of(run, (start, end), mine, [one for one in lanes if start <= one["at"] - run.began < end])
                for lane, mine in by_lane(records).items()
            },
        }
        for stage, start, end in spans(run)
        if start < (run.ended or math.inf) - run.began
    ]


def _stage_of(run: Run, between: tuple[float, float], records: Sequence[Record], looks: Sequence[Json]) -> Json:
    start, end = between
    mine = [record for record in records if start <= record.due_at - run.began < end]
    accepted = sum(start <= record.accepted_at - run.began < end for record in records)
    waits = [look["lanes"].get(records[0].lane, {}).get("queued", 0) for look in looks]
    ends = [record.stages()["end to end"] for record in mine if record.told_at is not None]
    runs = [record.stages()["run"] for record in mine if "run" in record.stages()]
    return {
        "arrived": len(mine) / (end - start),
        "accepted": accepted / (end - start),
        "ended": _finished_between(run, records, start, end) / (end - start),
        "run": statistics.median(runs) if len(runs) >= 3 else None,
        "p50": percentile(ends, 0.5) if ends else None,
        "p95": percentile(ends, 0.95) if ends else None,
        "queued": max(waits, default=0),
        "saturated": bool(waits) and sum(wait > 0 for wait in waits) >= SATURATED * len(waits),
    }


def state(stage: Json) -> str:
    """What held a lane up in a stage: nothing, the lane itself, or the way in (web tier, database, this generator)."""
    if stage["accepted"] < KEPT_UP * stage["arrived"]:
        return "way in"
    return "lane" if stage["saturated"] and stage["ended"] < KEPT_UP * stage["arrived"] else ""


# ---- prediction against measurement ---------------------------------------------------------------------------------


def ceilings(run: Run, records: Sequence[Record], stages: Sequence[Json]) -> dict[str, Json]:
    """For each lane: its slots by the plan and in fact, what they should do at most, and what they did."""
    plan = planned(run)
    return {
        lane: _ceiling(run, lane, mine, plan.get(lane), stages) | {"plan": plan.get(lane)}
        for lane, mine in by_lane(records).items()
    }


def _ceiling(run: Run, lane: str, records: Sequence[Record], plan: Json | None, stages: Sequence[Json]) -> Json:
    live = run.lanes[lane]
    slots = plan["slots"] if plan else live["slots"]
    calm = next((one["lanes"][lane]["run"] for one in stages if one["lanes"].get(lane, {}).get("run")), None)
    predicted = slots / calm if calm else None
    best, saturated = _best(run, lane, records, stages)
    whole = len([one for one in records if one.finished]) / max(1e-9, run.ended - run.began)
    return {
        "pool": live["pool"],
        "slots": live["slots"],
        "service": calm,
        "predicted": predicted,
        "rate": whole,
        "measured": best if saturated else whole,
        "saturated": saturated,
        "efficiency": best / predicted if predicted and saturated else None,
        "used": whole / predicted if predicted else None,
    }


def _best(run: Run, lane: str, records: Sequence[Record], stages: Sequence[Json]) -> tuple[float, bool]:
    """The most that a lane finished a second while it was saturated: in a stage, or while it worked off its backlog."""
    found = [one["ended"] for stage in stages if (one := stage["lanes"].get(lane, {})).get("saturated")]
    start, end = backlog(lane, run.shape.seconds, run.began, run.lanes_seen.samples)
    if end - start >= LEAST_BACKLOG_S:
        found.append(_finished_between(run, records, start, end) / (end - start))
    return max(found, default=0.0), bool(found)


def backlog(lane: str, after: float, began: float, looks: Sequence[Json]) -> tuple[float, float]:
    """From the end of the shape to the last moment at which jobs of the lane still waited."""
    late = [one for one in looks if one["at"] - began > after]
    waited = [one["at"] - began for one in late if one["lanes"].get(lane, {}).get("queued", 0) > 0]
    return after, max(waited, default=after)


def _finished_between(run: Run, records: Iterable[Record], start: float, end: float) -> int:
    moments = (record.finished - record.offset - run.began for record in records if record.finished is not None)
    return sum(start <= moment < end for moment in moments)


def knees(run: Run, stages: Sequence[Json]) -> dict[str, str]:
    """For an open shape with several loads: the rate from which a lane no longer keeps up, and why."""
    if run.shape.model != "open" or len(stages) < 2:
        return {}
    return {lane: knee([stage["lanes"][lane] for stage in stages]) for lane in stages[0]["lanes"]}


def knee(stages: Sequence[Json]) -> str:
    """Where one lane's stages stop keeping up."""
    kept = 0.0
    for one in stages:
        before = f"keeps up with {kept:.1f} jobs/s; at {one['arrived']:.1f}"
        if state(one) == "lane":
            return f"{before} the lane saturates, and ends {one['ended']:.1f}"
        if state(one) == "way in":
            return f"{before} the way in saturates before the lane, and accepts {one['accepted']:.1f}"
        kept = max(kept, one["arrived"])
    return f"keeps up with all of it, {kept:.1f} jobs/s"


# ---- over time ------------------------------------------------------------------------------------------------------


def over_time(run: Run, records: Sequence[Record]) -> Json:
    """In bins of equal length, for each lane: jobs that arrived and ended a second, and how long they took."""
    seconds = max(run.ended - run.began, 1.0)
    width = max(1.0, seconds / BINS)
    number = math.ceil(seconds / width)
    return {
        "width": width,
        "lanes": {lane: _binned(run, mine, width, number) for lane, mine in by_lane(records).items()},
    }


def _binned(run: Run, records: Sequence[Record], width: float, number: int) -> Json:
    arrived, ended = [0] * number, [0] * number
    waits: list[list[float]] = [[] for _ in range(number)]
    for record in records:
        _count(arrived, record.due_at - run.began, width)
        if record.told_at is not None and (at := int((record.told_at - run.began) / width)) < number:
            ended[at] += 1
            waits[at] += [] if record.polled else [record.stages()["end to end"]]
    return {
        "arrived": [count / width for count in arrived],
        "ended": [count / width for count in ended],
        "p50": [percentile(one, 0.5) if one else None for one in waits],
        "p95": [percentile(one, 0.95) if one else None for one in waits],
    }


def _count(bins: list[int], at: float, width: float) -> None:
    if 0 <= (place := int(at / width)) < len(bins):
        bins[place] += 1


def table(run: Run, records: Sequence[Record]) -> list[Json]:
    """One row for each lane, kind and stage."""
    seconds = run.ended - run.began
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.lane, record.name.removeprefix(f"{record.lane}.")), []).append(record)
    return [
        {"lane": lane, "kind": kind, "stage": stage, **summary(values, seconds)}
        for (lane, kind), mine in sorted(groups.items())
        for stage in STAGES
        if (values := [spans[stage] for record in mine if stage in (spans := record.stages())])
    ]


def breakdown(records: Sequence[Record]) -> dict[str, Json]:
    """For each lane, the medians of the stages one after the other, as they add up to end to end."""
    found: dict[str, Json] = {}
    for lane, mine in by_lane(followed(records)).items():
        whole = [spans for record in mine if len(spans := record.stages()) == len(STAGES)]
        if whole:
            found[lane] = {stage: summary([one[stage] for one in whole], 1.0) for stage in STAGES}
    return found


def ways(records: Sequence[Record]) -> list[Json]:
    """How long a client waits to be told, by the way it asks."""
    groups: dict[str, list[float]] = {}
    for record in records:
        if "notify" in (found := record.stages()):
            groups.setdefault(record.way, []).append(found["notify"])
    return [{"way": way, **summary(values, 1.0)} for way, values in sorted(groups.items())]


# ---- the generator --------------------------------------------------------------------------------------------------


def generators(samples: Mapping[str, Sequence[Json]], limits: Generator) -> Json:
    """How busy and how late the load generator was, and whether its measurements can be believed."""
    processes = [_generator(name, mine) for name, mine in sorted(samples.items()) if mine]
    reasons = []
    for one in processes:
        if one["cpu"] > limits.cpu:
            reasons.append(f"{one['name']} used {one['cpu']:.0%} of a core, more than {limits.cpu:.0%}")
        if one["delay_p99"] > limits.delay_p99_s:
            late, limit = one["delay_p99"] * 1000, limits.delay_p99_s * 1000
            reasons.append(f"{one['name']} ran {late:.0f} ms late (p99), more than {limit:.0f} ms")
    return {"processes": processes, "invalid": reasons, "limits": limits.model_dump()}


def _generator(name: str, samples: Sequence[Json]) -> Json:
    delays = [delay for sample in samples for delay in sample["delays"]]
    return {
        "name": name,
        "cpu": statistics.fmean(sample["cpu"] for sample in samples),
        "cpu_max": max(sample["cpu"] for sample in samples),
        "delay_p50": percentile(delays, 0.5) if delays else 0.0,
        "delay_p99": percentile(delays, 0.99) if delays else 0.0,
        "delay_max": max(delays, default=0.0),
        "series": [[sample["at"], sample["cpu"], max(sample["delays"], default=0.0)] for sample in samples],
    }


# ---- all of it ------------------------------------------------------------------------------------------------------


def head(run: Run) -> Json:
    """What was run, when and against what."""
    offset = run.offset()
    return {
        "shape": run.name,
        "summary": run.shape.summary,
        "model": run.shape.model,
        "host": run.target.host,
        "began": datetime.fromtimestamp(run.began, UTC).isoformat(timespec="seconds"),
        "began_at": run.began,
        "seconds": run.ended - run.began,
        "planned_seconds": run.shape.seconds,
        "interrupted": run.interrupted,
        "processes": run.processes,
        "pieces": [f"{piece.lane}: {piece.work.kind} {piece.work.params or ''}".strip() for piece in run.desk.pieces],
        "clock": {
            "offset": offset.seconds,
            "uncertainty": offset.uncertainty if math.isfinite(offset.uncertainty) else None,
        },
    }


def audited(found: Audit, refused: Mapping[str, int], failed: int) -> Json:
    """The counts, and the exceptions by id. `failed`: requests after the submit that had to be sent again."""
    return {
        "submitted": len(found.findings),
        **{verdict: found.count(verdict) for verdict in ("verified", "lost", "double", "wrong")},
        "exceptions": [asdict(one) for one in found.exceptions[:EXCEPTIONS]],
        "refused": dict(refused),
        "failed": failed,
    }


def verdicts(found: Sequence[Verdict]) -> list[Json]:
    return [asdict(one) for one in found]
