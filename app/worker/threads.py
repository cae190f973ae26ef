"""A threads pool that does not lose slots; config/celery.py registers it in the place of Celery's own.

Celery's threads pool (5.7.0) ignores an error that escapes a task's own handling (the result backend or the broker
refuses the task's end): the task stays unacknowledged, its prefetch slot is lost for ever, and nothing is logged.
"""

import os
import signal
from concurrent.futures import Future
from typing import Any

import structlog
from celery.concurrency import thread

log = structlog.get_logger(__name__)


class TaskPool(thread.TaskPool):  # type: ignore[misc]
    """Shuts the worker down warmly when a task's end was lost: other tasks finish, its message is delivered again."""

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        applied = super().on_apply(*args, **kwargs)
        applied.f.add_done_callback(_end_worker_if_lost)
        return applied


def _end_worker_if_lost(future: "Future[None]") -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        log.critical("the end of a task was lost: this worker shuts down, systemd starts it again", error=repr(error))
        os.kill(os.getpid(), signal.SIGTERM)
