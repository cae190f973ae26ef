"""HTTP answers of the push process, its WebSocket close codes, and the types of ASGI."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from jobs.problems import MEDIA_TYPE, body_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NORMAL, INTERNAL, RESTART, TRY_LATER = 1000, 1011, 1012, 1013
SIGN_IN, NOT_OURS, NO_SUCH_JOB, TOO_OLD = 4401, 4403, 4404, 4410


def headers_of(scope: Scope) -> dict[str, str]:
    """The request's headers, lower-case names."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def query_of(scope: Scope, name: str) -> str:
    """A value in the request's query, or nothing. Its bytes are the client's, and need not be UTF-8."""
    query: str = scope["query_string"].decode("latin-1")
    return parse_qs(query).get(name, [""])[0]


async def start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def respond(send: Send, status: int, body: bytes = b"", **headers: str) -> None:
    length = {} if status == 204 else {"content_length": str(len(body))}
    await start(send, status, headers | length)
    await send({"type": "http.response.body", "body": body})


async def problem(send: Send, status: int, detail: str = "", **headers: str) -> None:
    """An RFC 9457 answer."""
    await respond(send, status, json.dumps(body_of(status, detail)).encode(), content_type=MEDIA_TYPE, **headers)


async def while_connected(work: Awaitable[None], receive: Receive) -> None:
    """Do the work until it is done or the client has left. It is done in this task, as every task takes memory."""
    working, left = asyncio.current_task(), asyncio.ensure_future(_client_left(receive))
    over = False

    def stop(_: "asyncio.Task[None]") -> None:
        if working and not over:
            working.cancel()

    left.add_done_callback(stop)
    try:
        await work
    except OSError:
        pass  # it left while something was sent
    except asyncio.CancelledError:
        if not left.done() or (working and working.uncancel()):
            raise  # we are told to end
    finally:
        over = True
        left.cancel()


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
        pass
