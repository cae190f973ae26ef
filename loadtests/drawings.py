"""The report's charts: each lane over time, and the machines."""

from collections.abc import Iterable, Sequence
from typing import Any

from loadtests.charts import Mark, Series, chart, stacked
from loadtests.markup import dot, figure, key, megabytes, number, share, soft, span, time

Json = dict[str, Any]
LANE_COLOURS = ("--lane-0", "--lane-1", "--lane-2", "--lane-3", "--lane-4")
GROUPS = (*LANE_COLOURS, "--water", "--span-wait", "--bad", "--good", "--submit")
LANES = 5
LEAST_ROOM = 0.12  # of a chart's width, for the name of a stage


def colour(facts: Json, lane: str) -> str:
    return f"var(--lane-{sorted(facts['lanes']).index(lane) % LANES})"


# ---- over time ------------------------------------------------------------------------------------------------------


def marks(facts: Json, named: bool) -> list[Mark]:
    """Where the stages of the shape begin."""
    stages = facts["stages"]
    if len(stages) < 2:
        return []
    room = min(one["end"] - one["start"] for one in stages) / facts["run"]["seconds"]
    named = named and room > LEAST_ROOM
    return [Mark(one["start"], one["name"] if named else "") for one in stages] + [Mark(stages[-1]["end"], "")]


def over_time(facts: Json) -> str:
    return "".join(lane_over_time(facts, lane) for lane in facts["over_time"]["lanes"])


def lane_over_time(facts: Json, lane: str) -> str:
    drawn = arrivals(facts, lane), latencies(facts, lane), depth(facts, lane), age(facts, lane)
    name = f"<h3>{dot(colour(facts, lane))}{lane}</h3>"
    return f'<div class="card lane">{name}<div class="charts">{"".join(drawn)}</div></div>'


def binned(facts: Json, lane: str, name: str) -> list[tuple[float, float | None]]:
    width = facts["over_time"]["width"]
    return [((at + 0.5) * width, value) for at, value in enumerate(facts["over_time"]["lanes"][lane][name])]


def arrivals(facts: Json, lane: str) -> str:
    ours = colour(facts, lane)
    lines = [
        Series("arrived", binned(facts, lane, "arrived"), "var(--soft)", "dashed"),
        Series("ended", binned(facts, lane, "ended"), ours, "area"),
    ]
    keys = key("arrived", "var(--soft)", "dashed"), key("ended", ours)
    return figure("jobs/s", chart(lines, facts["run"]["seconds"], number, marks(facts, True)), keys)


def latencies(facts: Json, lane: str) -> str:
    ours = colour(facts, lane)
    lines = [
        Series("p95", binned(facts, lane, "p95"), "var(--soft)"),
        Series("p50", binned(facts, lane, "p50"), ours),
    ]
    keys = key("p50", ours), key("p95", "var(--soft)")
    return figure("end to end", chart(lines, facts["run"]["seconds"], time, marks(facts, False)), keys)


def looked(facts: Json, lane: str, name: str) -> list[tuple[float, float | None]]:
    began = facts["run"]["began_at"]
    samples = ((one["at"] - began, one["lanes"].get(lane, {})) for one in facts["lane_samples"])
    return [(at, float(seen.get(name) or 0)) for at, seen in samples if 0 <= at <= facts["run"]["seconds"]]


def depth(facts: Json, lane: str) -> str:
    ours = colour(facts, lane)
    lines = [
        Series("running", looked(facts, lane, "running"), "var(--soft)"),
        Series("queued", looked(facts, lane, "queued"), ours, "area"),
    ]
    keys = key("queued", ours), key("running", "var(--soft)")
    return figure("queue depth", chart(lines, facts["run"]["seconds"], number, marks(facts, False)), keys)


def age(facts: Json, lane: str) -> str:
    """The target is drawn only where it is near enough to tell something."""
    ours, target = colour(facts, lane), facts["lanes"][lane]["latency_target_s"]
    points = looked(facts, lane, "oldest")
    lines = [Series("oldest", points, ours, "area")]
    most = max((value or 0.0 for _, value in points), default=0.0)
    if most > target / 5:
        lines.append(Series("target", [(0.0, target), (facts["run"]["seconds"], target)], "var(--bad)", "limit"))
    keys = (
        [key(f"target {span(target)}", "var(--bad)", "dashed")]
        if most > target / 5
        else [soft(f"target {span(target)}")]
    )
    return figure("oldest queued job", chart(lines, facts["run"]["seconds"], time, marks(facts, False)), keys)


# ---- machines -------------------------------------------------------------------------------------------------------


def machines(facts: Json) -> str:
    drawn = [*host_figures(facts), *store_figures(facts), *generator_figures(facts)]
    return f'<div class="card"><div class="charts">{"".join(drawn)}</div></div>' if drawn else ""


def host_figures(facts: Json) -> Iterable[str]:
    samples = [one for one in facts["host"]["samples"] if one["cpu"]]
    if len(samples) < 2:
        return
    for title, what, words, unit in (
        ("CPU by process, in cores", "cpu", number, 1),
        ("memory by process", "memory", megabytes, 2**20),
    ):
        lines = group_series(facts, samples, what, unit)
        keys = [key(one.name, one.colour, "block") for one in lines]
        yield figure(title, stacked(lines, facts["run"]["seconds"], words), keys)


def group_series(facts: Json, samples: Sequence[Json], what: str, unit: int) -> list[Series]:
    """One band for each group of processes, the largest at the bottom."""
    began = facts["run"]["began_at"]
    names = sorted({name for one in samples for name in one[what]})
    total = {name: sum(one[what].get(name, 0) for one in samples) for name in names}
    ordered = sorted(names, key=lambda name: -total[name])
    return [
        Series(
            name,
            [(one["at"] - began, one[what].get(name, 0) / unit) for one in samples],
            f"var({group_colour(facts, name, names)})",
        )
        for name in ordered
    ]


def group_colour(facts: Json, name: str, names: Sequence[str]) -> str:
    """A worker has its lane's colour; the others take what is left, the same in every chart."""
    lane = name.removeprefix("worker ")
    if lane in facts["lanes"]:
        return f"--lane-{sorted(facts['lanes']).index(lane) % LANES}"
    others = [one for one in names if one.removeprefix("worker ") not in facts["lanes"]]
    free = GROUPS[min(LANES, len(facts["lanes"])) :]
    return free[others.index(name) % len(free)]


def store_figures(facts: Json) -> Iterable[str]:
    """What Redis and PostgreSQL were asked."""
    began = facts["run"]["began_at"]
    for at, (name, title) in enumerate(
        {"redis": "Redis: commands/s", "postgresql": "PostgreSQL: transactions/s"}.items()
    ):
        points = [(one["at"] - began, one[name]["rate"]) for one in facts["stores"]["samples"] if name in one]
        if len(points) > 1:
            line = Series("a second", points, f"var({GROUPS[at]})", "area")
            most = max(one[name]["connections"] for one in facts["stores"]["samples"] if name in one)
            keys = [soft(f"{most:.0f} connections at most")]
            yield figure(title, chart([line], facts["run"]["seconds"], number), keys)


def generator_figures(facts: Json) -> Iterable[str]:
    began, limits = facts["run"]["began_at"], facts["generator"]["limits"]
    for title, place, words, limit in (
        ("generator: CPU, of a core", 1, share, limits["cpu"]),
        ("generator: latest greenlet", 2, time, limits["delay_p99_s"]),
    ):
        lines = [
            Series(
                one["name"], [(row[0] - began, row[place]) for row in one["series"]], f"var({GROUPS[at % len(GROUPS)]})"
            )
            for at, one in enumerate(facts["generator"]["processes"])
        ]
        if any(len(line.points) > 1 for line in lines):
            yield figure(title, chart(lines, facts["run"]["seconds"], words), [soft(f"limit {words(limit)}")])
