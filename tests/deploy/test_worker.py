"""The command line of a worker is its plan, in options that Celery knows."""

import pytest
from celery.bin.worker import worker as celerys

from config import lanes
from deploy.sizing import size_host
from deploy.worker import options


@pytest.mark.parametrize("lane", ["cpu", "io", "quick"])
def test_celery_reads_the_plan_in_the_options(lane: str) -> None:
    (plan,) = size_host({lane: lanes.load()[lane]}, 2, 8192)
    said = celerys.make_context("worker", options(plan, ["a", "b"]), resilient_parsing=True).params
    prefork = plan.pool == "prefork"
    assert said["queues"] in ("a,b", ["a", "b"])
    assert (said["concurrency"], said["prefetch_multiplier"]) == (plan.concurrency, plan.prefetch_multiplier)
    assert said["max_tasks_per_child"] == plan.max_tasks_per_child
    assert said["max_memory_per_child"] == plan.max_memory_per_child_kb
    assert (said["max_memory_per_child"] is not None) == prefork
    limits = (plan.soft_time_limit, plan.time_limit) if prefork else (None, None)
    assert (said["soft_time_limit"], said["time_limit"]) == limits
    assert (said["without_gossip"], said["without_mingle"], said["without_heartbeat"]) == (True, True, True)
