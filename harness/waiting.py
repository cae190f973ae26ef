"""Conditions to wait for, and ports of this machine."""

import contextlib
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float = 30, why: str = "") -> T:
    """Poll a condition until it is true; its value.

    Raises:
        TimeoutError: it was not true within `seconds`; the text ends with `why`.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {why or condition}")
        time.sleep(0.05)
    return value


def answers(port: int, address: str = "127.0.0.1") -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def free_ports(number: int) -> list[int]:
    """Distinct ports that nobody uses now; somebody else may take one before we do."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in sockets]


def free_port() -> int:
    """A port that nobody uses now."""
    return free_ports(1)[0]
