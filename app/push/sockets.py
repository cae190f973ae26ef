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
    TRY_LATER,
    Message,
    Receive,
    Scope,
    Send,
    headers_of,
)
from push.identity import origin_is_ours
from push.messages import SEND_TIMEOUT_S, client_told, message_of
from push.watcher import GoingAway, SignedOut, TooMany, UnknownJob, follow

log = structlog.get_logger(__name__)


class JobSocket(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One client that follows one job. What the client sends is ignored; gunicorn closes on large messages (1009)."""

    _following: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """However the connection ends, the task that follows the job ends with it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._following is not None:
                self._following.cancel()

    async def dispatch(self, message: Message) -> None:
        """Channels' own uses the database thread for each message of a client; ours does not need to."""
        await getattr(self, get_handler_name(message))(message)

    async def websocket_disconnect(self, message: Message) -> None:
        """Channels' own leaves groups and closes connections in the database thread; ours has neither."""
        raise StopConsumer

    async def connect(self) -> None:
        """Accepts even what is then closed: a browser sees a close code, but not why a handshake was refused."""
        await self.accept()
        if not origin_is_ours(headers_of(self.scope)):
            await self.close(NOT_OURS)
        elif self.scope["identity"] is None:
            await self.close(SIGN_IN)
        else:
            self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        try:
            await self.close(await self._tell())
        except OSError as error:
            log.debug("client left before the job ended", error=str(error))
        except Exception:
            log.exception("following a job failed: closing the socket")
            await self.close(INTERNAL)

    async def _tell(self) -> int:
        """Send until the job has ended; the code to close with."""
        try:
            async with aclosing(follow(self.scope["url_route"]["kwargs"]["job_id"], self.scope["identity"])) as changes:
                async for job in changes:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await self.send(message_of(job))
                    client_told(job)
        except UnknownJob:
            return NO_SUCH_JOB
        except SignedOut:
            return SIGN_IN
        except GoingAway:
            return RESTART
        except (TooMany, DatabaseError, TimeoutError):
            return TRY_LATER
        return NORMAL


async def no_such_socket(scope: Scope, receive: Receive, send: Send) -> None:
    """Any other address: closed like one of a job that does not exist."""
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": NO_SUCH_JOB})
