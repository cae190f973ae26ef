"""Starts and ends processes for the demo, the benchmarks, the drills and the tests; needs neither pytest nor Django.

processes.py starts child processes and ends them, servers.py starts a throwaway PostgreSQL or Redis, waiting.py waits
for conditions and finds free ports, signals.py makes a program end when it is told to.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "app"
BIN = Path(sys.executable).parent


class HarnessError(Exception):
    """A process has ended or a server is missing; the text says which and why, for the user."""


def short(path: Path) -> str:
    """A path as seen from the checkout, if it is in it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
