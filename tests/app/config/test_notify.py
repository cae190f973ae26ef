"""Workers, beat and the sweeper tell systemd when they are up; here the test listens in systemd's place."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Launch = Callable[..., Any]


class Systemd:
    """The socket that systemd gives a unit of Type=notify."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(60)

    def told(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listener = Systemd(tmp_path)
    yield listener
    listener.socket.close()


def test_worker_is_up_when_it_consumes_and_says_that_it_drains(
    systemd: Systemd, start_worker: Callable[..., Any]
) -> None:
    worker = start_worker("quick", NOTIFY_SOCKET=systemd.address)
    assert systemd.told() == "READY=1"
    worker.child.terminate()
    assert systemd.told() == "STOPPING=1"


@pytest.mark.parametrize(
    "command",
    [("python", "manage.py", "sweep"), ("celery", "-A", "config", "beat", "-s", "{tmp}/schedule", "--pidfile=")],
)
def test_beat_and_sweeper_are_up(
    systemd: Systemd, launch: Launch, transactional_db: None, tmp_path: Path, command: tuple[str, ...]
) -> None:
    launch("unit", *(word.format(tmp=tmp_path) for word in command), NOTIFY_SOCKET=systemd.address)
    assert systemd.told() == "READY=1"


@pytest.mark.parametrize("database", ["", "postgresql://nobody@127.0.0.1:1/none"])
def test_sweeper_feeds_the_watchdog_from_its_rounds(
    systemd: Systemd, launch: Launch, transactional_db: None, database: str
) -> None:
    """A round that finds no database is a round too: starting the sweeper again would not bring it back."""
    env = {"HEADRACE_DATABASE_URL": database} if database else {}
    sweeper = launch("unit", "python", "manage.py", "sweep", NOTIFY_SOCKET=systemd.address, **env)
    assert systemd.told() == "READY=1"
    status = "waits for the database" if database else "leads"
    assert [systemd.told() for _ in range(3)] == [f"WATCHDOG=1\nSTATUS={status}"] * 3
    sweeper.child.terminate()
    assert sweeper.child.wait(30) == 0


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from config import notify

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready()
    notify.stopping()
    notify.alive("leads")
