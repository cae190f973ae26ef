"""The demo's ledger is SQLite: the tests of the ledger pass there too."""

import os
import subprocess
import sys

import pytest

from harness import ROOT


@pytest.mark.servers
@pytest.mark.skipif("sqlite" in os.environ["HEADRACE_DATABASE_URL"], reason="this run is the one on SQLite")
def test_ledger_holds_on_sqlite() -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-m", "ledger", "tests/app"]
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "PYTEST_", "DJANGO_"))
    }
    run = subprocess.run(
        argv, cwd=ROOT, env={**env, "HEADRACE_TEST_DATABASE": "sqlite"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-6000:]
    assert " passed" in run.stdout
