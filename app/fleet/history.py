"""How many jobs each lane finished in each of the last minutes, for the small charts of the fleet page.

The sweeper counts each job once, soon after its end, so that whoever looks reads a few rows, whatever the ledger holds.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Count, F, Q
from django.db.models.functions import Now, TruncMinute
from django.utils import timezone

from fleet.models import Minute as Counted
from fleet.models import Sweeps
from jobs.models import FINISHED, Job, State

MINUTES = 15
SETTLED_S = 1.0  # an end is counted after this: it carries the time at which its transaction began


@dataclass(frozen=True)
class Minute:
    """Jobs that ended within one minute."""

    start: datetime
    ended: int
    failed: int


def per_minute() -> dict[str, list[Minute]]:
    """For every lane its last MINUTES minutes, oldest first; the last one is still going on."""
    this = timezone.now().replace(second=0, microsecond=0)
    starts = [this - timedelta(minutes=back) for back in range(MINUTES - 1, -1, -1)]
    known: dict[str, dict[datetime, Minute]] = defaultdict(dict)
    for row in Counted.objects.filter(start__gte=starts[0]):
        known[row.lane][row.start] = Minute(row.start, row.ended, row.failed)
    return {lane: [known[lane].get(start) or Minute(start, 0, 0) for start in starts] for lane in settings.LANES.lanes}


def count_ended() -> None:
    """Add the jobs that have ended since the last count to their minutes. Sweepers take turns at it."""
    with transaction.atomic():
        sweeps = Sweeps.objects.select_for_update().annotate(now=Now()).filter(pk=1).first()
        if sweeps is None:
            return
        oldest, until = sweeps.now - timedelta(minutes=MINUTES), sweeps.now - timedelta(seconds=SETTLED_S)
        since = max(sweeps.counted_until or oldest, oldest)
        if since >= until:
            return
        rows = Job.objects.filter(state__in=FINISHED, finished_at__gt=since, finished_at__lte=until)
        each = rows.annotate(start=TruncMinute("finished_at")).values("lane", "start").order_by()
        found = list(each.annotate(all=Count("id"), failed=Count("id", filter=Q(state=State.FAILED))))
        for row in found:
            minute, _ = Counted.objects.get_or_create(lane=row["lane"], start=row["start"])
            added = {"ended": F("ended") + row["all"], "failed": F("failed") + row["failed"]}
            Counted.objects.filter(pk=minute.pk).update(**added)
        if found:
            Counted.objects.filter(start__lt=oldest - timedelta(minutes=1)).delete()
            Sweeps.objects.filter(pk=1).update(counted_until=until)
