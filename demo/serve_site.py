"""`python -m demo.serve_site PORT [ADDRESS]`: serves site/, for `fetch` and `linkcheck` to look at.

On the loopback address unless another is named.
"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler
from socketserver import ThreadingTCPServer

from demo import SITE

REDIRECTS = {"/weir.html": "/gate.html"}


class Handler(SimpleHTTPRequestHandler):
    """Files, and a page that has moved."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path not in REDIRECTS:
            return super().do_GET()
        self.send_response(301)
        self.send_header("Location", REDIRECTS[self.path])
        self.send_header("Content-Length", "0")
        return self.end_headers()


class Server(ThreadingTCPServer):
    """Not `HTTPServer`, which asks DNS for our name before it serves."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    port, address = int(sys.argv[1]), (sys.argv[2:] or ["127.0.0.1"])[0]
    with Server((address, port), partial(Handler, directory=str(SITE))) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
