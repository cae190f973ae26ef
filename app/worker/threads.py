"""A threads pool that cannot leak its slots; config/celery.py puts it in the place of Celery's own.

Celery's threads pool throws away what escapes a task's trace (the result backend or the broker refuses the task's end):
the task stays unacknowledged, its prefetch slot is gone for ever, and nothing is logged. Celery 5.7.0 still does.
"""

import os
import signal
from concurrent.futures import Future
from typing import Any

import structlog
from celery.concurrency import thread

log = structlog.get_logger(__name__)


class TaskPool(thread.TaskPool):  # type: ignore[misc]
    """Ends the worker, warm, when a task's end was lost: the others finish, and its message is delivered again."""

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        applied = super().on_apply(*args, **kwargs)
        applied.f.add_done_callback(_heed)
        return applied


def _heed(future: "Future[None]") -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        log.critical("the end of a task was lost, so this worker ends and starts anew", error=repr(error))
        os.kill(os.getpid(), signal.SIGTERM)
