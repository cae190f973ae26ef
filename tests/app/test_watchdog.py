"""A worker is fed to systemd's watchdog while it works, and only then: real workers, with the test as their systemd."""

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from celery.concurrency.solo import TaskPool as Solo
from celery.worker import state
from test_faults import LANES, children_of, with_limits

from config import notify
from config.celery import app
from config.watchdog import Watchdog
from jobs.models import Job
from jobs.submit import Submission, submit
from servers import Process, Redis, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
INTERVAL_S = 7.5  # of the watchdog; a third of it is longer than the pause between two tries of the broker
SHORT_S = 4.5
FED, TOLD_WHY = "WATCHDOG=1", "not feeding the watchdog"


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
    def never_starves_it(self) -> Iterator[None]:
        """It is fed at least once in every interval, or systemd would have killed it."""
        began = time.monotonic()
        yield
        fed = [began, *(at for at, text in self.heard if at > began and FED in text), time.monotonic()]
        assert max(after - before for before, after in itertools.pairwise(fed)) < INTERVAL_S


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listener = Systemd(tmp_path)
    yield listener
    listener.close()


@pytest.fixture
def watched(start_worker: Callable[..., Process], systemd: Systemd, empty_broker: Redis) -> Callable[..., Process]:
    """Start a worker of a lane under a watchdog."""

    def start(lane: str, interval_s: float = SHORT_S, **env: str) -> Process:
        worker = start_worker(lane, extra=("--include", "tests.ailments"), **systemd.asks(interval_s), **env)
        systemd.hears(FED)
        return worker

    return start


@pytest.fixture
def starves(systemd: Systemd) -> Callable[..., None]:
    """See that a worker says why it does not feed, does not, and does not get over it; then end it."""

    def see(worker: Process, why: str) -> None:
        wait_until(lambda: why in worker.output(), 30, f"the worker says: {why}")
        known = len(systemd.heard)
        wait_until(lambda: worker.output().count(why) >= 3, 30, f"the worker says again: {why}")
        assert FED not in "".join(text for _, text in systemd.heard[known:])
        worker.kill()

    return see


@pytest.mark.parametrize("lane", LANES)
def test_fed_while_idle_while_busy_and_without_a_broker(
    lane: str, user: Any, watched: Callable[..., Process], systemd: Systemd, empty_broker: Redis
) -> None:
    worker = watched(lane, INTERVAL_S)
    with systemd.never_starves_it():
        [(job, _)] = submit(user.pk, [Submission("wait", {"lane": lane, "ms": 1500 * INTERVAL_S})])
        wait_until(lambda: Job.objects.get(pk=job.pk).finished, why="the job ends")
        empty_broker.stop()
        try:
            for _ in range(3):
                systemd.hears("the broker is away")
        finally:
            empty_broker.start()
        systemd.hears("STATUS=consuming", 15)
    assert TOLD_WHY not in worker.output()


@pytest.mark.parametrize("lane", ["io", "quick"])
def test_not_fed_when_a_task_that_nothing_can_stop_is_past_its_limit(
    lane: str, watched: Callable[..., Process], starves: Callable[..., None], tmp_path: Path
) -> None:
    worker = watched(lane, HEADRACE_LANE_TABLE=with_limits(tmp_path, 1, 2))
    app.send_task("ailments.nap", (60,), queue=lane)
    starves(worker, "runs beyond its hard time limit")


@pytest.mark.parametrize("lane", LANES)
def test_not_fed_when_the_event_loop_stands_still(
    lane: str, watched: Callable[..., Process], starves: Callable[..., None]
) -> None:
    worker = watched(lane)
    app.control.broadcast("stall")
    starves(worker, "the event loop stands still")


def test_not_fed_when_nothing_is_asked_of_the_broker(
    watched: Callable[..., Process], starves: Callable[..., None]
) -> None:
    worker = watched("io")
    app.control.broadcast("deafen")
    starves(worker, "it asks the broker for nothing")


def test_not_fed_when_a_task_was_given_to_a_stopped_pool_process(
    watched: Callable[..., Process], starves: Callable[..., None]
) -> None:
    worker = watched("cpu")
    for child in children_of(worker.child.pid):
        os.kill(child, signal.SIGSTOP)
    app.send_task("ailments.nap", (0,), queue="cpu")
    starves(worker, "a slot is free")


def test_not_fed_while_stopped(watched: Callable[..., Process], systemd: Systemd) -> None:
    watched("quick").signal(signal.SIGSTOP)
    known = len(systemd.heard)
    time.sleep(SHORT_S)
    assert len(systemd.heard) <= known + 1  # one may have been on its way


def test_worker_that_starts_without_a_broker_asks_for_time_and_is_up_once_it_consumes(
    systemd: Systemd, launch: Callable[..., Process], empty_broker: Redis, transactional_db: None
) -> None:
    empty_broker.stop()
    try:
        argv = ["celery", "-A", "config", "worker", "-n", "io-1@%h", "-Q", "io", "-P", "threads", "-c", "1"]
        launch("io-1", *argv, HEADRACE_LANE="io", **systemd.asks(INTERVAL_S))
        for _ in range(3):
            assert f"EXTEND_TIMEOUT_USEC={INTERVAL_S * 1e6:.0f}" in systemd.hears("the broker is away")
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
    task = Mock(time_limits=(None, None), time_start=time.time() - age_s)
    task.task.time_limit = None
    state.active_requests.add(task)
    worker = Mock(pool=Mock(spec=Solo), time_limit=660)
    worker.consumer.broker_connection_retry_attempt = 0
    watchdog = Watchdog(worker)
    watchdog._tried, watchdog._turned = (0, 0.0), time.monotonic() - age_s
    assert (watchdog.ailment(worker) == "") is well
