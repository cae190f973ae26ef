"""SQL that is generated once, and that PostgreSQL prepares once."""

import uuid
from contextlib import suppress
from typing import Any

import pytest
from django.db import connection, transaction

from jobs import services, submit
from jobs.models import Job, State
from jobs.statements import Update, write

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite prepares every statement itself"),
]


@pytest.fixture(autouse=True)
def fresh() -> None:
    """A connection that has prepared nothing."""
    connection.close()


def prepared() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        [count] = cursor.fetchone()
    return int(count)


def through(user: Any) -> None:
    """A job from its submit to its end."""
    [(job, _)] = submit.submit(user.pk, [submit.Submission("burn", {"lane": "quick", "ms": 1})])
    claim = services.claim(job.pk, "test", "solo")
    assert claim
    assert services.report(claim, 0.5, "half of it")
    assert services.succeed(claim, {"spins": 1})
    assert Job.objects.get(pk=job.pk).state == State.SUCCEEDED


def test_what_each_job_needs_is_prepared_once_and_nothing_else(user: Any) -> None:
    through(user)
    assert prepared() == 4, "submit, claim, report and succeed"
    Job.objects.filter(note="asked for once").exists()
    for _ in range(3):
        through(user)
    assert prepared() == 4


def test_a_failed_transaction_forgets_what_was_prepared_and_the_next_job_works(user: Any) -> None:
    through(user)
    with suppress(ZeroDivisionError), transaction.atomic():
        through(user)
        raise ZeroDivisionError
    through(user)


def test_a_plan_for_every_user_finds_the_open_jobs_by_their_index() -> None:
    """With a parameter where the states stand, a plan that knows no values could not use a partial index."""
    sql = submit._counting(100).sql.replace("%s", "$1")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        cursor.execute(f"PREPARE counting (bigint) AS {sql}")
        cursor.execute("EXPLAIN EXECUTE counting(1)")
        plan = "\n".join(line for [line] in cursor.fetchall())
        cursor.execute("DEALLOCATE counting")
    assert "job_open" in plan, plan
    assert "Seq Scan" not in plan


def test_values_that_never_change_keep_their_percent_signs(user: Any) -> None:
    """Those stand in the SQL, which is a format for the others."""
    [(job, _)] = submit.submit(user.pk, [submit.Submission("burn", {"lane": "quick", "ms": 1})])
    nobody = uuid.UUID(int=0)
    rows = Job.objects.filter(pk=nobody, kind__contains="u")
    values = {"note": "100 % of 'it' is %s", "worker": "who"}
    update = Update(rows, values, ("note", "worker"), {"id": nobody, "worker": "who"})
    changed = update.one(id=job.pk, worker="%s %% it")
    assert (changed.note, changed.worker) == ("100 % of 'it' is %s", "%s %% it")


def test_only_blanks_are_sent_beside_the_sql() -> None:
    nobody = uuid.UUID(int=0)
    statement = write(Job.objects.filter(pk=nobody, state=State.QUEUED).query, {"id": nobody})
    assert statement.blanks == ("id",)
    assert "'queued'" in statement.sql
