"""Celery's beat without a single point of failure: any number of beats may run; one leads and sends.

A due entry is claimed in the database before its message is sent, by an UPDATE that only one beat can win: one that
wrongly believes that it leads (it was frozen, or cut off) sends nothing twice. All times are the database's.

Each run is sent at most once. The broker is asked before a run is claimed, so a broker that is away only delays it; a
failure in the milliseconds between the claim and the message costs that run, and the next one is sent when it is due.
"""

import signal
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog
from celery import beat
from celery.signals import beat_init
from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.db.models.functions import Now
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from config import notify
from jobs.leader import BEAT, lead, resign, this_process
from jobs.models import ScheduleEntry

log = structlog.get_logger(__name__)
ROUND_S = 1.0  # how often a beat renews its term, or looks whether the leader's has run out


class Scheduler(beat.Scheduler):  # type: ignore[misc]
    """What Celery's beat calls in a loop; the entries and how they are sent are Celery's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.holder = this_process()
        super().__init__(*args, **kwargs)

    def tick(self) -> float:
        """One round: send what is due, if this beat leads; the seconds to sleep until the next one."""
        status, wait = "stands by", ROUND_S
        try:
            if lead(BEAT, self.holder):
                status, wait = "leads", self._send_due()
        except DatabaseError as error:
            status = "waits for the database"
            log.warning("database out of reach: what is due is sent when it is back", error=str(error))
            close_old_connections()
        except (OperationalError, OSError, RedisError) as error:
            status = "waits for the broker"
            log.warning("broker out of reach: another beat may lead", error=str(error))
            self.close()  # another host may still reach it
        notify.alive(status)
        return wait

    def close(self) -> None:
        """Let another beat lead at once."""
        super().close()
        with suppress(DatabaseError):
            resign(BEAT, self.holder)

    def _send_due(self) -> float:
        """Send what is due; seconds until something may be due again."""
        rows = list(ScheduleEntry.objects.filter(name__in=self.schedule).annotate(now=Now()))
        new = set(self.schedule) - {row.name for row in rows}
        if new:
            ScheduleEntry.objects.bulk_create([ScheduleEntry(name=name) for name in new], ignore_conflicts=True)
        return min([ROUND_S, *(self._send_if_due(self.schedule[row.name], row, row.now) for row in rows)])

    def _send_if_due(self, entry: beat.ScheduleEntry, row: ScheduleEntry, now: datetime) -> float:
        entry.schedule.nowfun = lambda: now.astimezone(self.app.timezone)
        entry.last_run_at = row.last_run_at.astimezone(self.app.timezone)
        try:
            due, wait = self.is_due(entry)
        except Exception:  # noqa: BLE001  (one impossible schedule must not stop the others)
            due, wait = self._is_due_failed(entry)
        if due:
            self._send(entry, row, now)
        return float(wait)

    def _send(self, entry: beat.ScheduleEntry, row: ScheduleEntry, now: datetime) -> None:
        """On a new connection: on an old one Kombu would not bind a queue again that the broker has lost."""
        with self.app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=1)  # it answers a PING
            if row.claim(now):
                self.apply_entry(numbered(entry, row), producer=self.Producer(connection, auto_declare=False))


def numbered(entry: beat.ScheduleEntry, row: ScheduleEntry) -> beat.ScheduleEntry:
    """An entry whose message has the run's number in its id, and is not sent twice if the broker's answer is lost."""
    run = {"task_id": f"{entry.name} #{row.total_run_count}", "retry": False}
    return beat.ScheduleEntry(**{**vars(entry), "options": entry.options | run})


@beat_init.connect  # type: ignore[untyped-decorator]
def end_between_rounds(sender: beat.Service, **_: Any) -> None:
    """Celery's own handler would end beat anywhere: between a claim and its message, or in the middle of a query."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sender.stop())
