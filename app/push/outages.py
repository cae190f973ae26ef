"""A database that is away is waited for before a client is told anything; then it is told to come back later."""

import asyncio
import time

import structlog
from django.conf import settings
from django.db import Error as DatabaseError

from jobs.problems import RETRY_AFTER_S
from push.answers import TRY_LATER, App, Message, Receive, Scope, Send, problem

log = structlog.get_logger(__name__)


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
                    return await come_later(scope, send)
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


async def come_later(scope: Scope, send: Send) -> None:
    if scope["type"] == "http":
        await problem(send, 503, retry_after=str(RETRY_AFTER_S))
    else:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": TRY_LATER})
