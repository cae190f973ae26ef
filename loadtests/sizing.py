"""The sizing plan of the hosts that serve the lanes, to hold live concurrency and throughput against."""

import json
from pathlib import Path
from typing import Any

from config import lanes
from deploy.measure import measure
from deploy.sizing import SizingError, size_host
from loadtests import LoadError
from loadtests.context import Run
from loadtests.watch import is_here

Json = dict[str, Any]


def planned(run: Run) -> dict[str, Json]:
    """By lane: instances, concurrency, slots, why. From --plan, or for this very host; otherwise nothing is known."""
    if run.plan is not None:
        return read(run.plan)
    if not is_here(run.hostname):
        return {}
    try:
        return added(vars(one) for one in size_host(lanes.load().lanes, *measure()))
    except (SizingError, lanes.LaneTableError):
        return {}


def read(path: Path) -> dict[str, Json]:
    """What `deploy/sizing.py --json` printed, for one host or (lists one after the other) for several.

    Raises:
        LoadError: it is something else.
    """
    try:
        return added(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LoadError(f"--plan {path} cannot be read: give what `deploy/sizing.py --json` prints.") from error


def added(plans: Any) -> dict[str, Json]:
    """Plans of several hosts, lane by lane."""
    found: dict[str, Json] = {}
    for plan in plans:
        slots = plan["instances"] * plan["concurrency"]
        one = found.setdefault(plan["lane"], {"instances": 0, "concurrency": plan["concurrency"], "slots": 0})
        one |= {"instances": one["instances"] + plan["instances"], "slots": one["slots"] + slots, "why": plan["why"]}
    return found
