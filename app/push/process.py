"""The push process itself: its health, its metrics, its start and its stop."""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from push.answers import Receive, Scope, Send, problem, respond
from push.watcher import WATCHER


async def not_here(scope: Scope, receive: Receive, send: Send) -> None:
    """Every address that the push process does not serve."""
    mend = "route only /ws/, /api/events and /api/jobs/{id}/events here"
    await problem(send, 404, f"The web process serves this address; {mend}.")


async def healthz(scope: Scope, receive: Receive, send: Send) -> None:
    """The process answers."""
    await respond(send, 200, b"ok", content_type="text/plain")


METRICS = CollectorRegistry()
Gauge("headrace_push_watchers", "Clients that follow a job.", registry=METRICS).set_function(lambda: len(WATCHER))
Gauge("headrace_push_listening", "1 if hints are heard.", registry=METRICS).set_function(lambda: WATCHER.listening)
Gauge("headrace_push_tasks", "Tasks in the loop.", registry=METRICS).set_function(lambda: len(asyncio.all_tasks()))


async def metrics(scope: Scope, receive: Receive, send: Send) -> None:
    """How many clients this process serves, and whether it receives hints."""
    await respond(send, 200, generate_latest(METRICS), content_type="text/plain; version=0.0.4; charset=utf-8")


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """On SIGTERM all clients are disconnected at once, so that a restart does not wait for them; they connect again."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            _on_sigterm(WATCHER.close)
        else:
            await WATCHER.stop()
        await send({"type": f"{message['type']}.complete"})


def _on_sigterm(call: Callable[[], None]) -> None:
    """Call this on SIGTERM, besides what the server does. asyncio learns of signals by its wake-up descriptor, so the
    Python handler that it installs (which does nothing) can be replaced; any other handler is still called.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(call)
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)
