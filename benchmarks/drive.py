"""The ways to load a side: as many jobs as it takes, jobs at a rate, whether it keeps up or not, and many at once."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator

from benchmarks import BenchError
from benchmarks.cases import BATCH, Case
from benchmarks.clients import Client, Seen
from benchmarks.meters import Reading
from benchmarks.stacks import Side
from benchmarks.wire import Json

PATIENCE_S, LOOK_S = 60.0, 0.1
seeds: Iterator[int] = itertools.count(1)


async def saturate(
    client: Client, case: Case, clients: int, times: tuple[float, float], read: Callable[[], Reading]
) -> tuple[list[Seen], Reading]:
    """Keep `clients` jobs in flight; what ended within times[1] seconds after a ramp of times[0], and what it took.

    On a machine so slow that no job ends within that time, the measurement goes on until one has.
    """
    ramp_s, seconds = times
    seen: list[Seen] = []
    stop, one_more = asyncio.Event(), asyncio.Event()

    async def loop() -> None:
        while not stop.is_set():
            seen.append(await client.one(case.body(next(seeds)), time.monotonic()))
            one_more.set()

    async with asyncio.timeout(ramp_s + seconds + PATIENCE_S), asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(loop())
        await asyncio.sleep(ramp_s)
        began, before = time.monotonic(), read()
        one_more.clear()
        await asyncio.sleep(seconds)
        await one_more.wait()
        ended, after = time.monotonic(), read()
        stop.set()
    return [one for one in seen if began <= one.told_at < ended], after - before


async def pace(client: Client, case: Case, rate: float, seconds: float) -> list[Seen]:
    """Submit at random moments (Poisson), `rate` a second. Times count from the moment a submit was due, so a side that
    stalls is charged for those who had to wait.
    """
    chance = random.Random(1)  # noqa: S311  (the same moments for each side and each run)
    due, began = 0.0, time.monotonic()
    async with asyncio.timeout(seconds + PATIENCE_S), asyncio.TaskGroup() as group:
        jobs: list[asyncio.Task[Seen]] = []
        while (due := due + chance.expovariate(rate)) < seconds or not jobs:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            jobs.append(group.create_task(client.one(case.body(next(seeds)), began + due)))
    return [job.result() for job in jobs]


async def flood(side: Side, client: Client, way: str, bodies: list[Json]) -> list[str]:
    """Submit as many as one request takes at a time, and wait until all have a result, whom nobody follows; their ids.

    Raises:
        BenchError: they have not, long after the last one got its own.
    """
    ids: list[str] = []
    for at in range(0, len(bodies), BATCH):
        ids += await client.submit_many(way, bodies[at : at + BATCH])
    ended, until = 0, time.monotonic() + PATIENCE_S
    while (now := side.ended(ids)) < len(ids):
        if now > ended:
            ended, until = now, time.monotonic() + PATIENCE_S
        if time.monotonic() > until:
            raise BenchError(f"{len(ids) - now} of {len(ids)} jobs that were submitted by {way} have no result.")
        await asyncio.sleep(LOOK_S)
    return ids


def right(body: Json, result: Json) -> bool:
    """Whether a result is the right one for what was submitted."""
    from kinds import burn, digest, wait

    check = {"burn": burn.verify, "digest": digest.verify, "wait": wait.verify}[body["kind"]]
    return check(body["params"], result)


def verify(case: Case, seen: list[Seen]) -> None:
    """Every answer is checked, after its leg: checking costs the servers' cores.

    Raises:
        BenchError: one was wrong.
    """
    wrong = sum(not right({"kind": case.kind, "params": one.params}, one.result) for one in seen)
    if wrong:
        raise BenchError(f"{wrong} of {len(seen)} results of {case.title} jobs were wrong.")
