"""The client that follows all of its jobs on one WebSocket, against a server of a few lines."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from benchmarks.clients import OneSocket
from benchmarks.wire import NO_SUCH_SOCKET, Closed

BODY = {"kind": "digest", "params": {"text": "to be"}}


def _frame(kind: int, content: bytes) -> bytes:
    assert len(content) < 126
    return bytes([0x80 | kind, len(content)]) + content


def _ended(job_id: str) -> bytes:
    job = {"id": job_id, "state": "succeeded", "result": {}, "finished_at": "2026-11-28T10:00:00+00:00"}
    content = json.dumps({"type": "job", "job": job}).encode()
    return bytes([0x81, 126, *len(content).to_bytes(2, "big")]) + content


CURSOR, ALIVE = _frame(1, b'{"type": "cursor", "cursor": "7"}'), _frame(1, b'{"type": "alive"}')
CLOSING = _frame(8, NO_SUCH_SOCKET.to_bytes(2, "big"))


class Server:
    """Answers a handshake with `first`, and a POST after it has told the socket what `told` says."""

    def __init__(self, first: bytes, told: bytes = b"") -> None:
        self.first, self.told = first, told

    @asynccontextmanager
    async def running(self) -> AsyncIterator[OneSocket]:
        """A client of it."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = OneSocket(port, port, "token")
            yield client
            client.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Authorization: Bearer token\r\n" in head
        if head.startswith(b"GET /ws/jobs "):
            self.socket = writer
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + self.first)
            return
        self.socket.write(self.told)
        await asyncio.sleep(0.05)  # the client has surely read that before it has our answer
        answer = b'{"id": "one"}'
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n" + answer)


async def _one(server: Server) -> Any:
    async with asyncio.timeout(5), server.running() as client:
        return await client.one(BODY, 0.0)


def test_it_may_be_told_before_the_submit_is_answered() -> None:
    """Other jobs, and messages that are of no job, are passed over."""
    seen = asyncio.run(_one(Server(CURSOR, _ended("another") + ALIVE + _ended("one"))))
    assert seen.result == {}


@pytest.mark.parametrize(("first", "told"), [(CLOSING, b""), (CURSOR, CLOSING)], ids=["at once", "later"])
def test_whoever_waits_learns_that_the_socket_was_closed(first: bytes, told: bytes) -> None:
    with pytest.raises(Closed) as caught:
        asyncio.run(_one(Server(first, told)))
    assert caught.value.code == NO_SUCH_SOCKET
