"""A connection that has just answered is not asked whether it works, and one that has died is noticed all the same."""

import time
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, close_old_connections, connection, connections

from config.postgresql import base
from jobs.models import Job
from tests.app.wire import statements

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite needs no such question"),
]


def used() -> list[str]:
    """What is sent for one statement in a new request."""
    with statements() as sent:
        close_old_connections()
        Job.objects.exists()
    return sent


@pytest.fixture
def pooled(request: pytest.FixtureRequest) -> Any:
    """A connection as Django makes it with HEADRACE_DATABASE_POOL."""
    given = settings.DATABASES["default"]
    options = {**given["OPTIONS"], "pool": {"min_size": 1, "max_size": 1, "timeout": 5}}
    pooled = base.DatabaseWrapper({**connections["default"].settings_dict, "CONN_MAX_AGE": 0, "OPTIONS": options})
    pooled.alias = "pooled"
    yield pooled
    pooled.close()
    pooled.close_pool()


def test_connection_that_has_just_answered_is_not_asked() -> None:
    Job.objects.exists()
    assert len(used()) == 1


def test_connection_that_was_idle_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    Job.objects.exists()
    monkeypatch.setattr(base, "TRUSTED_FOR_S", 0)
    assert used()[0].strip('"') == "SELECT 1"


def test_connection_is_asked_after_an_error() -> None:
    with pytest.raises(OperationalError), connection.cursor() as cursor:
        cursor.execute("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)")
    assert any("SELECT 1" in sent for sent in used())


def kill(pid: int) -> None:
    with psycopg.connect(settings.ENV.database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def test_connection_that_has_just_died_is_replaced() -> None:
    Job.objects.exists()
    kill(connection.connection.info.backend_pid)
    close_old_connections()
    assert not Job.objects.exists()


def test_pool_asks_what_was_idle_and_replaces_what_has_died(pooled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[float] = []
    check = base.has_just_answered
    monkeypatch.setattr(base, "has_just_answered", lambda one: check(one) or bool(checked.append(time.monotonic())))

    def ask() -> int:
        with pooled.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pid = int(cursor.fetchone()[0])
        pooled.close()  # goes back to the pool
        return pid

    first = ask()
    checked.clear()
    assert (ask(), checked) == (first, [])
    kill(first)
    assert ask() != first
    assert checked
