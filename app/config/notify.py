"""Tells systemd how a process of ours is (sd_notify(3), Type=notify); where nobody listens, does nothing."""

import os

import structlog
from gunicorn.systemd import sd_notify

log = structlog.get_logger(__name__)


def ready() -> None:
    """The process does its work from here on."""
    sd_notify("READY=1", log)


def stopping() -> None:
    """The process takes nothing new and ends what it runs."""
    sd_notify("STOPPING=1", log)


def watchdog_s() -> float:
    """Seconds within which systemd wants to hear `alive` again and again; 0: it does not."""
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 if os.environ.get("NOTIFY_SOCKET") else 0.0


def alive(status: str, starting_s: float = 0) -> None:
    """The process is well; one that is still starting asks for so many seconds more."""
    more = f"\nEXTEND_TIMEOUT_USEC={starting_s * 1e6:.0f}" if starting_s else ""
    sd_notify(f"WATCHDOG=1\nSTATUS={status}{more}", log)
