"""The sizing plan of the hosts that serve the lanes, for comparison with the slots and the rates of a run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from config import lanes
from deploy.measure import measure
from deploy.sizing import SizingError, size_host
from loadtests import LoadError
from loadtests.context import Run
from loadtests.facts import Plan


def planned(run: Run) -> dict[str, Plan]:
    """The plan of each lane: the one that --plan names, or this host's if the server is here; otherwise none is known.

    Raises:
        LoadError: the file that --plan names cannot be read.
    """
    if run.plan is not None:
        return read(run.plan)
    if not run.host_seen.known:
        return {}
    try:
        return added(vars(one) for one in size_host(lanes.load().lanes, *measure()))
    except (SizingError, lanes.LaneTableError):
        return {}


def read(path: Path) -> dict[str, Plan]:
    """What `deploy/sizing.py --json` printed, for one host or (lists joined into one) for several.

    Raises:
        LoadError: it is something else.
    """
    try:
        return added(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LoadError(f"--plan {path} cannot be read: give what `deploy/sizing.py --json` prints.") from error


def added(plans: Iterable[dict[str, Any]]) -> dict[str, Plan]:
    """The plans of several hosts, added lane by lane."""
    found: dict[str, Plan] = {}
    for plan in plans:
        before = found.get(plan["lane"])
        slots = plan["instances"] * plan["concurrency"] + (before.slots if before else 0)
        found[plan["lane"]] = Plan(slots, plan["why"])
    return found
