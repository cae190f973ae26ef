"""Event streams (text/event-stream): what the WebSocket sends, for `curl -N` and EventSource."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from django.conf import settings
from django.db import Error as DatabaseError

from jobs.problems import NO_SUCH_JOB
from push.answers import Receive, Scope, Send, headers_of, problem, query_of, respond, start, while_connected
from push.book import Known
from push.feeds import Cursor, TooOld
from push.messages import SEND_TIMEOUT_S, News, client_told, message_of
from push.watcher import GoingAway, SignedOut, TooMany, UnknownJob, follow, follow_all

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # or nginx would collect events before it passes them on
    "x-content-type-options": "nosniff",
}
RETRY = b"retry: 1000\n"
TOO_MANY = f"You follow {settings.ENV.max_followed:,} jobs already: end some of the connections, or poll instead."


async def one_job(scope: Scope, receive: Receive, send: Send) -> None:
    """The event stream of one job; a request that is refused is answered with a problem, and no stream starts."""
    if await _let_in(scope, send):
        async with aclosing(follow(scope["url_route"]["kwargs"]["job_id"], scope["identity"])) as changes:
            await _stream(scope, receive, send, changes)


async def all_jobs(scope: Scope, receive: Receive, send: Send) -> None:
    """The event stream of all jobs of a user, from now on; or from the last cursor, which is the last event's id."""
    if await _let_in(scope, send):
        since = headers_of(scope).get("last-event-id", query_of(scope, "since"))
        async with aclosing(follow_all(scope["identity"], since)) as changes:
            await _stream(scope, receive, send, changes)


async def _let_in(scope: Scope, send: Send) -> bool:
    if scope["method"] != "GET":
        await problem(send, 405, allow="GET")
    elif scope["identity"] is None:
        await _sign_in(send)
    else:
        return True
    return False


async def _sign_in(send: Send) -> None:
    await problem(send, 401, www_authenticate='Bearer realm="headrace"')


async def _stream(scope: Scope, receive: Receive, send: Send, changes: AsyncGenerator[News]) -> None:
    try:
        first = await anext(changes)
    except UnknownJob:
        await problem(send, 404, NO_SUCH_JOB)
    except SignedOut:
        await _sign_in(send)
    except TooMany:
        await problem(send, 429, TOO_MANY, retry_after="5")
    except TooOld:
        await problem(send, 410, "This cursor is too old: list your jobs, then follow from now on, without a cursor.")
    except GoingAway:
        await problem(send, 503, "This process is about to restart; try again.", retry_after="1")
    else:
        id_of = _version_of if "job_id" in scope["url_route"]["kwargs"] else _cursor_of
        if isinstance(first, Known) and first.finished and headers_of(scope).get("last-event-id") == id_of(first):
            await respond(send, 204)  # an EventSource that has seen the end connects again until it gets a 204
        else:
            await while_connected(_send_events(send, first, changes, id_of), receive)


IdOf = Callable[[News], str]  # what an EventSource sends as Last-Event-ID when it comes back; empty: what it has


def _version_of(news: News) -> str:
    return str(news.version) if isinstance(news, Known) else ""


def _cursor_of(news: News) -> str:
    return news if isinstance(news, Cursor) else ""


async def _send_events(send: Send, first: News, changes: AsyncGenerator[News], id_of: IdOf) -> None:
    await start(send, 200, STREAM_HEADERS)
    await _send_event(send, first, id_of, RETRY)
    try:
        async for news in changes:
            await _send_event(send, news, id_of)
    except (GoingAway, SignedOut, UnknownJob, DatabaseError, TimeoutError):
        pass  # the stream ends without a terminal event, so the client connects again, and hears why if it may not
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, news: News, id_of: IdOf, before: bytes = b"") -> None:
    event = ": still here\n\n"
    if news:
        first = [f"id: {last}"] if (last := id_of(news)) else []
        name = "cursor" if isinstance(news, Cursor) else "job"
        event = "\n".join([*first, f"event: {name}", f"data: {message_of(news)}", "", ""])
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await send({"type": "http.response.body", "body": before + event.encode(), "more_body": True})
    client_told(news)
