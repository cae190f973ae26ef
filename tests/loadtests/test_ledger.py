"""What a master learns from its workers."""

from dataclasses import asdict

from pydantic import TypeAdapter

from loadtests.ledger import Ledger, LedgerNews
from tests.loadtests.records import a_digest, seen


def told(worker):
    """A worker's news as they reach its master."""
    return TypeAdapter(LedgerNews).validate_python(asdict(worker.news()))


def test_a_master_knows_what_its_workers_know():
    worker, master, row = Ledger(), Ledger(), a_digest()
    record = seen(row, told_at=None, closed=False)
    worker.accept(record)
    master.learn(told(worker))
    assert master.tallies["quick"].open == 1
    record.told_at = 3.1
    worker.close(record)
    worker.refuse("no")
    worker.fail()
    master.learn(told(worker))
    assert master.records[row["id"]] == record
    assert (master.tallies["quick"].submitted, master.tallies["quick"].closed) == (1, 1)
    assert master.refused == {"no": 1}
    assert master.failed == 1
    assert worker.news() == LedgerNews([], {}, 0)
