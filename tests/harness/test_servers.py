"""Throwaway servers: they find a port, and come back at it."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import HarnessError, servers
from harness.servers import PostgreSQL, Redis, Server
from harness.waiting import answers, free_port


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below `tmp_path`, which is closed to the user whom PostgreSQL runs as."""
    parent = Path(tempfile.mkdtemp(prefix="headrace-tests-"))
    parent.chmod(0o755)
    (parent / "server").mkdir()
    yield parent / "server"
    shutil.rmtree(parent)


@pytest.mark.parametrize("kind", [Redis, PostgreSQL])
def test_a_server_starts_beside_a_taken_port_and_comes_back_at_its_own(folder, kind: type[Server], monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], free_port()]
        monkeypatch.setattr(servers, "free_port", iter(ports).__next__)
        server = kind(folder)
        server.start()
        assert server.port == ports[1]
    server.stop()
    assert not answers(server.port)
    server.start()
    assert answers(ports[1])
    server.stop()


def test_a_server_that_cannot_start_says_why(folder):
    server = Redis(folder)
    server._make = lambda: (folder / "redis.conf").write_text("nonsense yes\n")
    server._config = folder / "redis.conf"
    with pytest.raises(HarnessError, match=r"(?s)redis ended with status 1; .*nonsense"):
        server.start()
