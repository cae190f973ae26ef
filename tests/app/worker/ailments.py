"""Faults that a worker can be given from inside: `celery worker --include tests.app.worker.ailments`."""

import signal
import time
from typing import Any

from celery.worker.control import control_command
from celery.worker.request import Request

from config.celery import app


class Unended(Request):  # type: ignore[misc]
    """A task whose end cannot be told, as when the broker refuses its acknowledgement."""

    def acknowledge(self) -> None:
        raise RuntimeError("nobody takes the acknowledgement")


@app.task(name="ailments.nap", soft_time_limit=None)
def nap(seconds: float) -> None:
    """Work that heeds no time limit."""
    time.sleep(seconds)


@app.task(name="ailments.unended", Request="tests.app.worker.ailments:Unended")
def unended() -> None:
    """Work whose end is lost."""


@control_command()
def stall(state: Any) -> None:
    """The event loop is blocked."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(60)


@control_command()
def deafen(state: Any) -> None:
    """The event loop turns, but asks the broker for nothing."""
    state.consumer.task_consumer.channel._brpop_start = lambda: None
