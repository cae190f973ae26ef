"""A run: the two sides take turns, leg by leg, and the one that goes first changes each round."""

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from benchmarks import BenchError
from benchmarks.cases import BASELINE, CASES, DIGEST, HEADRACE, ONE_SOCKET, SIDES, Case, Size, aims
from benchmarks.clients import Client
from benchmarks.drive import flood, pace, right, saturate, seeds, verify
from benchmarks.figures import AtRest, Legs, batch_figures, case_figures, ratios, verdicts
from benchmarks.growth import grow
from benchmarks.meters import Reading, overheard
from benchmarks.stacks import Bench
from benchmarks.wire import NO_SUCH_SOCKET, Closed
from deploy.measure import measure

SHARE = 0.3  # of a side's own rate at saturation
SIDE_OF = {ONE_SOCKET: HEADRACE}
CHECKED = 20  # jobs of a batch whose results are fetched
Say = Callable[[str], None]


class Run:
    """All legs of all rounds on a bench that runs."""

    def __init__(self, bench: Bench, size: Size, against: str, say: Say) -> None:
        self.bench, self.size, self.against, self.say = bench, size, against, say
        self.cores = measure()[0]
        self.legs = {case.name: {side: Legs() for side in SIDES} for case in CASES}
        self.batches = {name: {way: Legs() for way in side.ways} for name, side in bench.sides.items()}
        self.rest = {side: AtRest() for side in SIDES}
        self.idle: dict[str, Any] = {}
        self.meters = {name: side.meters() for name, side in bench.sides.items()}

    def all(self) -> dict[str, Any]:
        """Everything; the result is what goes into the file."""
        began = time.monotonic()
        asyncio.run(self._rounds())
        growth = self._growth() if self.size.finished_rows else None
        cases = {case.name: case_figures(self.legs[case.name]) for case in CASES}
        batch = batch_figures(self.batches)
        found = {**cases, "batch": batch, "idle": self.idle, "growth": {"ratio": growth["ratio"]} if growth else {}}
        return {
            "size": self.size.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
            "host": {"cores": self.cores, "python": platform.python_version(), "load": os.getloadavg()[0]},
            "cases": cases,
            "batch": batch,
            "idle": self.idle,
            "growth": growth,
            "aims": verdicts(aims(self.against), found),
        }

    async def _rounds(self) -> None:
        async with asyncio.timeout(self.size.limit_s):
            await self._look_for_one_socket()
            await self._warm_up()
            self._at_rest()
            for number in range(self.size.rounds):
                for case in CASES:
                    await self._round(number, case)
                await self._batches(number)

    async def _look_for_one_socket(self) -> None:
        """Its column is left out where the release has no such socket."""
        client = self.bench.ours.one_socket()
        try:
            await client.opened()
        except Closed as closed:
            if closed.code != NO_SUCH_SOCKET:
                raise
            self.say(f"This release has no {client.path}: clients that follow all of their jobs there are left out.")
        else:
            for case in CASES:
                if case.one_socket:
                    self.legs[case.name][ONE_SOCKET] = Legs()
        finally:
            client.close()

    def _client(self, way: str) -> Client:
        return self.bench.ours.one_socket() if way == ONE_SOCKET else self.bench.sides[way].client()

    def _read(self, way: str) -> Reading:
        return self.meters[SIDE_OF.get(way, way)].read()

    async def _warm_up(self) -> None:
        """Connections, imports, plans: a process's first jobs cost more."""
        for case in CASES:
            for way in self.legs[case.name]:
                client = self._client(way)
                seen, _ = await saturate(client, case, 24, (0.2, self.size.warm_s), partial(self._read, way))
                client.close()
                verify(case, seen)

    def _at_rest(self) -> None:
        """What Redis and PostgreSQL are sent in a second while both sides wait, after the last jobs' traces are stored.

        Its seconds hold up everything else of ours, and nothing else of ours runs.
        """
        time.sleep(self.size.warm_s)
        before = {side: self._read(side) for side in SIDES}
        heard = overheard(self.bench.servers.redis.url, self.size.idle_s)
        sent = {side: (self._read(side) - before[side]).per_second() for side in SIDES}
        for side, (commands, statements) in sent.items():
            self.rest[side] = AtRest(commands, statements)
            own = heard[broker] if (broker := self.bench.sides[side].broker) is not None else 0
            self.idle[side] = {"commands_per_s": own / self.size.idle_s, "statements_per_s": statements}
        self.idle["ratio"] = ratios(self.idle[BASELINE], self.idle[HEADRACE])

    async def _round(self, number: int, case: Case) -> None:
        ways = list(self.legs[case.name])
        order = ways if number % 2 == 0 else ways[::-1]
        for way in order:
            await self._saturated(way, case)
        for way in order:
            await self._paced(way, case)
        rates = {side: self.legs[case.name][side].rates[-1] for side in SIDES}
        self._tell(number, case.title, rates[BASELINE], rates[HEADRACE])

    def _tell(self, number: int, title: str, theirs: float, ours: float) -> None:
        self.say(
            f"round {number + 1} of {self.size.rounds}, {title}: "
            f"{theirs:.0f} and {ours:.0f} jobs/s, {ours / max(theirs, 0.01):.2f} times as many"
        )

    async def _saturated(self, way: str, case: Case) -> None:
        client, size = self._client(way), self.size
        side, times = SIDE_OF.get(way, way), (size.ramp_s, size.saturated_s)
        seen, took = await saturate(client, case, case.clients[side] * self.cores, times, partial(self._read, way))
        client.close()
        verify(case, seen)
        self.legs[case.name][way].saturated(case, seen, took, self.rest[side], self.cores)

    async def _paced(self, way: str, case: Case) -> None:
        legs = self.legs[case.name][way]
        client = self._client(way)
        before = self._read(way)
        seen = await pace(client, case, max(1.0, SHARE * statistics.median(legs.rates)), self.size.paced_s)
        took = self._read(way) - before
        client.close()
        verify(case, seen)
        legs.at_a_rate(seen, took)

    async def _batches(self, number: int) -> None:
        for name in SIDES if number % 2 == 0 else SIDES[::-1]:
            for way in self.batches[name]:
                await self._batch(name, way)
        best = {side: max(seen.rates[-1] for seen in ways.values()) for side, ways in self.batches.items()}
        self._tell(number, "digests in batches", best[BASELINE], best[HEADRACE])

    async def _batch(self, name: str, way: str) -> None:
        """Jobs that nobody follows; the results of some are fetched when all have one."""
        side, client = self.bench.sides[name], self._client(name)
        bodies = [DIGEST.body(next(seeds)) for _ in range(self.size.batch_jobs)]
        before = self._read(name)
        ids = await flood(side, client, way, bodies)
        took = self._read(name) - before
        step = max(1, len(ids) // CHECKED)
        for body, job_id in list(zip(bodies, ids, strict=True))[::step]:
            result = await client.look(job_id)
            if result is None or not right(body, result):
                raise BenchError(f"A digest that was submitted by {way} came out wrong: {result}.")
        client.close()
        self.batches[name][way].took(len(ids), took, self.rest[name])

    def _growth(self) -> dict[str, Any]:
        self.say(f"filling the ledger: {self.size.finished_rows:,} finished jobs, {self.size.queued_rows:,} queued")
        grown = grow(self.bench.ours, self.size)
        return {**grown, "ratio": ratios(grown["empty"], grown["full"])}
