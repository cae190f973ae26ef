"""`make bench`: the deployment that most people copy and Headrace, side by side on one Redis and one PostgreSQL.

__main__.py is the command, cases.py says what is measured (data), stacks.py starts the processes, baseline/ is the
other deployment, wire.py and clients.py are the client, drive.py the two ways to load, meters.py counts CPU and Redis
commands, growth.py fills the ledger and probe.py times it, rounds.py takes turns, figures.py makes figures of what was
seen, report.py prints them.
"""

from harness import ROOT, HarnessError

VAR = ROOT / "var" / "bench"
RESULT = ROOT / "var" / "bench.json"


class BenchError(HarnessError):
    """The benchmark cannot go on; the text is one sentence for the user."""
