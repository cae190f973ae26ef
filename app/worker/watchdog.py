"""Feeds systemd's watchdog while a worker can do its work; systemd restarts a worker that does not feed it.

A thread feeds it, because the event loop cannot always: it is blocked while the solo pool runs a task and while the
worker connects to its broker. An absent broker is no reason to stop, because a restart would not bring it back.
"""

import threading
import time
from typing import Any

import structlog
from celery import bootsteps
from celery.concurrency.solo import TaskPool as Solo
from celery.worker import state

from config import notify
from worker.attempt import ending
from worker.lease import Ages, snapshot

log = structlog.get_logger(__name__)


class Watchdog(bootsteps.StartStopStep):  # type: ignore[misc]
    """A worker bootstep: starts with the pool, before the worker has ever connected."""

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._period = notify.watchdog_s() / 3  # two feeds may be late, as on a host whose cores are all busy
        self._stopped = threading.Event()
        self._looped_at = time.monotonic()  # when the event loop last ran our timer
        self._tried = (0, time.monotonic())
        self._not_started_before: set[Any] = set()
        self._ages = Ages()

    def include_if(self, worker: Any) -> bool:
        """Only where systemd asks for it."""
        return notify.watchdog_s() > 0

    def start(self, worker: Any) -> None:
        """Begin to feed."""
        worker.timer.call_repeatedly(self._period / 2, self._looped)
        threading.Thread(target=self._feed, args=(worker,), name="watchdog", daemon=True).start()

    def stop(self, worker: Any) -> None:
        """The pool has stopped: from here on TimeoutStopSec decides."""
        self._stopped.set()

    terminate = stop

    def _looped(self) -> None:
        self._looped_at = time.monotonic()

    def _feed(self, worker: Any) -> None:
        while not self._stopped.wait(self._period):
            try:
                ailment = self.ailment(worker)
            except Exception as error:  # noqa: BLE001  (a check that fails counts as a fault, and is made again)
                ailment = repr(error)
            if ailment:
                log.critical("watchdog not fed: systemd will restart this worker if this lasts", why=ailment)
                continue
            consumer = worker.consumer
            connecting = consumer.broker_connection_retry_attempt
            status = f"the broker is away, attempt {connecting}" if connecting else "consuming"
            notify.alive(status, starting_s=3 * self._period if consumer.first_connection_attempt else 0)

    def ailment(self, worker: Any) -> str:
        """Why a restart would help this worker, in a few words; empty while it is well."""
        if state.should_stop is not None or state.should_terminate is not None:
            return ""  # it drains, for as long as TimeoutStopSec allows
        running = snapshot(state.active_requests)
        for request in running:
            if request.id not in ending and self._ages.of(request) > _hard_limit(request, worker) + self._period:
                return f"task {request.id} runs beyond its hard time limit"
        if self._tries_to_connect(worker.consumer) or (running and isinstance(worker.pool, Solo)):
            return ""
        if time.monotonic() - self._looped_at > self._period:
            return "the event loop is blocked"
        return _not_consuming(worker, self._period) or self._not_started(worker, running)

    def _tries_to_connect(self, consumer: Any) -> bool:
        """Whether it tried to connect within the last period; one that has connected and then hangs is not excused."""
        tried = consumer.broker_connection_retry_attempt
        if tried != self._tried[0]:
            self._tried = (tried, time.monotonic())
        return time.monotonic() - self._tried[1] < self._period

    def _not_started(self, worker: Any, running: list[Any]) -> str:
        """A pool process is stopped, or the pool has lost a slot: a fault if it lasts from one check to the next."""
        free = worker.pool.num_processes - len(running)
        waiting = set(snapshot(state.reserved_requests)).difference(running) if free > 0 else set()
        before, self._not_started_before = self._not_started_before, waiting
        return "a reserved task was not started although a slot is free" if before & waiting else ""


def _not_consuming(worker: Any, patience_s: float) -> str:
    """The prefetch window has room, but the consumer does not ask the broker; or it is full without a task."""
    consumer = worker.consumer.task_consumer
    channel = consumer.channel if consumer else None
    if channel is None or not channel.active_queues:
        return ""  # it was told to consume from no queue
    if not channel.qos.can_consume():
        return "" if state.reserved_requests else "the prefetch window is full although no task is reserved"
    asked = channel._brpop_sent_at
    return "" if asked and time.monotonic() - asked < patience_s else "the consumer asks the broker for no messages"


def _hard_limit(request: Any, worker: Any) -> float:
    own = request.time_limits[0] if request.time_limits else None
    return own or request.task.time_limit or worker.time_limit or float("inf")
