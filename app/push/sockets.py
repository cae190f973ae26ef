"""WebSockets: a client follows one job. It is sent the job, then each change; the socket closes after the job's end."""

import asyncio
from contextlib import aclosing

import structlog
from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import Error as DatabaseError

from push.answers import (
    INTERNAL,
    NO_SUCH_JOB,
    NORMAL,
    NOT_OURS,
    RESTART,
    SIGN_IN,
    TOO_BIG,
    TRY_LATER,
    Message,
    Receive,
    Scope,
    Send,
    headers_of,
)
from push.identity import origin_is_ours
from push.messages import SLOW_S, message_of, told
from push.watcher import GoingAway, UnknownJob, follow

log = structlog.get_logger(__name__)
MAX_CLIENT_MESSAGE = 4096


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
