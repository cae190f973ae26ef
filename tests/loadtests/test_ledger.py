"""What a master learns from its workers."""

from loadtests.ledger import Ledger, LedgerNews
from tests.loadtests.records import a_digest, seen


def test_a_master_knows_what_its_workers_know():
    worker, master, row = Ledger(), Ledger(), a_digest()
    record = seen(row, told_at=None, closed=False)
    worker.accept(record)
    master.learn(worker.news())
    assert master.tallies["quick"].submitted - master.tallies["quick"].closed == 1
    record.told_at = 3.1
    worker.close(record)
    worker.refuse("no")
    worker.fail()
    master.learn(worker.news())
    assert master.records[row["id"]] == record
    assert (master.tallies["quick"].submitted, master.tallies["quick"].closed) == (1, 1)
    assert master.refused == {"no": 1}
    assert master.failed == 1
    assert worker.news() == LedgerNews([], {}, 0)
