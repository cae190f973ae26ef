import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """For all files of a run: its name marks the processes. The servers' users must reach it."""
    made = Path(tempfile.mkdtemp(prefix="headrace-tests-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)
