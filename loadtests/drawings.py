"""The figures of the report: each lane over time, and the machines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle

from loadtests.charts import Chart, Mark, Point, Series, chart, stacked
from loadtests.facts import Facts
from loadtests.samples import Queue
from loadtests.words import megabytes, number, share, span, tick

LANE_COLOURS = tuple(f"var(--lane-{at})" for at in range(5))
COLOURS = (*LANE_COLOURS, *(f"var(--{name})" for name in ("water", "span-wait", "bad", "good", "submit")))
SOFT, BAD = "var(--soft)", "var(--bad)"
LEAST_ROOM = 0.12
"""Share of a chart's width that the shortest stage of the shape must have for the names of stages to be shown."""


@dataclass(frozen=True)
class Key:
    """What stands beside a figure's title: words, and the colour they explain. `look` is empty, dashed or block."""

    name: str
    colour: str = ""
    look: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart with its title."""

    title: str
    chart: Chart
    keys: list[Key]


def colour(facts: Facts, lane: str) -> str:
    """A lane's colour, the same in the whole report."""
    return LANE_COLOURS[sorted(facts.lanes).index(lane) % len(LANE_COLOURS)]


def lane_figures(facts: Facts, lane: str) -> list[Figure]:
    """What became of a lane's jobs, how long they took, and what waited."""
    ours, seconds = colour(facts, lane), facts.run.seconds
    bins, looks = facts.over_time.lanes[lane], queues(facts, lane)
    arrived = Series("arrived", binned(facts, bins.arrived), SOFT, "dashed")
    ended = Series("ended", binned(facts, bins.ended), ours, "area")
    p50, p95 = Series("p50", binned(facts, bins.p50), ours), Series("p95", binned(facts, bins.p95), SOFT)
    queued = Series("queued", [(at, queue.queued) for at, queue in looks], ours, "area")
    running = Series("running", [(at, queue.running) for at, queue in looks], SOFT)
    oldest = Series("oldest", [(at, queue.oldest or 0.0) for at, queue in looks], ours, "area")
    limit, target = target_of(facts, lane, [oldest])
    unnamed = marks(facts, named=False)
    return [
        Figure("jobs/s", chart([arrived, ended], seconds, number, marks(facts, named=True)), keys(arrived, ended)),
        Figure("end to end", chart([p95, p50], seconds, tick, unnamed), keys(p50, p95)),
        Figure("queue depth", chart([running, queued], seconds, number, unnamed), keys(queued, running)),
        Figure("oldest queued job", chart([oldest, *limit], seconds, tick, unnamed), [target]),
    ]


def marks(facts: Facts, named: bool) -> list[Mark]:
    """Where the stages of the shape begin, if there are several."""
    stages = facts.stages
    if len(stages) < 2:
        return []
    room = min(one.end - one.start for one in stages) / facts.run.seconds
    named = named and room > LEAST_ROOM
    return [(one.start, one.name if named else "") for one in stages] + [(stages[-1].end, "")]


def binned(facts: Facts, values: Sequence[float | None]) -> list[Point]:
    """The values of bins, each in its bin's middle."""
    return [((at + 0.5) * facts.over_time.width, value) for at, value in enumerate(values)]


def queues(facts: Facts, lane: str) -> list[tuple[float, Queue]]:
    """What was seen of a lane, and when, in seconds since the run began."""
    looks = ((look.at - facts.run.began_at, look.of(lane)) for look in facts.lane_samples)
    return [(at, queue) for at, queue in looks if 0 <= at <= facts.run.seconds]


def target_of(facts: Facts, lane: str, drawn: Sequence[Series]) -> tuple[list[Series], Key]:
    """A lane's latency target as a line, if the values come near enough to it, and in words."""
    target = facts.lanes[lane].latency_target_s
    most = max((value or 0.0 for one in drawn for _, value in one.points), default=0.0)
    if most <= target / 5:
        return [], Key(f"target {span(target)}")
    line = Series("target", [(0.0, target), (facts.run.seconds, target)], BAD, "limit")
    return [line], Key(f"target {span(target)}", BAD, "dashed")


def keys(*series: Series, look: str = "") -> list[Key]:
    """What explains some series."""
    return [Key(one.name, one.colour, look or ("dashed" if one.look == "dashed" else "")) for one in series]


def machine_figures(facts: Facts) -> list[Figure]:
    """The server's host, its stores, and the load generator, as far as they were looked at."""
    return [*host_figures(facts), *store_figures(facts), *generator_figures(facts)]


def host_figures(facts: Facts) -> Iterable[Figure]:
    samples = [one for one in facts.host.samples if one.cpu]
    if len(samples) > 1:
        cpu = groups(facts, [(one.at, one.cpu) for one in samples])
        memory = groups(facts, [(one.at, {name: size / 2**20 for name, size in one.memory.items()}) for one in samples])
        for title, lines, words in ("CPU by process, in cores", cpu, number), ("memory by process", memory, megabytes):
            yield Figure(title, stacked(lines, facts.run.seconds, words), keys(*lines, look="block"))


def groups(facts: Facts, samples: Sequence[tuple[float, dict[str, float]]]) -> list[Series]:
    """One band for each group of processes, the largest at the bottom."""
    names = sorted({name for _, values in samples for name in values})
    total = {name: sum(values.get(name, 0.0) for _, values in samples) for name in names}
    points = {name: [(at - facts.run.began_at, values.get(name, 0.0)) for at, values in samples] for name in names}
    ordered = sorted(names, key=lambda name: -total[name])
    return [Series(name, points[name], group_colour(facts, name, names)) for name in ordered]


def group_colour(facts: Facts, name: str, names: Sequence[str]) -> str:
    """A worker has its lane's colour; the others take those that no lane has, the same in every chart."""
    if (lane := name.removeprefix("worker ")) in facts.lanes:
        return colour(facts, lane)
    others = [one for one in names if one.removeprefix("worker ") not in facts.lanes]
    free = COLOURS[min(len(LANE_COLOURS), len(facts.lanes)) :]
    return free[others.index(name) % len(free)]


def store_figures(facts: Facts) -> Iterable[Figure]:
    redis = [(one.at, one.redis) for one in facts.stores.samples if one.redis]
    postgresql = [(one.at, one.postgresql) for one in facts.stores.samples if one.postgresql]
    stores = ("Redis: commands/s", redis), ("PostgreSQL: transactions/s", postgresql)
    for (title, looks), paint in zip(stores, COLOURS, strict=False):
        if len(looks) > 1:
            line = Series("a second", [(at - facts.run.began_at, one.rate) for at, one in looks], paint, "area")
            most = max(one.connections for _, one in looks)
            yield Figure(title, chart([line], facts.run.seconds, number), [Key(f"{most:.0f} connections at most")])


def generator_figures(facts: Facts) -> Iterable[Figure]:
    began, seconds, limits = facts.run.began_at, facts.run.seconds, facts.generator.limits
    drawn = list(zip(facts.generator.processes, cycle(COLOURS), strict=False))
    cpu = [Series(one.name, [(at - began, used) for at, used, _ in one.series], paint) for one, paint in drawn]
    delay = [Series(one.name, [(at - began, late) for at, _, late in one.series], paint) for one, paint in drawn]
    if any(len(line.points) > 1 for line in cpu):
        yield Figure("generator: CPU, of a core", chart(cpu, seconds, share), [Key(f"limit {share(limits.cpu)}")])
        late = f"limit {tick(limits.delay_p99_s)}"
        yield Figure("generator: latest greenlet", chart(delay, seconds, tick), [Key(late)])
