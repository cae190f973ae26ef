"""The command; see `python -m loadtests --help`. It is Locust's, with our locustfile and other defaults."""

import sys
import tempfile

from locust.main import main

from loadtests import HERE

OURS = ["-f", str(HERE / "locustfile.py"), "--loglevel", "WARNING", "--only-summary"]
SCRATCH = tempfile.TemporaryDirectory(prefix="headrace-load-")  # gone when the process ends
QUIET = ["--json-file", f"{SCRATCH.name}/locust"]  # instead of Locust's tables: ours follow
WEB = ["--autostart", "--autoquit", "0", "--web-host", "127.0.0.1"]


def arguments(given: list[str]) -> list[str]:
    """Locust's arguments. Without --web there is no web UI; with it, it listens on this host only."""
    if "--web" in given:
        return [*OURS, *QUIET, *WEB, *(one for one in given if one != "--web")]
    return [*OURS, *QUIET, *([] if "--worker" in given else ["--headless"]), *given]


if __name__ == "__main__":
    sys.argv[1:] = arguments(sys.argv[1:])
    main()
