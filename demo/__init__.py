"""`make demo`: the whole pipeline on one machine, started, used and verified by one command.

__main__.py is the command, stack.py runs the processes, edge.py stands in for nginx, client.py is a client of the API,
checks.py verifies the results, serve_site.py serves site/, the pages that `fetch` and `linkcheck` look at.
"""

from harness import ROOT, HarnessError

SITE = ROOT / "demo" / "site"


class DemoError(HarnessError):
    """The demo cannot go on; the text is one sentence for the user."""
