"""Until the client was told something, a database that is away is waited for; then the client is told to try later."""

import asyncio
import time

import structlog
from django.conf import settings
from django.db import Error as DatabaseError

from push.answers import TRY_LATER, App, Message, Receive, Scope, Send, problem

log = structlog.get_logger(__name__)


def wait_for_database(inner: App) -> App:
    """Runs an application again when not even the user can be looked up; after `database_wait_s`: 503, or a close."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        deadline = time.monotonic() + settings.ENV.database_wait_s
        while True:
            talk = Conversation(receive, send)
            try:
                return await inner(scope, talk.receive, talk.send)
            except DatabaseError as error:
                if talk.begun or time.monotonic() > deadline:
                    log.warning("database out of reach: giving up", path=scope["path"], error=str(error))
                    return await try_later(scope, send)
                log.warning("database out of reach: trying again", path=scope["path"], error=str(error))
            await asyncio.sleep(0.5)

    return app


class Conversation:
    """Knows whether anything was sent to the client or read from it: then the application cannot be run again."""

    __slots__ = ("_receive", "_send", "begun")

    def __init__(self, receive: Receive, send: Send) -> None:
        self.begun = False
        self._receive, self._send = receive, send

    async def receive(self) -> Message:
        """The client's next message."""
        self.begun = True
        return await self._receive()

    async def send(self, message: Message) -> None:
        """A message to the client."""
        self.begun = True
        await self._send(message)


async def try_later(scope: Scope, send: Send) -> None:
    if scope["type"] == "http":
        await problem(send, 503, retry_after=str(settings.RETRY_AFTER_S))
    else:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": TRY_LATER})
