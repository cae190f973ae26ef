"""The command; see `python -m loadtests --help`. It is Locust's, with our locustfile and other defaults."""

import atexit
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from locust.main import main

from loadtests import HERE

OURS = ["-f", str(HERE / "locustfile.py"), "--loglevel", "WARNING", "--only-summary"]
SCRATCH = Path(tempfile.gettempdir(), f"headrace-load-{secrets.token_hex(8)}")  # Locust makes it when a run has ended
QUIET = ["--json-file", str(SCRATCH / "locust")]  # instead of Locust's tables: ours follow
WEB = ["--autostart", "--autoquit", "0", "--web-host", "127.0.0.1"]


def arguments(given: list[str]) -> list[str]:
    """Locust's arguments. Without --web there is no web UI; with it, it listens on this host only."""
    if "--web" in given:
        return [*OURS, *QUIET, *WEB, *(one for one in given if one != "--web")]
    return [*OURS, *QUIET, *([] if "--worker" in given else ["--headless"]), *given]


if __name__ == "__main__":
    atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
    # A script's shell starts what it runs in the background with SIGINT ignored, and some supervisors block signals.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sys.argv[1:] = arguments(sys.argv[1:])
    main()
