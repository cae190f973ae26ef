"""`manage.py sweep`: the resident sweeper."""

import select
import signal
import socket
import time
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection

from config import notify
from jobs import services
from jobs.leader import SWEEPER, lead, resign, this_process
from jobs.outages import connection_lost, do_not_wait_for_locks, lock_timed_out
from jobs.sweeper import BATCH, sweep

log = structlog.get_logger(__name__)
PROBED_S = 2 * settings.ENV.sweep_s  # what locks out workers for less long makes no lease run out
SELDOM = {"orphans": settings.ENV.lease_s, "counts": 5.0}  # what is not done in each round, in seconds


class Command(BaseCommand):
    """Recovers jobs from dead workers and lossy brokers, until it is told to stop."""

    help = "Recovers jobs from dead workers and lossy brokers. Run one on each web host; one at a time is active."

    def add_arguments(self, parser: CommandParser) -> None:
        """`--once` is for tests and for operators who want to look."""
        parser.add_argument("--once", action="store_true", help="sweep once, whoever leads, and print what was moved")

    def handle(self, *args: Any, **options: Any) -> None:
        """Sweep until SIGTERM or SIGINT."""
        if options["once"]:
            self.stdout.write(str(sweep()))
            return
        stop, write_end = _stop_signals()
        do_not_wait_for_locks()
        sweeper = Sweeper(this_process())
        notify.ready()
        pause = 0.0
        while not select.select([stop], [], [], pause)[0]:
            pause = 0.0 if sweeper.round() else settings.ENV.sweep_s
        sweeper.resign()
        write_end.close()


def _stop_signals() -> tuple[socket.socket, socket.socket]:
    """A pair of sockets: SIGTERM and SIGINT make the first one readable, as long as the second stays open.

    A threading.Event would not do: the signal may interrupt the main thread while it holds the event's lock.
    """
    read_end, write_end = socket.socketpair()
    write_end.setblocking(False)
    signal.set_wakeup_fd(write_end.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return read_end, write_end


class Sweeper:
    """One of the sweepers, which leads or stands by.

    After an outage of the database every lease may have run out, those of live workers too. So a sweeper takes jobs
    back only after the database has answered it for as long as a lease lasts; live workers renew theirs before that. A
    statement that waited, for a database that stood still or for a lock on what workers write, counts as an outage. So
    does a time in which this process stood still: it has not seen what happened.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._status = ""
        self._trusted_since: float | None = None  # None: the database was away a moment ago
        self._had_outage = False
        self._seen_at = time.monotonic()
        self._due = dict.fromkeys(["probe", *SELDOM], self._seen_at)

    def round(self) -> bool:
        """Sweep if this one leads; whether there is more to do at once."""
        try:
            with connection.execute_wrapper(self._timed):
                leads = lead(SWEEPER, self._name)
                is_new = self._trusted_since is None
                self._trusted_since = self._trusted_since or time.monotonic()
                if self._is_due("probe", PROBED_S) or is_new:
                    self._probe()
                seldom = [self._is_due(what, every_s) for what, every_s in SELDOM.items()]
                moved = sweep(self._trusted_s, self._had_outage, *seldom) if leads else {}
        except DatabaseError as error:
            self._database_failed(error)
            return False
        self._report("leads" if leads else "stands by")
        return max(moved.values(), default=0) >= BATCH

    def _is_due(self, what: str, every_s: float) -> bool:
        due = time.monotonic() >= self._due[what]
        if due:
            self._due[what] = time.monotonic() + every_s
        return due

    def _trusted_s(self) -> float:
        """For how long the database has answered everybody at once, as far as this one can tell."""
        return time.monotonic() - self._trusted_since if self._trusted_since else 0.0

    def _probe(self) -> None:
        try:
            services.probe()
        except DatabaseError as error:
            if not lock_timed_out(error):
                raise
            self._distrust("somebody has locked what workers write")

    def _distrust(self, why: str) -> None:
        log.warning("no job is taken back until a lease has passed", why=why)
        self._trusted_since, self._had_outage = None, True

    def _timed(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        answer = execute(sql, params, many, context)
        unseen_s = time.monotonic() - self._seen_at
        self._seen_at += unseen_s
        if unseen_s > settings.ENV.renew_s + settings.ENV.sweep_s:
            self._distrust(f"the database, or this sweeper, stood still for {unseen_s:.1f} s")
        return answer

    def resign(self) -> None:
        """Let the next one lead at once."""
        try:
            resign(SWEEPER, self._name)
        except DatabaseError as error:
            self._database_failed(error)

    def _database_failed(self, error: DatabaseError) -> None:
        if connection_lost(error):
            log.warning("database out of reach: no job is recovered until it is back", error=str(error))
        else:
            log.warning("the database refused a statement: jobs are recovered later", error=str(error))
        self._trusted_since, self._had_outage = None, True
        self._report("waits for the database")
        close_old_connections()

    def _report(self, status: str) -> None:
        notify.alive(status)
        if status != self._status:
            log.info(f"sweeper {status}", name=self._name)
        self._status = status
