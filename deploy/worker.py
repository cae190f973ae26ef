"""The command line of a worker, from its plan. The demo, the image, the tests and the units of hosts all use this."""

from collections.abc import Iterable

from deploy.sizing import LanePlan

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
"""Workers do not talk to each other over the broker: nothing of ours listens."""


def options(plan: LanePlan, queues: Iterable[str]) -> list[str]:
    """Celery's options for a worker unit of a lane; what differs from unit to unit is its `--hostname` alone."""
    wanted = {
        "queues": ",".join(queues),
        "pool": plan.pool,
        "concurrency": plan.concurrency,
        "prefetch-multiplier": plan.prefetch_multiplier,
        "max-tasks-per-child": plan.max_tasks_per_child,
        "max-memory-per-child": plan.max_memory_per_child_kb,
    }
    if plan.pool == "prefork":  # Celery has no time limits for the other pools
        wanted |= {"soft-time-limit": plan.soft_time_limit, "time-limit": plan.time_limit}
    return [*(f"--{name}={value}" for name, value in wanted.items() if value), *QUIET, "--loglevel=INFO"]


def arguments(plan: LanePlan, name: str, queues: Iterable[str]) -> list[str]:
    """What follows `celery` on the command line of our worker unit `name` (as in cpu-1), on this host."""
    return ["--app=config", "worker", f"--hostname={name}@%h", *options(plan, queues)]
