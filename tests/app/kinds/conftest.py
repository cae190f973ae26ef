"""A web site on loopback that the guard lets through, and a progress that remembers."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kinds.base import Stopped

Route = Callable[[BaseHTTPRequestHandler], None]


class Recorder:
    """A progress callback that keeps what it is told, and raises Stopped at the call number `stop_at`."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.shares: list[float] = []
        self.stop_at = stop_at

    def __call__(self, share: float, note: str = "") -> None:
        self.shares.append(share)
        if len(self.shares) == self.stop_at:
            raise Stopped

    def assert_sane(self) -> None:
        assert self.shares == sorted(self.shares)
        assert all(0 <= share <= 1 for share in self.shares)


class Site:
    """A server on a port of its own; `routes` are functions of the request's handler, by path."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.seen: list[tuple[str, str]] = []
        self.closing = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen.append((self.path, self.headers["Host"]))
                route = site.routes.get(self.path)
                if route is None:
                    self.send_error(404)
                else:
                    route(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def page(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> str:
        """Serves a fixed answer; returns its address. `content_type` makes Content-Type."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in {"content_length": str(len(body)), **headers}.items():
                handler.send_header(name.replace("_", "-").title(), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.routes[path] = answer
        return self.url + path

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def stopping() -> Callable[[int], Recorder]:
    """A progress that raises Stopped at its n-th call."""
    return Recorder


@pytest.fixture
def new_site() -> Iterator[Callable[[], Site]]:
    sites: list[Site] = []

    def start() -> Site:
        sites.append(Site())
        return sites[-1]

    yield start
    for site in sites:
        site.close()


@pytest.fixture
def site(new_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site that the operator allows, by its address and port only."""
    site = new_site()
    monkeypatch.setenv("HEADRACE_FETCH_ALLOW", f"127.0.0.1:{site.port}")
    return site
