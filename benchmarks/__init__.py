"""`make bench`: the deployment that most people copy and Headrace, side by side on one Redis and one PostgreSQL.

__main__.py is the command, cases.py says what is measured (data), stacks.py starts our processes and theirs.py those of
what is in the baseline's place: baseline/ is the deployment that people copy, peers/ are others that promise too.
wire.py and clients.py are the clients, drive.py the ways to load, meters.py counts CPU, Redis commands and SQL
statements, growth.py fills the ledger and probe.py times it, rounds.py takes turns, figures.py makes figures of what
was seen, report.py prints them. kills.py counts what is lost to a fault, sockets.py what the followers of one job cost,
profiling.py says where the time goes.
"""

from harness import ROOT, HarnessError

VAR = ROOT / "var" / "bench"
RESULT, KILLS, SOCKETS = (ROOT / "var" / f"{name}.json" for name in ("bench", "kills", "sockets"))


class BenchError(HarnessError):
    """The benchmark cannot go on; the text is one sentence for the user."""


class NotInstalled(BenchError):
    """It has not begun: something is missing here that this needs."""
