"""A database that is away for seconds (a restart, a failover) is waited for: the request that met it is run again.

Its transaction died with its connection, so nothing is done twice, except where a commit succeeded and only its answer
was lost: then the rows are there. So a request gives its new jobs the same ids each time (jobs/ids.py), and finds them.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg
import structlog
from django.conf import settings
from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError, connection, connections
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from jobs import ids
from jobs.problems import MAY_BE_DONE, PREFIX, Problem

log = structlog.get_logger(__name__)
AWAY = (OperationalError, InterfaceError)
PAUSES_S = (0.1, 1.0)  # the first one and the longest; each is twice the one before
NO_MORE_CONNECTIONS = "53300"
HARDLY_MS = 200
LOCK_NOT_AVAILABLE = "55P03"
SHUTTING_DOWN, CRASHED, STARTING_UP = "57P01", "57P02", "57P03"


def connection_lost(error: BaseException) -> bool:
    """Whether PostgreSQL is out of reach; not whether it refuses a query (a deadlock, a full disk)."""
    cause = error.__cause__
    if not isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    state = cause.sqlstate or "08"  # an error without a code comes from the connection, not from the server
    return state[:2] == "08" or state in {NO_MORE_CONNECTIONS, SHUTTING_DOWN, CRASHED, STARTING_UP}


def lock_timed_out(error: BaseException) -> bool:
    """Whether a statement was given up because somebody else had locked what it wanted for too long."""
    return getattr(error.__cause__, "sqlstate", None) == LOCK_NOT_AVAILABLE


def do_not_wait_for_locks() -> None:
    """From here on this thread gives up what somebody else has locked almost at once, since others wait for it."""
    if connection.vendor == "postgresql":
        connection.close()
        settings_dict = connection.settings_dict
        given = settings_dict["OPTIONS"]
        options = {**given, "options": f"{given['options']} -c lock_timeout={HARDLY_MS}ms"}
        connection.settings_dict = {**settings_dict, "OPTIONS": options}


class WaitForDatabase:
    """Runs a request again while the database is out of reach, for `database_wait_s`; then answers 503.

    It is inside ProblemMiddleware, which has checked the body, and outside whatever asks the database.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        deadline = time.monotonic() + settings.ENV.database_wait_s
        pause, longest = PAUSES_S
        with ids.repeatable() as given:
            while True:
                response, error = self._try(request)
                if error is None:
                    return response
                if not connection_lost(error) or time.monotonic() + pause > deadline:
                    log.warning("database error: answering 503", path=request.path_info, error=str(error))
                    return _unavailable(request, given)
                log.warning("database out of reach: request is run again", path=request.path_info, error=str(error))
                connections.close_all()
                time.sleep(pause)
                pause = min(2 * pause, longest)
                given.repeat()

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Whatever a view did not catch."""
        return HttpResponse(status=503) if _remember(request, error) else None

    def _try(self, request: HttpRequest) -> tuple[HttpResponse, Exception | None]:
        request.outage = None  # type: ignore[attr-defined]
        response = self._get_response(request)
        return response, request.outage  # type: ignore[attr-defined]


def _remember(request: Any, error: BaseException | None) -> bool:
    away = isinstance(error, AWAY)
    if away and request is not None:
        request.outage = error
    return away


@receiver(got_request_exception)
def _outside_the_view(sender: Any, request: Any = None, **_: Any) -> None:
    """What a middleware did not catch: the session is saved after the view."""
    _remember(request, sys.exc_info()[1])


def _unavailable(request: HttpRequest, given: ids.Ids) -> HttpResponse:
    """To an API client whose jobs may be stored, without a word of coming back; a page's form has a key of its own."""
    if given.taken and request.path_info.startswith(PREFIX):
        return Problem(503, MAY_BE_DONE, Cache_Control="no-store").response()
    headers = {"Retry-After": str(settings.RETRY_AFTER_S), "Cache-Control": "no-store"}
    return HttpResponse(render_to_string("503.html"), status=503, headers=headers)
