"""`make load`: what users wait for, measured from request to result, with every answer verified.

__main__.py is the command, locustfile.py ties Locust to the rest. users/ are what clients do (api.py is how they ask);
shapes.yml says how many of them when, slo.yml what must hold. ledger.py is the clients' own book of what they were
promised, audit.py holds it against the server's. watch.py looks at lanes and processes meanwhile; figures.py turns all
of it into numbers, verdicts.py judges them, and report.py draws them.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "app"
HERE = ROOT / "loadtests"
VAR = ROOT / "var" / "load"


class LoadError(Exception):
    """The run cannot start or go on; the text is one sentence for the user."""
