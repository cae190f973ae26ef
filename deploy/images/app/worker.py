"""What a worker container runs: `HEADRACE_LANE=cpu python -m deploy.images.app.worker`.

Plans the lane from the cores and the memory that this container may use, says why, and becomes the worker.
"""

import os
import sys

from config.lanes import LaneTable, LaneTableError, load
from deploy.measure import measure
from deploy.sizing import LanePlan, SizingError, size_lanes
from deploy.worker import arguments


def plan(table: LaneTable, lane: str, cores: int, memory_mb: int) -> LanePlan:
    """The plan of one container: one lane, one unit (`--scale` makes more), which may take all of the memory.

    Raises:
        SizingError: there is no such lane, or the container is too small for it.
    """
    if lane not in table.lanes:
        raise SizingError(f"HEADRACE_LANE is {lane!r}, but the lane table has {', '.join(table.lanes)}: set it to one.")
    one_unit = {lane: {"instances": 1}}
    [planned] = size_lanes({lane: table[lane]}, cores, memory_mb, overrides=one_unit, host="this container")
    return planned


def main() -> None:
    """Replace this process with the worker; end with 1 and a sentence when it cannot be planned."""
    cores, memory_mb = measure()
    try:
        table = load()
        planned = plan(table, os.environ.get("HEADRACE_LANE", ""), cores, memory_mb)
    except (SizingError, LaneTableError) as error:
        sys.exit(str(error))
    sys.stderr.write(f"{planned.lane}: {planned.concurrency} at a time in {memory_mb} MB: {planned.why}\n")
    sys.stderr.flush()
    argv = ["celery", *arguments(planned, f"{planned.lane}-1", table[planned.lane].queues)]  # its host is the container
    os.execvp(argv[0], argv)  # noqa: S606 - signals must reach the worker itself


if __name__ == "__main__":
    main()
