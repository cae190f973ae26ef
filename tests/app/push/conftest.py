"""Push processes. What their clients import needs Django's settings, which are there only when a test runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import APP, BIN
from harness.processes import Process
from harness.waiting import free_port

TRUSTED = "https://ok.example,https://*.wild.example"


@pytest.fixture(scope="module")
def push(tmp_path_factory: pytest.TempPathFactory, process_env: dict[str, str]) -> Iterator[Any]:
    from tests.app.push.client import Push, argv_of

    port = free_port()
    program, *argv = argv_of(port)
    env = {**process_env, "HEADRACE_TRUSTED_ORIGINS": TRUSTED}
    log: Path = tmp_path_factory.mktemp("push") / "push.log"
    process = Process("push", [str(BIN / program), *argv], log, cwd=APP, env=env)
    try:
        yield Push(port, process)
    finally:
        process.stop()
    assert "Traceback" not in process.output()


@pytest.fixture
def own_push(launch: Callable[..., Process]) -> Callable[..., Any]:
    """A push process of this test's own, to be broken."""
    from tests.app.push.client import Push, argv_of

    def start(**env: str) -> Push:
        port = free_port()
        return Push(port, launch("push", *argv_of(port), **env))

    return start


@pytest.fixture
def token(user: Any, empty_broker: Any) -> str:
    from jobs.tokens import create_token

    return create_token(user)
