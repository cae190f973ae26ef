"""How many jobs each lane finished in each of the last minutes, for the small charts of the fleet page."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Count, Q
from django.db.models.functions import Now, TruncMinute
from django.utils import timezone

from fleet.status import briefly
from jobs.models import FINISHED, Job, State

MINUTES = 15
SEEN_FOR_S = 2.0  # each process asks the ledger at most this often, however many people look

Counts = dict[tuple[str, datetime], tuple[int, int]]
_seen: tuple[float, Counts] = (float("-inf"), {})


@dataclass(frozen=True)
class Minute:
    """Jobs that ended within one minute."""

    start: datetime
    ended: int
    failed: int


def per_minute() -> dict[str, list[Minute]]:
    """For every lane its last MINUTES minutes, oldest first; the last one is still going on."""
    counts = _counts()
    this = timezone.now().replace(second=0, microsecond=0)
    starts = [this - timedelta(minutes=back) for back in range(MINUTES - 1, -1, -1)]
    return {
        lane: [Minute(start, *counts.get((lane, start), (0, 0))) for start in starts] for lane in settings.LANES.lanes
    }


def _counts() -> Counts:
    global _seen  # noqa: PLW0603  (a cache of the process)
    if time.monotonic() - _seen[0] > SEEN_FOR_S:
        with briefly():
            _seen = (time.monotonic(), _counted())
    return _seen[1]


def _counted() -> Counts:
    recent = Job.objects.filter(state__in=FINISHED, finished_at__gte=Now() - timedelta(minutes=MINUTES))
    found = recent.annotate(minute=TruncMinute("finished_at")).values("lane", "minute")
    counted = found.annotate(ended=Count("id"), failed=Count("id", filter=Q(state=State.FAILED))).order_by()
    return {(row["lane"], row["minute"]): (row["ended"], row["failed"]) for row in counted}
