"""What workers and sweepers write of themselves, for fleet/status.py to read."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import F
from django.db.models.functions import Now

from fleet.models import Sweeps, Worker


def heartbeat(name: str, description: dict[str, Any]) -> None:
    """A worker unit is up: its host, lane, pool, concurrency and how many jobs it runs."""
    if not Worker.objects.filter(name=name).update(**description, seen_at=Now()):
        Worker.objects.update_or_create(name=name, defaults=description)


def held() -> set[tuple[str, str]]:
    """Who runs what, as (worker, job id), by the heartbeats of the last lease."""
    fresh = Worker.objects.filter(seen_at__gt=Now() - timedelta(seconds=settings.ENV.lease_s))
    return {(name, job_id) for name, holds in fresh.values_list("name", "holds") for job_id in holds}


def writable() -> None:
    """Write nothing, which waits for whoever has locked the table; raises OperationalError if that takes too long."""
    Worker.objects.filter(name="").update(running=0)


def leave(name: str) -> None:
    """A worker unit has stopped."""
    Worker.objects.filter(name=name).delete()


def tally(**counts: int) -> None:
    """Add to the counts of what the sweepers have done."""
    _sweeps(**{name: F(name) + count for name, count in counts.items()})


def swept(seconds: float, **moved: int) -> None:
    """A sweeper has finished a round: how long it took, and how many jobs each step moved."""
    counts = {name: F(name) + count for name, count in {**moved, "rounds": 1}.items() if count}
    _sweeps(round_s=seconds, swept_at=Now(), **counts)


def _sweeps(**values: Any) -> None:
    rows = Sweeps.objects.filter(pk=1)
    if not rows.update(**values):
        Sweeps.objects.get_or_create(pk=1)
        rows.update(**values)
