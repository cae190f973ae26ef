"""HTTP/1.1 and WebSocket, as little of them as a client of our own needs.

A client library costs more CPU for a request than the server, and on one machine that CPU is the server's.
"""

import asyncio
import base64
import json
import os
import ssl
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from benchmarks import BenchError

TEXT, CLOSE = 1, 8
GOODBYE = b"\x88\x82\x00\x00\x00\x00" + struct.pack("!H", 1000)  # NORMAL, masked with zeros, as a client must
NORMAL, NO_SUCH_SOCKET = 1000, 4404
Json = dict[str, Any]


class Closed(BenchError):
    """The server has closed a WebSocket before its time."""

    def __init__(self, path: str, code: int) -> None:
        super().__init__(f"The WebSocket {path} was closed with {code}.")
        self.code = code


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of what comes next."""
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.rstrip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    def close(self) -> None:
        self.writer.close()


class Http:
    """Requests to one server; a connection that the server keeps is used again."""

    def __init__(self, port: int, credentials: dict[str, str]) -> None:
        self.port = port
        self.lines = "".join(f"{name}: {value}\r\n" for name, value in credentials.items())
        self._idle: list[Connection] = []

    async def _connection(self) -> Connection:
        while self._idle:
            kept = self._idle.pop()
            if not kept.reader.at_eof():
                return kept
            kept.close()
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """One request, its status and its JSON."""
        content = json.dumps(body).encode() if body is not None else b""
        typed = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if body is not None else ""
        connection = await self._connection()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{self.lines}{typed}\r\n"
        connection.writer.write(head.encode() + content)
        status, headers = await connection.head()
        answer = await connection.reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            connection.close()
        else:
            self._idle.append(connection)
        if not headers.get("content-type", "").endswith("json"):
            raise BenchError(f"{method} {path} was answered {status} without JSON: {answer[:200].decode()}.")
        return status, json.loads(answer)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


async def messages(port: int, path: str, lines: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Json, None]:
    """What a WebSocket says, until it is closed or we have heard enough.

    Raises:
        Closed: with another code than that of a good end.
    """
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    connection.writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}{upgrade}\r\n".encode())
    try:
        status, _ = await connection.head()
        if status != 101:
            raise BenchError(f"The WebSocket {path} was answered {status}.")
        while (frame := await _frame(connection.reader))[0] != CLOSE:
            if frame[0] == TEXT:
                yield json.loads(frame[1])
        [code] = struct.unpack("!H", frame[1][:2])
        if code != NORMAL:
            raise Closed(path, code)
    finally:
        connection.writer.write(GOODBYE)
        connection.close()


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """One frame of a server: never masked, and ours never come in pieces."""
    first, length = await reader.readexactly(2)
    if length == 126:
        [length] = struct.unpack("!H", await reader.readexactly(2))
    elif length == 127:
        [length] = struct.unpack("!Q", await reader.readexactly(8))
    return first & 0x0F, await reader.readexactly(length)
