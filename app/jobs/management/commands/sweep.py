"""`manage.py sweep`: the resident sweeper."""

import os
import signal
import socket
import threading
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import Error as DatabaseError
from django.db import close_old_connections

from config import notify
from jobs.leader import lead, resign
from jobs.sweeper import sweep

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
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        me = f"{socket.gethostname()}:{os.getpid()}"
        notify.ready()
        while not stop.is_set():
            _round(me)
            stop.wait(settings.ENV.sweep_s)
        resign(ROLE, me)


def _round(me: str) -> None:
    try:
        if lead(ROLE, me, TERM_S):
            sweep()
    except DatabaseError as error:
        log.warning("database out of reach, sweeping again when it is back", error=str(error))
        close_old_connections()
