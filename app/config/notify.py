"""Tells systemd how a process of ours is (sd_notify(3), Type=notify); where nobody listens, does nothing."""

import structlog
from gunicorn.systemd import sd_notify

log = structlog.get_logger(__name__)


def ready() -> None:
    """The process does its work from here on."""
    sd_notify("READY=1", log)


def stopping() -> None:
    """The process takes nothing new and ends what it runs."""
    sd_notify("STOPPING=1", log)


def alive(status: str) -> None:
    """The process gets on with its work: systemd's watchdog waits for this."""
    sd_notify(f"WATCHDOG=1\nSTATUS={status}", log)
