"""`make bench`: the deployment that most people copy and Headrace, side by side on one Redis and one PostgreSQL.

__main__.py is the command, cases.py says what is measured (data), stacks.py starts the processes, baseline/ is the
other deployment, wire.py and clients.py are the client, drive.py the two ways to load, meters.py counts CPU and Redis
commands, growth.py fills the ledger and probe.py times it, rounds.py takes turns, figures.py makes figures of what was
seen, report.py prints them.
"""

import sys
from pathlib import Path

from demo import ROOT  # puts app/ on the path: the work itself is the same on both sides

TESTS = ROOT / "tests"
VAR = ROOT / "var" / "bench"
RESULT = ROOT / "var" / "bench.json"
HERE = Path(__file__).resolve().parent

sys.path.insert(0, str(TESTS))  # servers.py starts the throwaway Redis and PostgreSQL


class BenchError(Exception):
    """The benchmark cannot go on; the text is one sentence for the user."""
