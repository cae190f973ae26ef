"""The audit: which class a job is of."""

import pytest

from loadtests import audit
from loadtests.facts import Audited
from loadtests.ledger import Ledger
from tests.loadtests.records import a_digest, moment, seen


def test_a_job_that_ended_once_in_time_with_the_right_result_is_verified():
    row = a_digest()
    assert audit.finding(seen(row), [row], None).verdict == "verified"


@pytest.mark.parametrize(
    ("row", "told", "rows", "verdict", "why"),
    [
        ({}, {}, [], "lost", "does not know it"),
        ({}, {"told_at": 31.0}, None, "lost", "late"),
        ({}, {"told_at": None}, None, "lost", "was not told"),
        ({}, {"trouble": "closed with 4404"}, None, "lost", "closed with 4404"),
        ({}, {}, [{"state": "running"}], "lost", "still running"),
        ({}, {}, [{"finished_at": moment(4)}], "double", "did not end once"),
        ({}, {}, [{"state": "failed"}], "double", "did not end once"),
        ({}, {}, [{}, {}], "double", "lists it twice"),
        ({}, {"double": "its key gave another"}, None, "double", "its key gave another"),
        ({}, {}, [{"result": {}}], "wrong", "not the right digest"),
        ({"result": {"sha256": "0"}}, {}, None, "wrong", "not the right digest"),
        ({"state": "failed", "error": "The wheel broke.", "result": None}, {}, None, "wrong", "The wheel broke."),
    ],
)
def test_each_way_to_break_the_promise_has_its_class(row, told, rows, verdict, why):
    first = a_digest(**row)
    now = [first] if rows is None else [first | change for change in rows]
    found = audit.finding(seen(first, **told), now, None)
    assert (found.verdict, found.id) == (verdict, first["id"])
    assert why in found.why


def test_a_client_that_we_stopped_ourselves_lost_nothing():
    row = a_digest()
    assert audit.finding(seen(row, told_at=None, closed=False), [row], None).verdict == "verified"


def test_a_run_that_submitted_nothing_has_not_passed():
    assert not Audited.of([], {}, 0).passed


def test_two_submits_with_one_id_are_a_double():
    ledger, row = Ledger(), a_digest()
    ledger.accept(seen(row))
    ledger.accept(seen(row))
    assert audit.finding(ledger.records[row["id"]], [row], None).verdict == "double"
