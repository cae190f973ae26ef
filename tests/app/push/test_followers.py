"""What the followers of one job cost a push process: statements, none of them for each."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection

from config.asgi import application
from jobs import services, tokens
from jobs.submit import Submission, submit
from jobs.tokens import create_token
from push import watcher
from push.messages import NOTIFIED
from tests.app.wire import statements

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite is on no wire"),
]
MANY, FEW = 60, 5
PATIENCE_S = 20


class Client:
    """A WebSocket of one job, on the application itself."""

    def __init__(self, job_id: uuid.UUID, token: str) -> None:
        headers = [(b"authorization", f"Bearer {token}".encode())]
        self.scope = {"type": "websocket", "path": f"/ws/jobs/{job_id}", "query_string": b"", "headers": headers}
        self.states: list[str] = []
        self._coming = [{"type": "websocket.connect"}]

    async def run(self) -> None:
        await application(self.scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        return self._coming.pop() if self._coming else await asyncio.Future()

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            self.states.append(json.loads(message["text"])["job"]["state"])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def counted() -> AsyncIterator[list[str]]:
    """What push sends to PostgreSQL meanwhile: its calls run in the thread of the test, and so does this."""
    stack = ExitStack()
    sent = await sync_to_async(stack.enter_context)(statements())
    try:
        yield sent
    finally:
        await sync_to_async(stack.close)()


def elsewhere(call: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
    """As a worker would: on a connection of its own."""

    def run() -> Any:
        try:
            return call(*arguments)
        finally:
            connection.close()

    return asyncio.to_thread(run)


@pytest.fixture(autouse=True)
def patient(empty_broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process knows it takes for true, and it asks nothing because time has passed."""
    tokens.forget()
    for name in ("config.postgresql.base.TRUSTED_FOR_S", "jobs.tokens.KNOWN_FOR_S", "push.watcher.POLL_S"):
        monkeypatch.setattr(name, 600.0)
    monkeypatch.setattr(watcher, "WATCHER", watcher.Watcher())


def test_many_followers_of_one_job_cost_no_statement_each(user: Any) -> None:
    """When they open after the first, when the job changes, and when it ends."""
    [(job, _)] = submit(user.pk, [Submission("digest", {})])
    token = create_token(user)

    async def life() -> tuple[int, int, int]:
        clients = [Client(job.pk, token) for _ in range(MANY)]

        async def all_have_heard(state: str) -> None:
            await until(lambda: all(client.states[-1:] == [state] for client in clients))

        async with asyncio.TaskGroup() as group:
            group.create_task(clients[0].run())
            await until(lambda: bool(clients[0].states) and watcher.WATCHER.listening)
            async with counted() as opening:
                for client in clients[1:]:
                    group.create_task(client.run())
                await all_have_heard("queued")
            async with counted() as changing:
                claim = await elsewhere(services.claim, job.pk, "quick-1@host", "solo")
                await all_have_heard("running")
            async with counted() as ending:
                await elsewhere(services.succeed, claim, {"words": 3})
                await all_have_heard("succeeded")
                await until(lambda: NOTIFIED._task is not None and NOTIFIED._task.done())
        await watcher.WATCHER.stop()
        return len(opening), len(changing), len(ending)

    opening, changing, ending = async_to_sync(life)()
    assert opening <= FEW  # the look for hints that were sent before the subscription
    assert changing == 0
    assert ending <= FEW  # when the first client was told
