"""Tells systemd the state of this process (sd_notify(3), Type=notify). Without systemd it does nothing."""

import os

import structlog
from gunicorn.systemd import sd_notify

log = structlog.get_logger(__name__)


def ready() -> None:
    """The process has started and does its work from here on."""
    sd_notify("READY=1", log)


def stopping() -> None:
    """The process takes no new work and finishes what it runs."""
    sd_notify("STOPPING=1", log)


def watchdog_s() -> float:
    """Seconds that may pass at most between two calls of `alive`; 0: this process has no watchdog."""
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 if os.environ.get("NOTIFY_SOCKET") else 0.0


def alive(status: str, starting_s: float = 0) -> None:
    """Feed the watchdog; a process that is still starting also asks for `starting_s` seconds more to start."""
    more = f"\nEXTEND_TIMEOUT_USEC={starting_s * 1e6:.0f}" if starting_s else ""
    sd_notify(f"WATCHDOG=1\nSTATUS={status}{more}", log)
