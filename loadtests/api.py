"""The clients' connections: HTTP by geventhttpclient, WebSockets by websocket-client; both cooperate with gevent.

`websockets` would need a thread for each connection, httpx2 and requests several times the CPU for each request.
"""

import contextlib
import errno
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import gevent
import websocket
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError

from loadtests import LoadError, clock

Json = dict[str, Any]
FINISHED = {"succeeded", "failed", "cancelled"}
BROKEN = (OSError, HTTPParseError)  # a connection failed; timeouts and TLS errors are OSErrors too
AWAY = {0, 502, 503, 504}  # statuses after which it is worth asking again; 0 is no answer at all
FINAL = range(4000, 5000)  # close codes of our application: connecting again will not help
RECONNECT_S = 0.2
PATIENCE_S = 30.0


class NotAccepted(Exception):
    """A request did not succeed; the text is the server's sentence, or says what happened to the connection."""

    def __init__(self, what: str, status: int = 0) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """An answer, and when its request was sent and it was received, on our clock (clock.py)."""

    status: int
    body: Any
    sent: float
    received: float


@dataclass(frozen=True)
class Target:
    """The server's address, the token, and a file of the CA to trust (None: the system's)."""

    host: str
    token: str
    ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS that verifies the server's certificate.

        Raises:
            LoadError: the file of the CA cannot be read.
        """
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise LoadError(f"--ca {self.ca} cannot be read: give a file of PEM certificates.") from error


class Api:
    """A client of one Headrace; `width` is how many requests it may have open at once."""

    def __init__(self, target: Target, width: int = 1) -> None:
        parts = urlsplit(target.host)
        secure, context = parts.scheme == "https", target.context()
        port = parts.port or (443 if secure else 80)
        limits = {"concurrency": width, "connection_timeout": 10.0, "network_timeout": PATIENCE_S}
        factory = {"ssl_context_factory": lambda: context} if secure else {}
        self._http = HTTPClient(parts.hostname or "", port, ssl=secure, **limits, **factory)  # type: ignore[arg-type]
        self._sockets = f"{'wss' if secure else 'ws'}://{parts.netloc}"
        self._context = context
        self._authorization = f"Bearer {target.token}"

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: Json | None = None) -> Answer:
        """Send one request, and wait for its answer.

        Raises:
            NotAccepted: its status is not 2xx, or there was no answer.
        """
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        data = b"" if body is None else json.dumps(body).encode()
        sent = clock.now()
        try:
            status, content = self._once_more(method, path, data, headers)
        except BROKEN as error:
            raise NotAccepted(f"{method} {path}: {why(error)}") from error
        return _judged(method, path, Answer(status, _parsed(content), sent, clock.now()))

    def _once_more(self, method: str, path: str, data: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Send a request again, as browsers do, if the server closed the kept connection while it was written.

        Should the first one have arrived after all, its job was promised to nobody.
        """
        try:
            return self._send(method, path, data, headers)
        except (HTTPConnectionClosed, ConnectionResetError, BrokenPipeError):
            return self._send(method, path, data, headers)

    def _send(self, method: str, path: str, data: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        response = self._http.request(method, path, body=data, headers=headers)
        return response.status_code, bytes(response.read())

    def follow(self, path: str) -> Iterator[tuple[Json, float]]:
        """Each message of a WebSocket, and when it was received. A broken connection is made again, for ever, and goes
        on from the last cursor, if the socket tells of some.

        Raises:
            NotAccepted: the server closed it with a code of FINAL.
        """
        since = ""
        while True:
            with contextlib.suppress(*BROKEN, websocket.WebSocketException):
                for message, at in self._messages(path + since):
                    if message.get("type") == "cursor":
                        since = f"?since={quote(message['cursor'])}"
                    yield message, at
            gevent.sleep(RECONNECT_S)

    def _messages(self, path: str) -> Iterator[tuple[Json, float]]:
        connection = websocket.create_connection(
            self._sockets + path,
            header=[f"Authorization: {self._authorization}"],
            sslopt={"context": self._context},
            timeout=PATIENCE_S,
            http_no_proxy=["*"],
            skip_utf8_validation=True,
            enable_multithread=False,
        )
        with contextlib.closing(connection):
            while True:
                opcode, data = connection.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    return _closed(path, data)
                yield json.loads(data), clock.now()


def _closed(path: str, data: bytes) -> None:
    code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005
    if code in FINAL:
        raise NotAccepted(f"the WebSocket {path} was closed with {code}", code)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _judged(method: str, path: str, answer: Answer) -> Answer:
    if 200 <= answer.status < 300:
        return answer
    detail = answer.body.get("detail") if isinstance(answer.body, dict) else None
    raise NotAccepted(f"{method} {path}: {detail or 'answered ' + str(answer.status)}", answer.status)


def why(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not believed ({error.verify_message})"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "it refuses the connection"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
