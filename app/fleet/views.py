"""The fleet page: draws what fleet/status.py and fleet/history.py know of the lanes."""

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from fleet import history, status
from fleet.history import Minute
from fleet.status import LaneStatus
from jobs import backpressure
from jobs.room import room

CHART_HEIGHT = 28
COLUMN = 8
GAP = 2


@dataclass(frozen=True)
class Bar:
    """One minute of a lane's chart, in the units of its drawing: the failed jobs are on top of the others."""

    x: int
    ok: float
    failed: float
    title: str

    @property
    def ok_y(self) -> float:
        return CHART_HEIGHT - self.ok

    @property
    def failed_y(self) -> float:
        return CHART_HEIGHT - self.ok - self.failed


@dataclass(frozen=True)
class Verdict:
    """How a lane is doing: a CSS class, a word, and a sentence if something should be done."""

    level: str
    word: str
    sentence: str = ""


def verdict(lane: LaneStatus) -> Verdict:
    """Judge a lane by its own target."""
    late = (lane.oldest_queued_s or 0) / lane.latency_target_s
    if not lane.workers and lane.queued:
        jobs = f"{lane.queued} queued job{'s' if lane.queued > 1 else ''}"
        return Verdict("bad", "No worker", f"{jobs} and no worker: start a worker of the {lane.name} lane.")
    if not lane.workers:
        return Verdict("idle", "No worker", "No job is waiting, but one that arrives now would have to.")
    if late > 1:
        return Verdict("bad", "Late", f"The oldest job waits {late:.1f} times as long as this lane's target.")
    if lane.queued >= lane.max_backlog:
        return Verdict("bad", "Full", "New jobs are refused until the backlog is smaller.")
    if late > 0.5:
        return Verdict("warn", "Slow", "The oldest job has waited for more than half of this lane's target.")
    return Verdict("good", "Working" if lane.running else "Ready")


def chart(minutes: list[Minute]) -> list[Bar]:
    """The columns of a lane's chart; the busiest minute fills the height, unless it has fewer than four jobs."""
    tallest = max(4, *(minute.ended for minute in minutes))
    unit = CHART_HEIGHT / tallest
    return [
        Bar(
            column * (COLUMN + GAP),
            (minute.ended - minute.failed) * unit,
            minute.failed * unit,
            f"{minute.start:%H:%M} UTC: {minute.ended} ended, {minute.failed} failed",
        )
        for column, minute in enumerate(minutes)
    ]


def slots(lane: LaneStatus) -> list[dict[str, Any]]:
    """Each worker of a lane with its slots, busy and free."""
    return [
        {
            "worker": worker,
            "unit": worker.name.partition("@")[0],
            "slots": [number < worker.running for number in range(worker.concurrency)],
        }
        for worker in lane.workers
    ]


def _drawn() -> dict[str, Any]:
    lanes, minutes = status.lanes(), history.per_minute()
    totals = {
        "queued": sum(lane.queued for lane in lanes),
        "running": sum(lane.running for lane in lanes),
        "slots": sum(lane.slots for lane in lanes),
        "workers": sum(len(lane.workers) for lane in lanes),
        "per_minute": round(sum(lane.finished_per_minute for lane in lanes), 1),
        "failed_per_minute": round(sum(lane.failed_per_minute for lane in lanes), 1),
    }
    return {
        "totals": totals,
        "sweeping": status.sweeping(),
        "broker": backpressure.state()[0],
        "database_full": room().full,
        "minutes": status.THROUGHPUT_MINUTES,
        "chart": {"width": history.MINUTES * (COLUMN + GAP) - GAP, "height": CHART_HEIGHT, "column": COLUMN},
        "lanes": [
            {
                "lane": lane,
                "verdict": verdict(lane),
                "workers": slots(lane),
                "bars": chart(minutes[lane.name]),
                "depth": min(1.0, lane.queued / lane.max_backlog),
                "age": min(1.0, (lane.oldest_queued_s or 0) / lane.latency_target_s),
            }
            for lane in lanes
        ],
    }


@login_required
@require_safe
@never_cache
def fleet(request: HttpRequest) -> HttpResponse:
    """Every lane: what is queued, which workers serve it, how fast it goes."""
    return render(request, "fleet/fleet.html", _drawn())


@login_required
@require_safe
@never_cache
def live(request: HttpRequest) -> HttpResponse:
    """The lanes as they are now, for live.js."""
    return render(request, "fleet/_lanes.html", _drawn())
