"""What the push process says of itself, and how it starts and stops."""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from push.answers import Receive, Scope, Send, problem, respond
from push.watcher import WATCHER


async def not_here(scope: Scope, receive: Receive, send: Send) -> None:
    """The push process serves nothing else."""
    await problem(send, 404, "The web process serves this address; route only /ws/ and /api/jobs/{id}/events here.")


async def healthz(scope: Scope, receive: Receive, send: Send) -> None:
    """The process answers."""
    await respond(send, 200, b"ok", content_type="text/plain")


METRICS = CollectorRegistry()
Gauge("headrace_push_watchers", "Clients that follow a job.", registry=METRICS).set_function(lambda: len(WATCHER))
Gauge("headrace_push_listening", "1 if hints are heard.", registry=METRICS).set_function(lambda: WATCHER.listening)
Gauge("headrace_push_tasks", "Tasks in the loop.", registry=METRICS).set_function(lambda: len(asyncio.all_tasks()))


async def metrics(scope: Scope, receive: Receive, send: Send) -> None:
    """How many clients this process serves, and whether it hears hints."""
    await respond(send, 200, generate_latest(METRICS), content_type="text/plain; version=0.0.4; charset=utf-8")


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """On SIGTERM clients are sent away at once, so that a restart does not wait for them, nor they for it."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            _on_sigterm(WATCHER.close)
        else:
            await WATCHER.stop()
        await send({"type": f"{message['type']}.complete"})


def _on_sigterm(call: Callable[[], None]) -> None:
    """Beside the server's own handler: asyncio hears of signals through its wake-up descriptor, so that replacing the
    Python handler it installs (one that does nothing) takes nothing from it; any other is called as before.
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
