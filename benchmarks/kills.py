"""What a promise is worth: faults in the middle of some jobs, and how many of them have a result afterwards."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis
from rich.table import Table

from benchmarks import BenchError
from benchmarks.cases import CAREFUL, HEADRACE, Case
from benchmarks.drive import LOOK_S, PATIENCE_S, right, seeds
from benchmarks.stacks import Bench, Headrace, Make, Side
from benchmarks.theirs import AGAINST, Variant, make, missing
from benchmarks.wire import Json

# Two slots of prefork, or what the side has for computing: it is in the middle of it when half have a result.
CASE = Case("kill", "200 ms CPU", "burn", "cpu", {"ms": 200}, {})
DOWN_S = 1.0


def kill_workers(side: Side) -> None:
    """All at once, with SIGKILL; a second later they are started again."""
    for unit in side.workers:
        unit.kill()
    time.sleep(DOWN_S)
    for unit in side.workers:
        unit.restart()


def wipe_broker(side: Side) -> None:
    with redis.Redis.from_url(side.servers.redis.url) as broker:
        broker.flushall()


@dataclass(frozen=True)
class Fault:
    title: str
    strike: Callable[[Side], None]
    needs_broker: bool = False


FAULTS = (Fault("workers killed", kill_workers), Fault("broker wiped", wipe_broker, needs_broker=True))


@dataclass(frozen=True)
class Size:
    jobs: int = 60
    patience_s: float = 120


FEW = Size(12, 30)  # enough to see that it works


async def endure(side: Side, fault: Fault, size: Size) -> dict[str, Any]:
    """Submit, strike when half have a result, and look until all have one, for so long."""
    client = side.client()
    bodies = [CASE.body(next(seeds)) for _ in range(size.jobs)]
    ids = [(await client.submit(body))["id"] for body in bodies]
    if not await _until(side, ids, size.jobs // 2, PATIENCE_S):
        raise BenchError(f"Not half of {size.jobs} jobs had a result within {PATIENCE_S:.0f} s, before any fault.")
    began = time.monotonic()
    fault.strike(side)
    await _until(side, ids, size.jobs, size.patience_s)
    took = time.monotonic() - began
    results: list[Json | None] = [await client.look(job_id) for job_id in ids]
    client.close()
    have = sum(result is not None and right(body, result) for body, result in zip(bodies, results, strict=True))
    return {"jobs": size.jobs, "results": have, "seconds": round(took, 1) if have == size.jobs else None}


async def _until(side: Side, ids: list[str], wanted: int, seconds: float) -> bool:
    """Wait until so many have a result, or for so long; whether they have."""
    deadline = time.monotonic() + seconds
    while not (enough := side.ended(ids) >= wanted) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_S)
    return enough


def sides(against: str | None) -> Iterator[tuple[str, Make]]:
    """The one that was asked for, or each that is installed and promises something of its own; and ours."""
    others = [against] if against else [name for name in AGAINST if not missing(name) and name != "cookiecutter"]
    for name in others:
        yield name, make(name, Variant())
    yield HEADRACE, Headrace


def kills(against: str | None, size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    """Each fault on each side, alone with servers of its own."""
    found: dict[str, Any] = {}
    for name, made in sides(against):
        found[name] = {}
        with Bench(made) as bench:
            bench.start()
            [side] = bench.sides.values()
            for fault in FAULTS:
                if fault.needs_broker and side.broker is None:
                    continue
                seen = found[name][fault.title] = asyncio.run(endure(side, fault, size))
                say(f"{name}, {fault.title}: {cell(seen)}")
    return found


def cell(seen: dict[str, Any] | None) -> str:
    """How many have a result, and how long that took."""
    if seen is None:
        return "has none"
    have = f"{seen['results']} of {seen['jobs']}"
    return have if seen["seconds"] is None else f"{have}, {seen['seconds']:.0f} s"


def table(found: dict[str, Any], size: Size) -> Table:
    title = f"{size.jobs} jobs of {CASE.title}, a fault in the middle: how many have a result, and when all had one"
    shown = Table("system", *(fault.title for fault in FAULTS), title=title)
    for name, seen in found.items():
        shown.add_row("Celery, careful" if name == CAREFUL else name, *(cell(seen.get(each.title)) for each in FAULTS))
    return shown
