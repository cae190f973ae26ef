"""Tells clients how their jobs get on: a WebSocket, and a text/event-stream twin that `curl -N` can read.

Both send the job as it is, then each change, and end after the terminal one. They are served by the push process
(config/asgi.py), where a connection costs a few kilobytes instead of a thread.
"""

import asyncio
import json
import signal
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import structlog
from channels.auth import AuthMiddlewareStack
from channels.consumer import get_handler_name
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.db import Error as DatabaseError
from django.utils.http import is_same_domain
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from jobs import services, tokens
from jobs.models import Job
from jobs.problems import MEDIA_TYPE, RETRY_AFTER_S, body_of
from jobs.schemas import as_json, iso
from jobs.watch import WATCHER, GoingAway, UnknownJob, follow

log = structlog.get_logger(__name__)
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SLOW_S = 30.0  # a client that takes nothing for this long is let go
MAX_CLIENT_MESSAGE = 4096
NORMAL, TOO_BIG, INTERNAL, RESTART, TRY_LATER = 1000, 1009, 1011, 1012, 1013
SIGN_IN, NOT_OURS, NO_SUCH_JOB = 4401, 4403, 4404


def message_of(job: Job | None) -> str:
    """What both transports send: the job, or (None) a sign of life."""
    body: dict[str, Any] = {"type": "job", "job": as_json(job)} if job else {"type": "alive"}
    return json.dumps(body | {"sent_at": iso(datetime.now(UTC))})


def told(job: Job | None) -> None:
    """After a message has gone out: note, once and in nobody's way, that a client knows of the end."""
    if job is None or not job.finished or job.notified_at:
        return
    NOTES.add(job.pk)


class Notes:
    """Writes who has been told, one statement at a time: what ends during one is written together by the next."""

    def __init__(self) -> None:
        self._told: list[uuid.UUID] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, job_id: uuid.UUID) -> None:
        """A client has just been told of this job's end."""
        self._told.append(job_id)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._told:
            told, self._told = self._told, []
            try:
                await database_sync_to_async(services.mark_notified)(told)
            except DatabaseError as error:
                log.warning("notify times not kept", jobs=len(told), error=str(error))


NOTES = Notes()


def headers_of(scope: Scope) -> dict[str, str]:
    """The request's headers, lower-case names."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


# ---- who asks -------------------------------------------------------------------------------------------------------


def signed_in(inner: App) -> App:
    """Puts the user into the scope: the bearer token's if there is an Authorization header, else the session's."""
    by_session = AuthMiddlewareStack(inner)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        header = headers_of(scope).get("authorization")
        if header is None:
            await by_session(scope, receive, send)
        else:
            await inner({**scope, "user": await _user_of(header)}, receive, send)

    return app


@database_sync_to_async  # type: ignore[untyped-decorator]
def _user_of(header: str) -> Any:
    scheme, _, token = header.partition(" ")
    return (tokens.user_of(token) if scheme.lower() == "bearer" else None) or AnonymousUser()


def origin_is_ours(headers: dict[str, str]) -> bool:
    """Browsers say which page opens a WebSocket, and send our cookie whichever it is; other clients send no Origin."""
    origin = headers.get("origin")
    if origin is None:
        return True
    scheme, _, host = origin.lower().partition("://")
    if host and host == headers.get("host", "").lower():
        return True
    trusted = (one.lower().partition("://") for one in settings.CSRF_TRUSTED_ORIGINS)
    return any(scheme == one and is_same_domain(host, pattern.lstrip("*")) for one, _, pattern in trusted)


def database_may_be_away(inner: App) -> App:
    """Waits for it when not even the user can be looked up; in the end says "later" in the client's own protocol."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        deadline = time.monotonic() + settings.ENV.database_wait_s
        while True:
            talk = Talk(receive, send)
            try:
                return await inner(scope, talk.receive, talk.send)
            except DatabaseError as error:
                log.warning("database away", path=scope["path"], error=str(error))
                if talk.begun or time.monotonic() > deadline:
                    return await _later(scope, send)
            await asyncio.sleep(0.5)

    return app


class Talk:
    """Knows whether anything has been said to the client or heard from it, so that starting again would be noticed."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.begun = False
        self._receive, self._send = receive, send

    async def receive(self) -> Message:
        """What the client says."""
        self.begun = True
        return await self._receive()

    async def send(self, message: Message) -> None:
        """What the client is told."""
        self.begun = True
        await self._send(message)


async def _later(scope: Scope, send: Send) -> None:
    if scope["type"] == "http":
        await problem(send, 503, retry_after=str(RETRY_AFTER_S))
    else:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": TRY_LATER})


# ---- WebSocket ------------------------------------------------------------------------------------------------------


class JobSocket(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One client that follows one job. What the client says is not listened to."""

    _following: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """However this ends, nobody goes on following for a client that has left."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._following is not None:
                self._following.cancel()

    async def dispatch(self, message: Message) -> None:
        """Channels' own goes through the database thread for each message of the client's; ours need not."""
        await getattr(self, get_handler_name(message))(message)

    async def websocket_disconnect(self, message: Message) -> None:
        """Channels' own leaves groups, and tidies up in the database thread: ours is in none, and used nothing."""
        raise StopConsumer

    async def connect(self) -> None:
        """Accepts first: a browser is not told why a handshake was refused, but it sees a close code."""
        await self.accept()
        if not origin_is_ours(headers_of(self.scope)):
            await self.close(NOT_OURS)
        elif not self.scope["user"].is_authenticated:
            await self.close(SIGN_IN)
        else:
            self._following = asyncio.create_task(self._follow())

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Nothing is expected; a flood is refused."""
        if len(text_data or bytes_data or "") > MAX_CLIENT_MESSAGE:
            await self.close(TOO_BIG)

    async def _follow(self) -> None:
        try:
            await self.close(await self._tell())
        except OSError as error:
            log.debug("client left", error=str(error))
        except Exception:
            log.exception("following a job failed")
            await self.close(INTERNAL)

    async def _tell(self) -> int:
        """Send until the job has ended; the code to close with."""
        try:
            async with aclosing(follow(self.scope["url_route"]["kwargs"]["job_id"], self.scope["user"].pk)) as changes:
                async for job in changes:
                    async with asyncio.timeout(SLOW_S):
                        await self.send(message_of(job))
                    told(job)
        except UnknownJob:
            return NO_SUCH_JOB
        except GoingAway:
            return RESTART
        except (DatabaseError, TimeoutError):
            return TRY_LATER
        return NORMAL


async def no_such_socket(scope: Scope, receive: Receive, send: Send) -> None:
    """Any other address: closed like a job that does not exist."""
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": NO_SUCH_JOB})


# ---- text/event-stream ----------------------------------------------------------------------------------------------

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would wait for more
    "x-content-type-options": "nosniff",
}
RETRY = b"retry: 1000\n"


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """The event stream of one job; what is wrong is said before the stream starts."""
    if scope["method"] != "GET":
        await problem(send, 405, allow="GET")
    elif not scope["user"].is_authenticated:
        await problem(send, 401, www_authenticate='Bearer realm="headrace"')
    else:
        async with aclosing(follow(scope["url_route"]["kwargs"]["job_id"], scope["user"].pk)) as changes:
            await _stream(scope, receive, send, changes)


async def _stream(scope: Scope, receive: Receive, send: Send, changes: AsyncGenerator[Job | None, None]) -> None:
    try:
        job = await anext(changes)
    except UnknownJob:
        await problem(send, 404, "You have no job with this id; see GET /api/jobs for those you have.")
    except GoingAway:
        await problem(send, 503, "This process is about to restart; try again.", retry_after="1")
    else:
        if job and job.finished and headers_of(scope).get("last-event-id") == str(job.version):
            await _respond(send, 204)  # an EventSource that has seen the end connects again until it is told this
        else:
            await _while_connected(_send_events(send, job, changes), receive)


async def _send_events(send: Send, first: Job | None, changes: AsyncGenerator[Job | None, None]) -> None:
    await _start(send, 200, STREAM_HEADERS)
    await _send_event(send, first, RETRY)
    try:
        async for job in changes:
            await _send_event(send, job)
    except (GoingAway, UnknownJob, DatabaseError, TimeoutError):
        pass  # the stream ends without a terminal event, so the client connects again
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, job: Job | None, before: bytes = b"") -> None:
    event = f"id: {job.version}\nevent: job\ndata: {message_of(job)}\n\n" if job else ": still here\n\n"
    async with asyncio.timeout(SLOW_S):
        await send({"type": "http.response.body", "body": before + event.encode(), "more_body": True})
    told(job)


async def _while_connected(work: Awaitable[None], receive: Receive) -> None:
    """Do the work until it is done or the client has left."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(_client_left(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        [outcome, _] = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
        raise outcome


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# ---- plain HTTP -----------------------------------------------------------------------------------------------------


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _respond(send: Send, status: int, body: bytes = b"", **headers: str) -> None:
    length = {} if status == 204 else {"content_length": str(len(body))}
    await _start(send, status, headers | length)
    await send({"type": "http.response.body", "body": body})


async def problem(send: Send, status: int, detail: str = "", **headers: str) -> None:
    """An RFC 9457 answer."""
    await _respond(send, status, json.dumps(body_of(status, detail)).encode(), content_type=MEDIA_TYPE, **headers)


async def not_here(scope: Scope, receive: Receive, send: Send) -> None:
    """The push process serves nothing else."""
    await problem(send, 404, "The web process serves this address; route only /ws/ and /api/jobs/{id}/events here.")


async def healthz(scope: Scope, receive: Receive, send: Send) -> None:
    """The process answers."""
    await _respond(send, 200, b"ok", content_type="text/plain")


METRICS = CollectorRegistry()
Gauge("headrace_push_watchers", "Clients that follow a job.", registry=METRICS).set_function(lambda: len(WATCHER))
Gauge("headrace_push_listening", "1 if hints are heard.", registry=METRICS).set_function(lambda: WATCHER.listening)
Gauge("headrace_push_tasks", "Tasks in the loop.", registry=METRICS).set_function(lambda: len(asyncio.all_tasks()))


async def metrics(scope: Scope, receive: Receive, send: Send) -> None:
    """How many clients this process serves, and whether it hears hints."""
    await _respond(send, 200, generate_latest(METRICS), content_type="text/plain; version=0.0.4; charset=utf-8")


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
