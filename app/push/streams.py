"""Event streams (text/event-stream): what the WebSocket sends, for `curl -N` and EventSource."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing

from django.conf import settings
from django.db import Error as DatabaseError

from jobs.models import Job
from jobs.problems import NO_SUCH_JOB
from push.answers import Receive, Scope, Send, headers_of, problem, respond, start
from push.messages import SEND_TIMEOUT_S, client_told, message_of
from push.watcher import GoingAway, SignedOut, TooMany, UnknownJob, follow

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # or nginx would collect events before it passes them on
    "x-content-type-options": "nosniff",
}
RETRY = b"retry: 1000\n"
TOO_MANY = f"You follow {settings.ENV.max_followed:,} jobs already: end some of the connections, or poll instead."


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """The event stream of one job; a request that is refused is answered with a problem, and no stream starts."""
    if scope["method"] != "GET":
        await problem(send, 405, allow="GET")
    elif scope["identity"] is None:
        await _sign_in(send)
    else:
        async with aclosing(follow(scope["url_route"]["kwargs"]["job_id"], scope["identity"])) as changes:
            await _stream(scope, receive, send, changes)


async def _sign_in(send: Send) -> None:
    await problem(send, 401, www_authenticate='Bearer realm="headrace"')


async def _stream(scope: Scope, receive: Receive, send: Send, changes: AsyncGenerator[Job | None, None]) -> None:
    try:
        job = await anext(changes)
    except UnknownJob:
        await problem(send, 404, NO_SUCH_JOB)
    except SignedOut:
        await _sign_in(send)
    except TooMany:
        await problem(send, 429, TOO_MANY, retry_after="5")
    except GoingAway:
        await problem(send, 503, "This process is about to restart; try again.", retry_after="1")
    else:
        if job and job.finished and headers_of(scope).get("last-event-id") == str(job.version):
            await respond(send, 204)  # an EventSource that has seen the end connects again until it gets a 204
        else:
            await _while_connected(_send_events(send, job, changes), receive)


async def _send_events(send: Send, first: Job | None, changes: AsyncGenerator[Job | None, None]) -> None:
    await start(send, 200, STREAM_HEADERS)
    await _send_event(send, first, RETRY)
    try:
        async for job in changes:
            await _send_event(send, job)
    except (GoingAway, SignedOut, UnknownJob, DatabaseError, TimeoutError):
        pass  # the stream ends without a terminal event, so the client connects again, and hears why if it may not
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, job: Job | None, before: bytes = b"") -> None:
    event = f"id: {job.version}\nevent: job\ndata: {message_of(job)}\n\n" if job else ": still here\n\n"
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await send({"type": "http.response.body", "body": before + event.encode(), "more_body": True})
    client_told(job)


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
