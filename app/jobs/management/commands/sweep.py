"""`manage.py sweep`: the resident sweeper."""

import os
import select
import signal
import socket
import time
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import Error as DatabaseError
from django.db import close_old_connections

from config import notify
from jobs.leader import lead, resign
from jobs.outages import connection_lost
from jobs.sweeper import BATCH, sweep

log = structlog.get_logger(__name__)
ROLE = "sweeper"
TERM_S = 5.0


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
        ears, mouth = _told_to_stop()
        sweeper = Sweeper(f"{socket.gethostname()}:{os.getpid()}")
        notify.ready()
        pause = 0.0
        while not select.select([ears], [], [], pause)[0]:
            pause = 0.0 if sweeper.round() else settings.ENV.sweep_s
        sweeper.resign()
        mouth.close()


def _told_to_stop() -> tuple[socket.socket, socket.socket]:
    """The first can be read as soon as SIGTERM or SIGINT has come; the second must stay open.

    Not an Event: the handler that sets it may have interrupted the very thread that holds its lock.
    """
    ears, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return ears, mouth


class Sweeper:
    """One of the sweepers, which leads or stands by.

    After an outage of the database every lease may have run out, those of live workers too. Who has not yet seen the
    database well for as long as a lease lasts takes nothing from anybody: live workers renew first.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._does = ""
        self._well_since: float | None = None

    def round(self) -> bool:
        """Sweep if this one leads; whether there is more to do at once."""
        try:
            leads = lead(ROLE, self._name, TERM_S)
            self._well_since = self._well_since or time.monotonic()
            moved = sweep(spare_the_silent=self._well_for_s() < settings.ENV.lease_s) if leads else {}
        except DatabaseError as error:
            self._lost_sight(error)
            return False
        self._say("leads" if leads else "stands by")
        return max(moved.values(), default=0) >= BATCH

    def resign(self) -> None:
        """Let the next one lead at once."""
        try:
            resign(ROLE, self._name)
        except DatabaseError as error:
            self._lost_sight(error)

    def _well_for_s(self) -> float:
        return time.monotonic() - (self._well_since or time.monotonic())

    def _lost_sight(self, error: DatabaseError) -> None:
        log.warning("database out of reach, sweeping again when it is back", error=str(error))
        if connection_lost(error):
            self._well_since = None
        self._say("waits for the database")
        close_old_connections()

    def _say(self, what: str) -> None:
        notify.alive(what)
        if what != self._does:
            log.info("sweeper", name=self._name, does=what)
        self._does = what
