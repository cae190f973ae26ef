"""`make demo`: the whole pipeline on one machine, started, used and verified by one command.

__main__.py is the command, stack.py runs the processes, edge.py stands in for nginx, client.py is a client of the API,
checks.py verifies what the jobs came to, serve_site.py serves site/, the pages that `fetch` and `linkcheck` look at.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "app"
SITE = ROOT / "demo" / "site"

sys.path.insert(0, str(APP))  # the kinds and the lane table live there, and it is no installed package


class DemoError(Exception):
    """The demo cannot go on; the text is one sentence for the user."""
