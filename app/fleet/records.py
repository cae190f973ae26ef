"""What workers and sweepers write of themselves; fleet/status.py reads it."""

from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from fleet.models import Sweeps, Worker


def heartbeat(name: str, description: dict[str, Any]) -> None:
    """A worker unit says that it is here: its host, lane, pool, concurrency and how many jobs it is running."""
    if not Worker.objects.filter(name=name).update(**description, seen_at=Now()):
        Worker.objects.update_or_create(name=name, defaults=description)


def leave(name: str) -> None:
    """A worker unit says that it has stopped."""
    Worker.objects.filter(name=name).delete()


def tally(**counts: int) -> None:
    """Add to what the sweepers have done."""
    _sweeps(**{name: F(name) + count for name, count in counts.items()})


def swept(seconds: float, **moved: int) -> None:
    """A sweeper says that it has gone round, how long that took, and what it moved."""
    counts = {name: F(name) + count for name, count in {**moved, "rounds": 1}.items() if count}
    _sweeps(round_s=seconds, swept_at=Now(), **counts)


def _sweeps(**values: Any) -> None:
    rows = Sweeps.objects.filter(pk=1)
    if not rows.update(**values):
        Sweeps.objects.get_or_create(pk=1)
        rows.update(**values)
