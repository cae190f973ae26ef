"""How a plan is written into units of systemd."""

from collections.abc import Mapping
from typing import Any

from deploy import worker
from deploy.fleet.plan import Json
from deploy.sizing import LanePlan


def worker_units(plan: Mapping[str, Any], profile: Mapping[str, Any]) -> list[Json]:
    """One entry for each worker unit of a host: its plan, its name (cpu-1), Celery's options and its environment."""
    table = profile["celery"]["lanes"]
    return [
        {
            **lane,
            "name": f"{lane['lane']}-{number}",
            "options": worker.options(LanePlan(**lane), table[lane["lane"]]["queues"]),
            "environment": table[lane["lane"]].get("environment", {}),
        }
        for lane in plan.get("lanes", [])
        for number in range(1, lane["instances"] + 1)
    ]


def systemd_quoted(value: object) -> str:
    """A value for an EnvironmentFile, in double quotes, whatever is in it. In a unit, % must be doubled besides.

    Raises:
        ValueError: it has a line break, which would begin another variable.
    """
    text = str(value)
    if "\n" in text or "\r" in text:
        raise ValueError("An environment variable may not hold a line break.")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
