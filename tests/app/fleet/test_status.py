"""What the lanes cost: their questions find the few open jobs among many that have ended, once for all who look."""

import json
import time
import uuid
from typing import Any

import pytest
from django.db import OperationalError, connection

from fleet import history, status
from fleet.records import swept
from jobs.models import Job, State

pytestmark = pytest.mark.django_db
MANY = 5000
on_postgresql = pytest.mark.skipif("connection.vendor != 'postgresql'", reason="it is about PostgreSQL's plans")


@pytest.fixture
def ended(user: Any) -> None:
    """Many jobs that have ended long ago."""
    same = {"owner": user, "kind": "digest", "lane": "quick", "params": {}, "fingerprint": "", "max_attempts": 1}
    end = {"state": State.SUCCEEDED, "finished_at": "2020-01-01T00:00:00Z"}
    rows = (Job(id=uuid.UUID(int=number), **same, **end) for number in range(MANY))
    Job.objects.bulk_create(rows, 1000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jobs_job")


@on_postgresql
@pytest.mark.parametrize("ask", [status._lanes, history.count_ended])
def test_no_question_reads_jobs_that_have_ended_long_ago(
    ended: None, ask: Any, django_assert_max_num_queries: Any
) -> None:
    swept(0.1)
    with django_assert_max_num_queries(8) as seen:
        ask()
    asked = [one["sql"] for one in seen.captured_queries if "jobs_job" in one["sql"]]
    assert asked
    for sql in asked:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + sql)
            (plan,) = cursor.fetchone()
        text = plan if isinstance(plan, str) else json.dumps(plan)
        assert "Seq Scan" not in text, sql


def test_many_who_look_are_answered_by_one_question(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(status, "SEEN_FOR_S", 60)
    monkeypatch.setattr(status, "_seen", (0.0, None))
    status.lanes()
    with django_assert_num_queries(0):
        assert len(status.lanes()) == 3


@on_postgresql
def test_a_question_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> None:
    monkeypatch.setattr(status, "TIMEOUT_MS", 100)
    began = time.monotonic()
    with pytest.raises(OperationalError), status.briefly(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(20)")
    assert time.monotonic() - began < 5
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


def test_what_was_before_an_outage_is_not_shown_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise OperationalError

    status.lanes()
    with monkeypatch.context() as patch:
        patch.setattr(status, "_lanes", away)
        for _ in range(2):
            with pytest.raises(OperationalError):
                status.lanes()
            patch.setattr(status, "SEEN_FOR_S", 60)
