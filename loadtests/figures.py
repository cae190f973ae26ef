"""Computes the numbers of a run (facts.py) from the records of its jobs and from what was looked at meanwhile."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from loadtests import facts, slo
from loadtests.context import Run
from loadtests.facts import STAGES, Facts, Finding, LaneStage, ShapeStage, Summary, percentile
from loadtests.ledger import Record, by_lane, followed
from loadtests.samples import GeneratorLimits, GeneratorSample, LaneSample
from loadtests.sizing import planned

BINS = 90
SATURATED = 0.7
"""Share of the looks at a lane during a stage that must find jobs waiting, for the lane to count as saturated."""
LEAST_BACKLOG_S = 5.0
LEAST_RUNS = 3
"""Jobs of which a median run time is taken."""


def measure(run: Run, findings: Sequence[Finding]) -> Facts:
    """All numbers of a run that has ended; `findings` are its audit's."""
    audit = facts.Audited.of(findings, dict(run.desk.ledger.refused), run.desk.ledger.failed)
    records = list(run.desk.ledger.records.values())
    stages = by_stage(run, records)
    lanes = ceilings(run, records, stages)
    efficiency = {lane: one.efficiency for lane, one in lanes.items()}
    refused = sum(audit.refused.values())
    verdicts = slo.judge(run.limits, slo.Measured(run.name, run.lanes, by_lane(followed(records)), efficiency, refused))
    generator = generators(run.generators | {run.generator.name: run.generator.samples}, run.limits.generator)
    return Facts(
        run=head(run),
        audit=audit,
        verdicts=verdicts,
        table=table(run, records),
        breakdown=breakdown(records),
        ways=ways(records),
        stages=stages,
        ceilings=lanes,
        knees=knees(run, stages),
        over_time=over_time(run, records),
        lanes=run.lanes,
        lane_samples=run.lanes_seen.samples,
        host=facts.Host(run.host_seen.known, run.host_seen.cores, run.host_seen.samples),
        stores=facts.Stores(run.stores_seen.missing, run.stores_seen.samples),
        generator=generator,
        passed=audit.passed and all(one.ok is not False for one in verdicts) and not generator.invalid,
    )


def head(run: Run) -> facts.Head:
    """What was run, when and against what."""
    offset = run.offset()
    known = math.isfinite(offset.uncertainty)
    return facts.Head(
        shape=run.name,
        summary=run.shape.summary,
        model=run.shape.model,
        host=run.target.host,
        began=datetime.fromtimestamp(run.began, UTC).isoformat(timespec="seconds"),
        began_at=run.began,
        seconds=run.ended - run.began,
        interrupted=run.interrupted,
        processes=run.processes,
        pieces=[f"{piece.lane}: {piece.work.kind} {piece.work.params or ''}".strip() for piece in run.desk.pieces],
        clock=facts.ClockOffset(offset.seconds, offset.uncertainty if known else None),
        one_socket=run.desk.ends is not None,
    )


def by_stage(run: Run, records: Sequence[Record]) -> list[ShapeStage]:
    """For each stage that was begun, and each lane: what arrived, what was finished, and how long it took."""
    found, end = [], 0.0
    for stage in run.shape.stages:
        start, end = end, end + stage.seconds
        if start < run.ended - run.began:
            lanes = {lane: _of(run, start, end, mine) for lane, mine in by_lane(records).items()}
            found.append(ShapeStage(stage.name, start, end, lanes))
    return found


def _of(run: Run, start: float, end: float, records: Sequence[Record]) -> LaneStage:
    lane, seconds = records[0].lane, end - start
    mine = [record for record in records if start <= record.due_at - run.began < end]
    looks = [look.of(lane).queued for look in run.lanes_seen.samples if start <= look.at - run.began < end]
    times = [record.stages()["end to end"] for record in mine if record.told_at is not None]
    runs = [record.stages()["run"] for record in mine if "run" in record.stages()]
    return LaneStage(
        arrived=len(mine) / seconds,
        accepted=sum(start <= record.accepted_at - run.began < end for record in records) / seconds,
        ended=_finished_between(run, records, start, end) / seconds,
        run=statistics.median(runs) if len(runs) >= LEAST_RUNS else None,
        p50=percentile(times, 0.5) if times else None,
        p95=percentile(times, 0.95) if times else None,
        queued=max(looks, default=0),
        saturated=bool(looks) and sum(queued > 0 for queued in looks) >= SATURATED * len(looks),
    )


def _finished_between(run: Run, records: Iterable[Record], start: float, end: float) -> int:
    moments = (record.finished - record.offset - run.began for record in records if record.finished is not None)
    return sum(start <= moment < end for moment in moments)


def knees(run: Run, stages: Sequence[ShapeStage]) -> dict[str, str]:
    """For an open shape of several stages: the rate from which each lane no longer keeps up, and why."""
    if run.shape.model != "open" or len(stages) < 2:
        return {}
    return {lane: knee([stage.lanes[lane] for stage in stages]) for lane in stages[0].lanes}


def knee(stages: Sequence[LaneStage]) -> str:
    """The first of a lane's stages in which it did not keep up, in words."""
    kept = 0.0
    for one in stages:
        before = f"keeps up with {kept:.1f} jobs/s; at {one.arrived:.1f}"
        if one.held_up_by == "lane":
            return f"{before} the lane saturates, and ends {one.ended:.1f}"
        if one.held_up_by == "way in":
            return f"{before} the way in saturates before the lane, and accepts {one.accepted:.1f}"
        kept = max(kept, one.arrived)
    return f"keeps up with all of it, {kept:.1f} jobs/s"


def ceilings(run: Run, records: Sequence[Record], stages: Sequence[ShapeStage]) -> dict[str, facts.Ceiling]:
    """For each lane: its slots by the plan and in fact, what they should do at most, and what they did."""
    plans = planned(run)
    return {lane: _ceiling(run, mine, plans.get(lane), stages) for lane, mine in by_lane(records).items()}


def _ceiling(
    run: Run, records: Sequence[Record], plan: facts.Plan | None, stages: Sequence[ShapeStage]
) -> facts.Ceiling:
    lane = records[0].lane
    mine = [stage.lanes[lane] for stage in stages if lane in stage.lanes]
    service = next((one.run for one in mine if one.run), None)
    predicted = (plan.slots if plan else run.lanes[lane].slots) / service if service else None
    best, saturated = _best(run, records, mine)
    rate = len([one for one in records if one.finished]) / max(1e-9, run.ended - run.began)
    return facts.Ceiling(
        pool=run.lanes[lane].pool,
        slots=run.lanes[lane].slots,
        service=service,
        predicted=predicted,
        rate=rate,
        measured=best if saturated else rate,
        saturated=saturated,
        efficiency=best / predicted if predicted and saturated else None,
        used=rate / predicted if predicted else None,
        plan=plan,
    )


def _best(run: Run, records: Sequence[Record], stages: Sequence[LaneStage]) -> tuple[float, bool]:
    """The most that a lane finished a second while it was saturated, in a stage or in its backlog; whether it was."""
    found = [one.ended for one in stages if one.saturated]
    start, end = backlog(records[0].lane, run.shape.seconds, run.began, run.lanes_seen.samples)
    if end - start >= LEAST_BACKLOG_S:
        found.append(_finished_between(run, records, start, end) / (end - start))
    return max(found, default=0.0), bool(found)


def backlog(lane: str, after: float, began: float, looks: Sequence[LaneSample]) -> tuple[float, float]:
    """From the end of the shape (`after`) to the last moment at which jobs of the lane still waited."""
    late = [look.at - began for look in looks if look.at - began > after and look.of(lane).queued]
    return after, max(late, default=after)


def over_time(run: Run, records: Sequence[Record]) -> facts.OverTime:
    """In bins of equal length, for each lane: jobs that arrived and ended a second, and how long they took."""
    seconds = max(run.ended - run.began, 1.0)
    width = max(1.0, seconds / BINS)
    lanes = {lane: _binned(run, mine, width, math.ceil(seconds / width)) for lane, mine in by_lane(records).items()}
    return facts.OverTime(width, lanes)


def _binned(run: Run, records: Sequence[Record], width: float, number: int) -> facts.Bins:
    arrived, ended = [0] * number, [0] * number
    times: list[list[float]] = [[] for _ in range(number)]
    for record in records:
        if 0 <= (at := int((record.due_at - run.began) / width)) < number:
            arrived[at] += 1
        if record.told_at is not None and (at := int((record.told_at - run.began) / width)) < number:
            ended[at] += 1
            times[at] += [] if record.polled else [record.stages()["end to end"]]
    p50, p95 = ([percentile(one, share) if one else None for one in times] for share in (0.5, 0.95))
    return facts.Bins([count / width for count in arrived], [count / width for count in ended], p50, p95)


def table(run: Run, records: Sequence[Record]) -> list[facts.Row]:
    """One row for each lane, kind and stage."""
    seconds = run.ended - run.began
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.lane, record.name.removeprefix(f"{record.lane}.")), []).append(record)
    return [
        facts.Row.of(values, seconds, lane=lane, kind=kind, stage=stage)
        for (lane, kind), mine in sorted(groups.items())
        for stage in STAGES
        if (values := [spans[stage] for record in mine if stage in (spans := record.stages())])
    ]


def breakdown(records: Sequence[Record]) -> dict[str, dict[str, Summary]]:
    """Each stage of the jobs of each lane that were followed and have all of them."""
    found: dict[str, dict[str, Summary]] = {}
    for lane, mine in by_lane(followed(records)).items():
        whole = [spans for record in mine if len(spans := record.stages()) == len(STAGES)]
        if whole:
            found[lane] = {stage: Summary.of([one[stage] for one in whole]) for stage in STAGES}
    return found


def ways(records: Sequence[Record]) -> list[facts.Way]:
    """How long after its end a client knows of it, by the way in which it asks."""
    groups: dict[str, list[float]] = {}
    for record in records:
        if "notify" in (found := record.stages()):
            groups.setdefault(record.way, []).append(found["notify"])
    return [facts.Way.of(values, way=way) for way, values in sorted(groups.items())]


def generators(samples: Mapping[str, Sequence[GeneratorSample]], limits: GeneratorLimits) -> facts.Generators:
    """How busy and how late the load generator was, by process, and whether what it measured can be believed."""
    processes = [_generator(name, mine) for name, mine in sorted(samples.items()) if mine]
    reasons = []
    for one in processes:
        if one.cpu > limits.cpu:
            reasons.append(f"{one.name} used {one.cpu:.0%} of a core, more than {limits.cpu:.0%}")
        if one.delay_p99 > limits.delay_p99_s:
            late, limit = one.delay_p99 * 1000, limits.delay_p99_s * 1000
            reasons.append(f"{one.name} ran {late:.0f} ms late (p99), more than {limit:.0f} ms")
    return facts.Generators(processes, reasons, limits)


def _generator(name: str, samples: Sequence[GeneratorSample]) -> facts.Generator:
    delays = [delay for sample in samples for delay in sample.delays]
    return facts.Generator(
        name=name,
        cpu=statistics.fmean(sample.cpu for sample in samples),
        delay_p99=percentile(delays, 0.99) if delays else 0.0,
        delay_max=max(delays, default=0.0),
        series=[(one.at, one.cpu, max(one.delays, default=0.0)) for one in samples],
    )
