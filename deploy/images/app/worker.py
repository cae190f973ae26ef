"""What a worker container runs: `HEADRACE_LANE=cpu python -m deploy.images.app.worker`.

Plans the lane from the cores and the memory that this very container may use, says why, and becomes the worker.
"""

import os
import sys

from config.lanes import LaneTable, LaneTableError, load
from deploy.sizing import LanePlan, SizingError, measure, size_lanes


def plan(table: LaneTable, lane: str, cores: int, memory_mb: int) -> LanePlan:
    """The plan of one container: one lane, one unit (`--scale` makes more), and no system beside it to keep memory for.

    Raises:
        SizingError: there is no such lane, or the container is too small for it.
    """
    if lane not in table.lanes:
        raise SizingError(f"HEADRACE_LANE is {lane!r}, but the lane table has {', '.join(table.lanes)}: set it to one.")
    one_unit = {lane: {"instances": 1}}
    lanes = {lane: table[lane]}
    [planned] = size_lanes(lanes, cores, memory_mb, overrides=one_unit, reserve_mb=0, host="this container")
    return planned


def command(planned: LanePlan, queues: str) -> list[str]:
    """The worker's command line. Time limits and the rest of the lane come from the settings."""
    unit = os.environ["HEADRACE_WORKER"] = f"{planned.lane}-1"  # its host is the container
    options = ["-n", f"{unit}@%h", "-Q", queues, "-P", planned.pool, "-c", str(planned.concurrency)]
    options += ["--prefetch-multiplier", str(planned.prefetch_multiplier)]
    if planned.max_memory_per_child_kb:
        options += ["--max-memory-per-child", str(planned.max_memory_per_child_kb)]
    options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return ["celery", "-A", "config", "worker", *options, "-l", "INFO"]


def main() -> None:
    """Does not come back: the worker takes this process."""
    cores, memory_mb = measure()
    try:
        table = load()
        planned = plan(table, os.environ.get("HEADRACE_LANE", ""), cores, memory_mb)
    except (SizingError, LaneTableError) as error:
        sys.exit(str(error))
    sys.stderr.write(f"{planned.lane}: {planned.concurrency} at once in {memory_mb} MB: {planned.why}\n")
    sys.stderr.flush()
    argv = command(planned, ",".join(table[planned.lane].queues))
    os.execvp(argv[0], argv)  # noqa: S606 - signals must reach the worker itself


if __name__ == "__main__":
    main()
