"""The demo's edge, in the place of nginx: `gunicorn -k asgi demo.edge:application`.

WebSockets and event streams go to the push application, which lives in this very process, static files are served
here, and every other request is forwarded to the web process.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import httpcore2
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

from config.asgi import application as push
from jobs.problems import MAY_BE_DONE
from push.answers import problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

WEB = httpcore2.URL(scheme="http", host="127.0.0.1", port=int(os.environ["DEMO_WEB_PORT"]))
TIMEOUTS = {"connect": 2.0, "read": 60.0, "write": 10.0, "pool": 10.0}
# RFC 9110, 7.6.1: they are about one connection, and ours to the web process is another
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"}
HOP_BY_HOP |= {b"te", b"trailer", b"transfer-encoding", b"upgrade"}
NEVER_SENT = (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.PoolTimeout)
AWAY = "No web process answers: try again in a few seconds."
CLAIMS = {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}

# The transport alone, not `httpx2.AsyncClient`: that would keep one user's cookies and send them with the next request.
# An idle connection is closed long before gunicorn's --keep-alive, so that none is used while gunicorn closes it.
pool = httpcore2.AsyncConnectionPool(max_connections=64, keepalive_expiry=20)


def passed_on(headers: Iterable[tuple[bytes, bytes]], left_out: set[bytes]) -> Headers:
    """The headers that go to the other side."""
    headers = [(name.lower(), value) for name, value in headers]
    named = {one.strip().lower() for name, value in headers if name == b"connection" for one in value.split(b",")}
    return [(name, value) for name, value in headers if name not in left_out | named]


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, as nginx reads it before it asks the web process; None: it is larger than the limit."""
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            break
    return bytes(body)


async def forward(scope: Scope, receive: Receive, send: Send) -> None:
    """Ask the web process, and stream its answer."""
    body = await read_body(receive, settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    if body is None:
        return await problem(send, 413)
    headers = passed_on(scope["headers"], HOP_BY_HOP | CLAIMS | {b"content-length"})
    if body:
        headers.append((b"content-length", str(len(body)).encode()))
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    target = httpcore2.URL(scheme=WEB.scheme, host=WEB.host, port=WEB.port, target=scope["raw_path"] + query)
    request = httpcore2.Request(
        scope["method"], target, headers=headers, content=body, extensions={"timeout": TIMEOUTS}
    )
    try:
        response = await pool.handle_async_request(request)
    except NEVER_SENT:
        return await problem(send, 503, AWAY, retry_after="2")
    except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.RemoteProtocolError):
        harmless = scope["method"] in ("GET", "HEAD", "OPTIONS")
        return await (problem(send, 503, AWAY, retry_after="2") if harmless else problem(send, 503, MAY_BE_DONE))
    try:
        return await answer(response, send)
    finally:
        await response.aclose()


async def answer(response: httpcore2.Response, send: Send) -> None:
    """Pass an answer on, piece by piece."""
    headers = passed_on(response.headers, HOP_BY_HOP)
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    async for piece in response.aiter_stream():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


for_web = ASGIStaticFilesHandler(forward)  # type: ignore[arg-type]  # any ASGI application will do


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Every request and every WebSocket comes in here."""
    path = scope.get("path", "")
    follows = path == "/api/events" or (path.startswith("/api/jobs/") and path.endswith("/events"))
    inner: Any = for_web if scope["type"] == "http" and not follows else push
    await inner(scope, receive, send)
