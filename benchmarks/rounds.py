"""A run: the two sides take turns, leg by leg, and the one that goes first changes each round."""

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.cases import BASELINE, CASES, HEADRACE, SIDES, Case, Size
from benchmarks.drive import pace, saturate, verify
from benchmarks.figures import Legs, case_figures, ratios, verdicts
from benchmarks.growth import grow
from benchmarks.stacks import Bench, Headrace
from deploy.measure import measure

SHARE = 0.3  # of a side's own rate at saturation
Say = Callable[[str], None]


class Run:
    """All legs of all rounds on a bench that runs."""

    def __init__(self, bench: Bench, size: Size, say: Say) -> None:
        self.bench, self.size, self.say = bench, size, say
        self.cores = measure()[0]
        self.legs = {case.name: {side: Legs() for side in SIDES} for case in CASES}
        self.idle = 0.0
        self.meters = {name: side.meters() for name, side in bench.sides.items()}

    def all(self) -> dict[str, Any]:
        """Everything; the result is what goes into the file."""
        began = time.monotonic()
        asyncio.run(self._rounds())
        growth = self._growth() if self.size.finished_rows else None
        cases = {case.name: case_figures(self.legs[case.name]) for case in CASES}
        return {
            "size": self.size.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
            "host": {"cores": self.cores, "python": platform.python_version(), "load": os.getloadavg()[0]},
            "idle_commands_per_s": self.idle,
            "cases": cases,
            "growth": growth,
            "aims": verdicts(cases, growth),
        }

    async def _rounds(self) -> None:
        async with asyncio.timeout(self.size.limit_s):
            await self._warm_up()
            self.idle = await self._idle()
            for number in range(self.size.rounds):
                for case in CASES:
                    await self._round(number, case)

    async def _warm_up(self) -> None:
        """Connections, imports, plans: a process's first jobs cost more."""
        for case in CASES:
            for name, side in self.bench.sides.items():
                client = side.client()
                seen, _ = await saturate(client, case, 24, (0.2, self.size.warm_s), self.meters[name].read)
                client.close()
                verify(case, seen)

    async def _idle(self) -> float:
        """Redis commands a second while both sides wait."""
        meters = self.meters[HEADRACE]
        before = meters.read()
        await asyncio.sleep(self.size.idle_s)
        took = meters.read() - before
        return sum(took.commands.values()) / took.seconds

    async def _round(self, number: int, case: Case) -> None:
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        for side in order:
            await self._saturated(side, case)
        for side in order:
            await self._paced(side, case)
        rates = {side: self.legs[case.name][side].rates[-1] for side in SIDES}
        times = rates[HEADRACE] / max(rates[BASELINE], 0.01)
        self.say(
            f"round {number + 1} of {self.size.rounds}, {case.title}: "
            f"{rates[BASELINE]:.0f} and {rates[HEADRACE]:.0f} jobs/s, {times:.2f} times as many"
        )

    async def _saturated(self, side: str, case: Case) -> None:
        client, size = self.bench.sides[side].client(), self.size
        clients, times = case.clients[side] * self.cores, (size.ramp_s, size.saturated_s)
        seen, took = await saturate(client, case, clients, times, self.meters[side].read)
        client.close()
        verify(case, seen)
        self.legs[case.name][side].saturated(case, seen, took, self.idle, self.cores)

    async def _paced(self, side: str, case: Case) -> None:
        legs = self.legs[case.name][side]
        client = self.bench.sides[side].client()
        seen = await pace(client, case, max(1.0, SHARE * statistics.median(legs.rates)), self.size.paced_s)
        client.close()
        verify(case, seen)
        legs.paced += seen

    def _growth(self) -> dict[str, Any]:
        self.say(f"filling the ledger: {self.size.finished_rows:,} finished jobs, {self.size.queued_rows:,} queued")
        ours = self.bench.sides[HEADRACE]
        assert isinstance(ours, Headrace)  # noqa: S101  (for mypy)
        grown = grow(ours, self.size)
        return {**grown, "ratio": ratios(grown["empty"], grown["full"])}
