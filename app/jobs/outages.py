"""A database that is away for seconds (a restart, a failover) is waited out: the request that met it is run again.

Its transaction died with its connection, so nothing is done twice, but for a commit whose answer was lost: the rows are
there, and nobody was told. So a request that is run again gives its new jobs the ids of the first time (jobs.submit),
and finds them.
"""

import sys
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import psycopg
import structlog
import uuid_utils.compat as uuids
from django.conf import settings
from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError, connections
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from jobs.problems import RETRY_AFTER_S

log = structlog.get_logger(__name__)
AWAY = (OperationalError, InterfaceError)
PAUSES_S = (0.1, 1.0)
NO_MORE_CONNECTIONS = "53300"
SHUTTING_DOWN, CRASHED, STARTING_UP = "57P01", "57P02", "57P03"


def connection_lost(error: BaseException) -> bool:
    """Whether PostgreSQL is out of reach; not whether it refuses a query (a deadlock, a full disk)."""
    cause = error.__cause__
    if not isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    state = cause.sqlstate or "08"  # without one it is not the server that speaks
    return state[:2] == "08" or state in {NO_MORE_CONNECTIONS, SHUTTING_DOWN, CRASHED, STARTING_UP}


# ---- the same ids again ---------------------------------------------------------------------------------------------


class Ids:
    """The ids of the jobs that one request makes, in their order."""

    def __init__(self) -> None:
        self.again = False
        self._given: list[uuid.UUID] = []
        self._used = 0

    def take(self) -> uuid.UUID:
        """The next one: the first time a new one, then the same."""
        if self._used == len(self._given):
            self._given.append(uuids.uuid7())
        self._used += 1
        return self._given[self._used - 1]

    def rewind(self) -> None:
        """The request is run again."""
        self.again, self._used = True, 0


_ids: ContextVar[Ids | None] = ContextVar("ids", default=None)


def new_id() -> uuid.UUID:
    """An id for a new job."""
    ids = _ids.get()
    return ids.take() if ids else uuids.uuid7()


def runs_again() -> bool:
    """Whether this request met an outage, so that what it is to store may be there already."""
    ids = _ids.get()
    return ids is not None and ids.again


# ---- waiting --------------------------------------------------------------------------------------------------------


class WaitForDatabase:
    """Runs a request again while the database is out of reach, for `database_wait_s`; then it is 503, come back later.

    It is inside ProblemMiddleware, which has checked the body, and outside whatever asks the database.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = _ids.set(Ids())
        try:
            return self._patiently(request)
        finally:
            _ids.reset(token)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Whatever a view did not catch."""
        return HttpResponse(status=503) if _note(request, error) else None

    def _patiently(self, request: HttpRequest) -> HttpResponse:
        deadline = time.monotonic() + settings.ENV.database_wait_s
        pause, most = PAUSES_S
        while True:
            response, error = self._try(request)
            if error is None:
                return response
            log.warning("database away", path=request.path_info, error=str(error))
            if not connection_lost(error) or time.monotonic() + pause > deadline:
                return _later()
            connections.close_all()
            time.sleep(pause)
            pause = min(2 * pause, most)

    def _try(self, request: HttpRequest) -> tuple[HttpResponse, Exception | None]:
        request.outage = None  # type: ignore[attr-defined]
        response = self._get_response(request)
        ids = _ids.get()
        if ids:
            ids.rewind()
        return response, request.outage  # type: ignore[attr-defined]


def _note(request: Any, error: BaseException | None) -> bool:
    away = isinstance(error, AWAY)
    if away and request is not None:
        request.outage = error
    return away


@receiver(got_request_exception)
def _beside_the_view(sender: Any, request: Any = None, **_: Any) -> None:
    """What a middleware did not catch: the session is saved after the view."""
    _note(request, sys.exc_info()[1])


def _later() -> HttpResponse:
    headers = {"Retry-After": str(RETRY_AFTER_S), "Cache-Control": "no-store"}
    return HttpResponse(render_to_string("503.html"), status=503, headers=headers)
