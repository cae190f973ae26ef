"""A worker is fed to systemd's watchdog while it works, and only then: real workers, with the test as their systemd."""

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from celery.concurrency.solo import TaskPool as Solo
from celery.worker import state

from config import notify
from config.celery import app
from harness.processes import Process
from harness.servers import Redis
from harness.waiting import wait_until
from tests.app.test_faults import LANES, ask, children_of, ended, running, with_limits
from worker.watchdog import Watchdog

pytestmark = pytest.mark.django_db(transaction=True)
INTERVAL_S = 4.5  # of the watchdog; the units have a minute
FED = "WATCHDOG=1"


class Systemd:
    """Listens as systemd does, and writes down what it heard when."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.heard: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while text := self._socket.recv(4096):
            self.heard.append((time.monotonic(), text.decode()))

    def asks(self, interval_s: float) -> dict[str, str]:
        """The environment of a unit with a watchdog."""
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": f"{interval_s * 1e6:.0f}"}

    def hears(self, what: str, seconds: float = 30) -> str:
        """The next message with this in it."""
        known = len(self.heard)
        return wait_until(
            lambda: next((text for _, text in self.heard[known:] if what in text), ""), seconds, f"{what} is heard"
        )

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.address)

    @contextmanager
    def never_starves_it(self, interval_s: float) -> Iterator[None]:
        """It is fed at least once in every interval, or systemd would have killed it."""
        began = time.monotonic()
        yield
        fed = [began, *(at for at, text in self.heard if at > began and FED in text), time.monotonic()]
        assert max(after - before for before, after in itertools.pairwise(fed)) < interval_s


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listener = Systemd(tmp_path)
    yield listener
    listener.close()


Watched = Callable[..., tuple[Process, Systemd]]


@pytest.fixture
def watched(start_worker: Callable[..., Process], empty_broker: Redis, tmp_path: Path) -> Iterator[Watched]:
    """Start a worker of a lane under a watchdog."""
    listeners = []

    def start(lane: str, interval_s: float = INTERVAL_S, **env: str) -> tuple[Process, Systemd]:
        (tmp_path / lane).mkdir()
        systemd = Systemd(tmp_path / lane)
        listeners.append(systemd)
        worker = start_worker(lane, extra=("--include", "tests.app.worker.ailments"), **systemd.asks(interval_s), **env)
        systemd.hears("STATUS=consuming")
        return worker, systemd

    yield start
    for listener in listeners:
        listener.close()


def starves(worker: Process, systemd: Systemd, why: str) -> None:
    """It says why it does not feed, does not, and does not get over it; then it is killed, as systemd would."""
    wait_until(lambda: why in worker.output(), 30, f"the worker says: {why}")
    known = len(systemd.heard)
    wait_until(lambda: worker.output().count(why) >= 3, 30, f"the worker says again: {why}")
    assert FED not in "".join(text for _, text in systemd.heard[known:])
    worker.kill()


def flows_again(user: Any, lane: str, since: float) -> float:
    """Seconds until a job that is submitted now has ended."""
    assert ended(ask(user, "wait", lane=lane, ms=1)).state == "succeeded"
    return time.monotonic() - since


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_broker_that_comes_back_finds_its_workers(
    how: str, user: Any, watched: Watched, sweeper: Process, empty_broker: Redis
) -> None:
    """On every pool within 15 s; what ran all the while has run on, once; and no watchdog starved, idle or busy."""
    units = [watched(lane, interval_s=20) for lane in LANES]
    with ExitStack() as fed:
        for _, systemd in units:
            fed.enter_context(systemd.never_starves_it(20))
        jobs = [ask(user, "wait", lane=lane, ms=8_000 if lane == "quick" else 14_000) for lane in LANES]
        for job_id in jobs:
            running(job_id)
        if how == "stopped":
            empty_broker.stop()
            units[0][1].hears("the broker is away")
            time.sleep(8)
            empty_broker.start()
        else:
            with empty_broker.paused():
                time.sleep(12)
        back = time.monotonic()
        assert max(flows_again(user, lane, back) for lane in LANES) < 15
        assert [(ended(job_id).state, ended(job_id).attempt) for job_id in jobs] == [("succeeded", 1)] * 3
    assert all(worker.alive() for worker, _ in units)


@pytest.mark.parametrize("lane", ["io", "quick"])
def test_not_fed_when_a_task_that_nothing_can_stop_is_past_its_limit(
    lane: str, watched: Watched, tmp_path: Path
) -> None:
    unit = watched(lane, HEADRACE_LANE_TABLE=with_limits(tmp_path, 1, 2))
    app.send_task("ailments.nap", (60,), queue=lane)
    starves(*unit, "runs beyond its hard time limit")


def test_not_fed_when_the_event_loop_stands_still(watched: Watched) -> None:
    units = [watched(lane) for lane in LANES]
    app.control.broadcast("stall")
    for unit in units:
        starves(*unit, "the event loop is blocked")


def test_not_fed_when_nothing_is_asked_of_the_broker(watched: Watched) -> None:
    unit = watched("io")
    app.control.broadcast("deafen")
    starves(*unit, "the consumer asks the broker for no messages")


def test_not_fed_when_a_task_was_given_to_a_stopped_pool_process(watched: Watched) -> None:
    unit = watched("cpu")
    for child in children_of(unit[0].child.pid):
        os.kill(child, signal.SIGSTOP)
    app.send_task("ailments.nap", (0,), queue="cpu")
    starves(*unit, "although a slot is free")


def test_not_fed_while_stopped(watched: Watched) -> None:
    worker, systemd = watched("quick")
    worker.signal(signal.SIGSTOP)
    known = len(systemd.heard)
    time.sleep(INTERVAL_S)
    assert len(systemd.heard) <= known + 1  # one may have been on its way


def test_worker_that_starts_without_a_broker_asks_for_time_and_is_up_once_it_consumes(
    systemd: Systemd, launch: Callable[..., Process], empty_broker: Redis, transactional_db: None
) -> None:
    empty_broker.stop()
    try:
        argv = ["celery", "-A", "config", "worker", "-n", "io-1@%h", "-Q", "io", "-P", "threads", "-c", "1"]
        launch("io-1", *argv, HEADRACE_LANE="io", **systemd.asks(7.5))
        for _ in range(3):
            assert "EXTEND_TIMEOUT_USEC=7500000" in systemd.hears("the broker is away")
        assert "READY=1" not in [text for _, text in systemd.heard]
    finally:
        empty_broker.start()
    systemd.hears("READY=1")
    assert "EXTEND_TIMEOUT_USEC" not in systemd.hears(FED)


def test_without_systemd_there_is_no_watchdog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not Watchdog(Mock()).include_if(Mock())
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    assert Watchdog(Mock()).include_if(Mock())
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not Watchdog(Mock()).include_if(Mock())


@pytest.mark.parametrize(("age_s", "well"), [(599, True), (660 + 19, True), (660 + 21, False)])
def test_task_of_ten_minutes_is_no_ailment_and_one_past_its_limit_is(
    age_s: float, well: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Under the units' watchdog of a minute, and the longest limit, in the pool where a task stops everything else."""
    request.addfinalizer(state.reset_state)
    monkeypatch.setattr(notify, "watchdog_s", lambda: 60.0)
    task = Mock(time_limits=(None, None))
    task.task.time_limit = None
    state.active_requests.add(task)
    worker = Mock(pool=Mock(spec=Solo), time_limit=660)
    worker.consumer.broker_connection_retry_attempt = 0
    watchdog = Watchdog(worker)
    watchdog._tried, watchdog._looped_at = (0, 0.0), time.monotonic() - age_s
    watchdog._ages._began[task] = time.monotonic() - age_s
    assert (watchdog.ailment(worker) == "") is well
