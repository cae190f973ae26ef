"""The sizing policy: how many workers of which width a host gets, from its cores, its memory and the lane table.

Pure functions: `size_lanes`, and `size_host` for a host that runs nothing but workers. sizing_command.py prints a plan:

    .venv/bin/python deploy/sizing.py --cores 8 --memory-mb 16384 --lanes cpu,io [--json]

**Cores** go to the lanes by weight, one at a time: each lane has one, and the next goes to the lane with the largest
weight / (2 x cores it has + 1) (Sainte-Lague; Balinski and Young, *Fair Representation*, 1982). No core would serve
another lane better, weight for weight, and no lane ever loses a core because the host gained one (with largest
remainders that happens: the Alabama paradox). The cores given out exceed the host's only if it has fewer cores than
lanes.

**Slots** of a lane with c cores:

- prefork: one unit of c processes. More processes than cores gain nothing on CPU work (measured: at 16x they halve it).
- threads: c units, because one Python process computes on one core at a time (the GIL), each with
  1 core x utilisation x (1 + wait/compute) threads (Goetz et al., *Java Concurrency in Practice*, 8.2).
- solo: c units of one slot. For short jobs several of them beat one prefork of the same width (measured: 1.25 to 2.2x).

`max_slots` caps what one unit gets.

**Memory** of a unit is memory_base_mb + slots x memory_per_slot_mb; that is its MemoryMax. The sum over all units stays
within a budget: of a host that runs nothing else, its memory less what the system keeps (`system_mb`). The plan grows
in a fixed order, and stops before the first step that does not fit:

1. every lane has one unit with one slot;
2. the first unit of each threads lane gets its threads, one at a time;
3. the cores beyond the first are given out, in the order above.

So memory cuts in the reverse of it, the core given last first, and `why` says so. As the order does not depend on the
host, a larger host is always further along it: no lane ever shrinks when cores or memory grow.

**Limits**: the stop timeout is the lane's hard limit + 30 s, so that systemd never kills a job that Celery would have
let finish. A prefork child that outgrew its slot (max_memory_per_child) is replaced after its job. The lane's weight is
split over its units as systemd's CPUWeight (100 is the system's default).

An **override** (host by host, lane by lane) replaces a value of the plan. The budget counts it, `why` repeats it, and
the cores of the other lanes stay as they are.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

MOST_CORES = 8192  # what Linux can be built for
POOLS = {"prefork", "threads", "solo"}

Overrides = Mapping[str, Mapping[str, int]]


class SizingError(ValueError):
    """No plan is possible; the message names the host, the value and what to change."""


class TooSmallError(SizingError):
    """The smallest plan takes more memory than the budget; `need_mb` is what it takes."""

    def __init__(self, message: str, need_mb: int) -> None:
        super().__init__(message)
        self.need_mb = need_mb


@dataclass(frozen=True)
class LanePlan:
    """What one host runs for one lane. `concurrency` and the memory are per instance."""

    lane: str
    pool: str
    instances: int
    concurrency: int
    prefetch_multiplier: int
    max_tasks_per_child: int | None
    max_memory_per_child_kb: int | None
    memory_max_mb: int
    cpu_weight: int
    soft_time_limit: int
    time_limit: int
    stop_timeout_s: int
    why: str

    @property
    def slots(self) -> int:
        """Jobs of this lane that run side by side on the host."""
        return self.instances * self.concurrency


OVERRIDABLE = {field.name for field in fields(LanePlan)} - {"lane", "pool", "soft_time_limit", "time_limit", "why"}


@dataclass(frozen=True)
class Lane:
    """What sizing reads of a lane; lanes.yml explains each field."""

    name: str
    pool: str
    weight: int
    wait_ratio: float
    memory_base_mb: int
    memory_per_slot_mb: int
    prefetch_multiplier: int
    soft_time_limit: int
    time_limit: int
    max_tasks_per_child: int | None
    max_slots: int
    utilisation: float
    fixed: Mapping[str, int]

    @property
    def goetz_threads(self) -> int:
        """Threads that keep one core busy, before any cap. Rounded up: one thread too many costs little."""
        return math.ceil(round(1 * self.utilisation * (1 + self.wait_ratio), 6))

    @property
    def full_threads(self) -> int:
        """Threads of one unit of a threads lane."""
        return self.fixed.get("concurrency", max(1, min(self.goetz_threads, self.max_slots)))

    @property
    def most_cores(self) -> float:
        """Cores beyond which this lane has no use for more."""
        return self.max_slots * self.fixed.get("instances", 1) if self.pool == "prefork" else math.inf

    def shape(self, grant: "Grant") -> "Shape":
        """Units, and slots in each."""
        if self.pool == "prefork":
            instances = self.fixed.get("instances", 1)
            return Shape(instances, self.fixed.get("concurrency", max(1, grant.cores // instances)))
        return Shape(self.fixed.get("instances", grant.cores), grant.threads if self.pool == "threads" else 1)

    def unit_memory_mb(self, shape: "Shape") -> int:
        return self.fixed.get("memory_max_mb", self.memory_base_mb + shape.concurrency * self.memory_per_slot_mb)


@dataclass(frozen=True)
class Grant:
    """What a lane has been given: cores, and (threads lanes only) threads in each of its units."""

    cores: int
    threads: int


@dataclass(frozen=True)
class Shape:
    instances: int
    concurrency: int

    @property
    def slots(self) -> int:
        return self.instances * self.concurrency


Grants = dict[str, Grant]


def system_mb(memory_mb: int) -> int:
    """What a host keeps for its system, in MiB: a bare Debian with sshd, journald and some page cache."""
    return max(256, memory_mb // 10)


def least_memory_mb(budget_of: Callable[[int], int], need_mb: int) -> int:
    """The least memory of a host, in MiB, of which the budget (it must not fall as memory grows) reaches `need_mb`."""
    return bisect_left(range(2**40), need_mb, key=budget_of)


def size_host(  # noqa: PLR0913 - the facts of a host that may differ, by name
    lanes: Mapping[str, Any],
    cores: int,
    memory_mb: int,
    *,
    overrides: Overrides | None = None,
    reserve_mb: int | None = None,
    host: str = "this host",
) -> list[LanePlan]:
    """`size_lanes` for a host that runs nothing else: the budget is its memory less a reserve, both in MiB.

    Raises:
        SizingError: an input makes no sense, or the host is too small for its lanes.
    """
    for name, value, least in (("memory_mb", memory_mb, 1), ("reserve_mb", reserve_mb, 0)):
        if value is not None and not _whole(value, least=least):
            raise SizingError(f"{host} has {name}={value!r}, which must be a whole number of at least {least}.")

    def budget(memory_mb: int) -> int:
        return memory_mb - (system_mb(memory_mb) if reserve_mb is None else reserve_mb)

    try:
        return size_lanes(lanes, cores, budget(memory_mb), overrides=overrides, host=host)
    except TooSmallError as error:
        raise SizingError(
            f"{host} has {memory_mb} MB, of which {memory_mb - budget(memory_mb)} MB are kept for the system, but the "
            f"smallest plan for its lanes ({_names(lanes)}) takes {error.need_mb} MB: "
            f"give it {least_memory_mb(budget, error.need_mb)} MB, or move a lane to another host."
        ) from None


def size_lanes(  # noqa: PLR0913 - the facts of a host that may differ, by name
    lanes: Mapping[str, Any],
    cores: int,
    budget_mb: int,
    *,
    overrides: Overrides | None = None,
    utilisation: float = 1.0,
    host: str = "this host",
) -> list[LanePlan]:
    """Plan the workers of one host; the result is sorted by lane.

    Args:
        lanes: the lanes this host serves, by name: objects or plain mappings with the fields of lanes.yml.
        cores: cores the workers may use.
        budget_mb: memory that all of its workers may take together, in MiB.
        overrides: lane -> field of the plan -> value that replaces the computed one.
        utilisation: how busy a threads lane may keep its cores, up to 1.
        host: its name, for messages.

    Raises:
        SizingError: an input makes no sense.
        TooSmallError: the budget is too small for the lanes.
    """
    if not _whole(cores, least=1) or cores > MOST_CORES:
        raise SizingError(f"{host} has cores={cores!r}, which must be a whole number from 1 to {MOST_CORES}.")
    if not 0 < utilisation <= 1:
        raise SizingError(f"{host} has utilisation={utilisation!r}, which must be above 0 and at most 1.")
    specs = _specs(lanes, overrides or {}, utilisation, host)
    smallest, *larger = _growth(specs, cores)
    if (need := _memory_mb(specs, smallest)) > budget_mb:
        raise TooSmallError(
            f"{host} has {budget_mb} MB for its workers, but the smallest plan for its lanes ({_names(lanes)}) takes "
            f"{need} MB: give it {need} MB, or move a lane to another host.",
            need,
        )
    chosen = wanted = smallest
    for wanted in larger:
        if _memory_mb(specs, wanted) <= budget_mb:  # never falls on the way: the last that fits is the longest prefix
            chosen = wanted
    host_facts = _Host(cores, budget_mb, sum(spec.weight for spec in specs), len(specs))
    return [_plan(spec, chosen[spec.name], wanted[spec.name], host_facts) for spec in specs]


def _growth(specs: list[Lane], cores: int) -> Iterator[Grants]:
    """Every plan from the smallest to what the cores allow, each one step larger than the one before."""
    grants = {spec.name: Grant(1, 1 if "concurrency" not in spec.fixed else spec.full_threads) for spec in specs}
    yield grants
    threaded = [spec for spec in specs if spec.pool == "threads"]
    for threads in range(2, max((spec.full_threads for spec in threaded), default=1) + 1):
        for spec in threaded:
            if grants[spec.name].threads < threads <= spec.full_threads:
                grants = {**grants, spec.name: Grant(1, threads)}
                yield grants
    for _ in range(cores - len(specs)):
        hungry = [spec for spec in specs if grants[spec.name].cores < spec.most_cores]
        if not hungry:
            return
        spec = max(hungry, key=lambda s: (s.weight / (2 * grants[s.name].cores + 1), s.weight))
        grants = {**grants, spec.name: replace(grants[spec.name], cores=grants[spec.name].cores + 1)}
        yield grants


def _memory_mb(specs: list[Lane], grants: Grants) -> int:
    shapes = ((spec, spec.shape(grants[spec.name])) for spec in specs)
    return sum(shape.instances * spec.unit_memory_mb(shape) for spec, shape in shapes)


@dataclass(frozen=True)
class _Host:
    cores: int
    budget_mb: int
    total_weight: int
    lanes: int


def _plan(spec: Lane, grant: Grant, wanted: Grant, host: _Host) -> LanePlan:
    shape = spec.shape(grant)
    prefork = spec.pool == "prefork"
    plan = LanePlan(
        lane=spec.name,
        pool=spec.pool,
        instances=shape.instances,
        concurrency=shape.concurrency,
        prefetch_multiplier=spec.prefetch_multiplier,
        max_tasks_per_child=spec.max_tasks_per_child if prefork else None,
        max_memory_per_child_kb=spec.memory_per_slot_mb * 1024 if prefork else None,
        memory_max_mb=spec.unit_memory_mb(shape),
        cpu_weight=min(10_000, max(1, round(100 * spec.weight / shape.instances))),
        soft_time_limit=spec.soft_time_limit,
        time_limit=spec.time_limit,
        stop_timeout_s=spec.time_limit + 30,
        why="; ".join(_reasons(spec, grant, wanted, host)) + ".",
    )
    overridden: dict[str, Any] = {**spec.fixed}
    return replace(plan, **overridden)


def _reasons(spec: Lane, grant: Grant, wanted: Grant, host: _Host) -> Iterator[str]:
    yield _share(spec, grant, host)
    if spec.pool == "prefork":
        yield "one process for each"
    elif spec.pool == "solo":
        yield "one unit of one slot for each"
    elif "concurrency" not in spec.fixed:
        formula = f"1 core x {spec.utilisation:g} x (1 + {spec.wait_ratio:g})"
        yield f"one unit for each, with {formula} = {spec.goetz_threads} threads"
        if spec.goetz_threads > spec.max_slots:
            yield f"max_slots caps that at {spec.max_slots}"
    if grant.cores >= spec.most_cores:
        yield f"max_slots caps it at {spec.max_slots} processes, whatever the cores"
    now, full = spec.shape(grant).slots, spec.shape(wanted).slots
    if now < full:
        yield f"memory cuts it from {full} to {now} slots (budget {host.budget_mb} MB; the core given last goes first)"
    if spec.fixed:
        yield "set by hand: " + ", ".join(f"{key}={value}" for key, value in sorted(spec.fixed.items()))


def _share(spec: Lane, grant: Grant, host: _Host) -> str:
    if host.cores < host.lanes:
        return f"{host.lanes} lanes take turns on {_count(host.cores, 'core')}, so the least: 1"
    return f"{grant.cores} of {_count(host.cores, 'core')} (weight {spec.weight} of {host.total_weight})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _whole(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _specs(lanes: Mapping[str, Any], overrides: Overrides, utilisation: float, host: str) -> list[Lane]:
    if not lanes:
        raise SizingError(f"{host} serves no lane: name at least one.")
    if unknown := sorted(set(overrides) - set(lanes)):
        raise SizingError(f"{host} overrides the lane {unknown[0]}, which it does not serve (it has {_names(lanes)}).")
    return [_spec(name, lanes[name], overrides.get(name, {}), utilisation, host) for name in sorted(lanes)]


def _names(lanes: Mapping[str, Any]) -> str:
    return ", ".join(sorted(lanes))


def _spec(name: str, lane: Any, fixed: Mapping[str, int], utilisation: float, host: str) -> Lane:
    wanted = [field.name for field in fields(Lane) if field.name not in {"name", "utilisation", "fixed"}]
    values: dict[str, Any] = {
        key: lane.get(key) if isinstance(lane, Mapping) else getattr(lane, key, None) for key in wanted
    }
    if values["pool"] not in POOLS:
        raise SizingError(f"{host}: lane {name} has pool={values['pool']!r}, which must be prefork, threads or solo.")
    for key, value in values.items():
        least = 0 if key == "wait_ratio" else 1
        optional = key == "max_tasks_per_child" and value is None
        if key != "pool" and not optional and not _number(value, key, least):
            raise SizingError(f"{host}: lane {name} has {key}={value!r}, which must be a number of at least {least}.")
    _check_fixed(name, values["pool"], fixed, host)
    return Lane(name=name, utilisation=utilisation, fixed=dict(fixed), **values)


def _number(value: object, key: str, least: int) -> bool:
    if key == "wait_ratio" and isinstance(value, float):
        return math.isfinite(value) and value >= least
    return _whole(value, least=least)


def _check_fixed(name: str, pool: str, fixed: Mapping[str, int], host: str) -> None:
    for key, value in fixed.items():
        if key not in OVERRIDABLE:
            can = ", ".join(sorted(OVERRIDABLE))
            raise SizingError(f"{host}: lane {name} overrides {key}, which the plan does not let go (it has {can}).")
        if not _whole(value, least=1):
            raise SizingError(f"{host}: lane {name} overrides {key}={value!r}, which must be a whole number from 1 up.")
    if pool == "solo" and fixed.get("concurrency", 1) != 1:
        raise SizingError(f"{host}: lane {name} is solo, one job at a time: override its instances, not concurrency.")


if __name__ == "__main__":
    from deploy import sizing_command

    sizing_command.main()
