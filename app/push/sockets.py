"""WebSockets. A client follows one job: it is sent the job, then each change, and is closed after the job's end; or it
follows all jobs of its user, for as long as it likes.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from django.db import Error as DatabaseError

from push.answers import (
    INTERNAL,
    NO_SUCH_JOB,
    NORMAL,
    NOT_OURS,
    RESTART,
    SIGN_IN,
    TOO_OLD,
    TRY_LATER,
    Receive,
    Scope,
    Send,
    headers_of,
    query_of,
    while_connected,
)
from push.feeds import TooOld
from push.identity import origin_is_ours
from push.messages import SEND_TIMEOUT_S, News, client_told, message_of
from push.watcher import GoingAway, SignedOut, TooMany, UnknownJob, follow, follow_all

log = structlog.get_logger(__name__)
CODES = {
    UnknownJob: NO_SUCH_JOB,
    SignedOut: SIGN_IN,
    TooOld: TOO_OLD,
    GoingAway: RESTART,
    TooMany: TRY_LATER,
    TimeoutError: TRY_LATER,
}


async def one_job(scope: Scope, receive: Receive, send: Send) -> None:
    """A socket that follows one job."""
    if await _let_in(scope, receive, send):
        await _serve(follow(scope["url_route"]["kwargs"]["job_id"], scope["identity"]), receive, send)


async def all_jobs(scope: Scope, receive: Receive, send: Send) -> None:
    """A socket that follows all jobs of its user; `?since=` is the last cursor that it was sent."""
    if await _let_in(scope, receive, send):
        await _serve(follow_all(scope["identity"], query_of(scope, "since")), receive, send)


async def no_such_socket(scope: Scope, receive: Receive, send: Send) -> None:
    """Any other address: closed like one of a job that does not exist."""
    await send({"type": "websocket.accept"})
    await _close(send, NO_SUCH_JOB)


async def _let_in(scope: Scope, receive: Receive, send: Send) -> bool:
    """Accepts even what is then closed: a browser sees a close code, but not why a handshake was refused."""
    await receive()
    await send({"type": "websocket.accept"})
    if not origin_is_ours(headers_of(scope)):
        await _close(send, NOT_OURS)
    elif scope["identity"] is None:
        await _close(send, SIGN_IN)
    else:
        return True
    return False


async def _serve(changes: AsyncGenerator[News], receive: Receive, send: Send) -> None:
    """What the client sends is ignored; gunicorn closes on large messages (1009)."""
    try:
        await while_connected(_tell(changes, send), receive)
    except Exception:
        log.exception("following jobs failed: closing the socket")
        await _close(send, INTERNAL)


async def _tell(changes: AsyncGenerator[News], send: Send) -> None:
    """Send until there is nothing left to tell, and close."""
    code = NORMAL
    try:
        async with aclosing(changes):
            async for news in changes:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await send({"type": "websocket.send", "text": message_of(news)})
                client_told(news)
    except DatabaseError:
        code = TRY_LATER
    except tuple(CODES) as why:
        code = CODES[type(why)]
    await _close(send, code)


async def _close(send: Send, code: int) -> None:
    await send({"type": "websocket.close", "code": code})
