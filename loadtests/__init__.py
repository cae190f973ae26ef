"""`make load`: what users wait for, measured from request to result, with every answer verified.

Read it in this order: shapes.yml says how many users do what when, slo.yml what must hold. locustfile.py connects
Locust with a run (context.py), whose users (users.py) act as clients (client.py; api.py is their connection). ledger.py
is the clients' own book of what they were promised, audit.py compares it with the server's. watch.py looks at lanes,
processes and stores meanwhile. figures.py turns all of it into numbers (facts.py), slo.py judges them, and report.py
draws them; finish.py calls these one after the other.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "app"
HERE = ROOT / "loadtests"
VAR = ROOT / "var" / "load"


class LoadError(Exception):
    """The run cannot start or go on; the text is one sentence for the user."""
