"""A job as the server describes it, and the record of a client that has seen it."""

from loadtests import work
from loadtests.client import judge
from loadtests.ledger import Record

IDS = iter(f"{number:032x}" for number in range(1000))


def moment(seconds):
    return f"2030-01-01T00:00:{seconds:09.6f}Z"


def a_digest(**changes):
    """The row of a digest that ended as it should."""
    text = "the wheel turns"
    params = {"text": text}
    outcome = work.digest.run(work.digest.DigestParams(text=text), lambda share, note="": None)
    row = {
        "id": next(IDS),
        "kind": "digest",
        "lane": "quick",
        "params": params,
        "state": "succeeded",
        "error": None,
        "result": outcome.result,
        "attempt": 1,
        "created_at": moment(1),
        "started_at": moment(2),
        "finished_at": moment(3),
    }
    return row | changes


def seen(row, **changes):
    """The record of a client that has seen the row's end as it stands."""
    record = Record(row["id"], row["lane"], row["kind"], row["params"], "single", "only", 0.0, 0.0, 0.1, 30.0)
    record.told_at, record.closed = 3.1, True
    record.saw(row)
    judge(record, row, None)
    for name, value in changes.items():
        setattr(record, name, value)
    return record
