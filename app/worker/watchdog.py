"""Feeds systemd's watchdog while a worker truly works, in each of the pools; systemd restarts one that starves.

A thread feeds, because the event loop cannot always: it stands still while solo runs a task and while the worker
connects to its broker. An absent broker is no reason to starve, since a restart would not bring it back.
"""

import threading
import time
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from celery import bootsteps
from celery.concurrency.solo import TaskPool as Solo
from celery.worker import state

from config import notify

log = structlog.get_logger(__name__)


class Watchdog(bootsteps.StartStopStep):  # type: ignore[misc]
    """A worker bootstep: starts with the pool, before the worker has ever connected."""

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._period = notify.watchdog_s() / 3  # two feeds may be late, as on a host whose cores are all busy
        self._over = threading.Event()
        self._turned = time.monotonic()
        self._tried = (0, time.monotonic())
        self._left: set[Any] = set()
        self._began: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # as seen from here: wall clocks may be set

    def include_if(self, worker: Any) -> bool:
        """Only where systemd asks for it."""
        return notify.watchdog_s() > 0

    def start(self, worker: Any) -> None:
        """Begin to feed."""
        worker.timer.call_repeatedly(self._period / 2, self._turn)
        threading.Thread(target=self._feed, args=(worker,), name="watchdog", daemon=True).start()

    def stop(self, worker: Any) -> None:
        """The pool has stopped: from here on TimeoutStopSec decides."""
        self._over.set()

    terminate = stop

    def _turn(self) -> None:
        self._turned = time.monotonic()

    def _feed(self, worker: Any) -> None:
        while not self._over.wait(self._period):
            try:
                ailment = self.ailment(worker)
            except Exception as error:  # noqa: BLE001  (in doubt it does not feed, but it looks again)
                ailment = repr(error)
            if ailment:
                log.critical("not feeding the watchdog", why=ailment)
                continue
            consumer = worker.consumer
            connecting = consumer.broker_connection_retry_attempt
            status = f"the broker is away, attempt {connecting}" if connecting else "consuming"
            notify.alive(status, starting_s=3 * self._period if consumer.first_connection_attempt else 0)

    def ailment(self, worker: Any) -> str:
        """Why a restart would help this worker, in a few words; empty while it is well."""
        if state.should_stop is not None or state.should_terminate is not None:
            return ""  # it drains, and TimeoutStopSec is its limit
        running = _snapshot(state.active_requests)
        now = time.monotonic()
        for request in running:
            if now - self._began.setdefault(request, now) > _hard_limit(request, worker) + self._period:
                return f"task {request.id} runs beyond its hard time limit"
        if self._tries_to_connect(worker.consumer) or (running and isinstance(worker.pool, Solo)):
            return ""
        if now - self._turned > self._period:
            return "the event loop stands still"
        return _deaf(worker, self._period) or self._left_lying(worker, running)

    def _tries_to_connect(self, consumer: Any) -> bool:
        """Whether it has just tried the broker. One that gets through to it but no further is not excused for long."""
        tried = consumer.broker_connection_retry_attempt
        if tried != self._tried[0]:
            self._tried = (tried, time.monotonic())
        return time.monotonic() - self._tried[1] < self._period

    def _left_lying(self, worker: Any, running: list[Any]) -> str:
        """A task that waits beside a free slot was given to a pool process that is stopped, or its slot has leaked."""
        free = worker.pool.num_processes - len(running)
        waiting = set(_snapshot(state.reserved_requests)).difference(running) if free > 0 else set()
        before, self._left = self._left, waiting
        return "a task waits, a slot is free, and they do not meet" if before & waiting else ""


def _deaf(worker: Any, patience_s: float) -> str:
    """The prefetch window has room, but nothing has been asked of the broker for a while; or it is full of nothing."""
    consumer = worker.consumer.task_consumer
    channel = consumer.channel if consumer else None
    if channel is None or not channel.active_queues:
        return ""  # it is told to consume nothing
    if not channel.qos.can_consume():
        return "" if state.reserved_requests else "the prefetch window is full, but of no task"
    asked = channel._brpop_sent_at
    return "" if asked and time.monotonic() - asked < patience_s else "it asks the broker for nothing"


def _hard_limit(request: Any, worker: Any) -> float:
    own = request.time_limits[0] if request.time_limits else None
    return own or request.task.time_limit or worker.time_limit or float("inf")


def _snapshot(requests: Any) -> list[Any]:
    while True:
        try:
            return list(requests)
        except RuntimeError:  # another thread changed the set
            continue
