"""fetch: what it reports, what it limits, and how it fails."""

import gzip
import hashlib
import json
import socket
import struct
import time

import pytest
from pydantic import ValidationError

from kinds import fetch
from kinds.base import KindFailed, Stopped, Transient


def run(url, progress=lambda share, note="": None, **params):
    return fetch.run(fetch.FetchParams(url=url, **params), progress).result


def drip(site, path, first):
    """Serves `first`, and then a byte at a time for as long as the client listens."""

    def answer(handler):
        try:
            handler.wfile.write(first)
            while not site.closing.wait(0.02):
                handler.wfile.write(b"a")
        except OSError:
            site.closing.set()

    site.routes[path] = answer
    return site.url + path


def test_the_result_says_what_came(site, recorder):
    body = b"the water goes on" * 100
    url = site.page("/x", body, content_type="text/plain", etag='"1"', set_cookie="a=b")
    result = run(url, recorder)
    assert set(result) == {
        "url", "final_url", "status", "headers", "size", "sha256", "ttfb_ms", "total_ms", "redirects",
    }  # fmt: skip
    assert result["url"] == result["final_url"] == url
    assert result["status"] == 200
    assert result["size"] == len(body)
    assert result["sha256"] == hashlib.sha256(body).hexdigest()
    assert result["headers"]["content-type"] == "text/plain"
    assert result["headers"]["etag"] == '"1"'
    assert "set-cookie" not in result["headers"]
    assert 0 < result["ttfb_ms"] <= result["total_ms"]
    assert result["redirects"] == []
    json.dumps(result, allow_nan=False)
    recorder.assert_sane()
    assert recorder.shares[-1] == 1


@pytest.mark.parametrize("status", [204, 304, 404, 410, 500, 503])
def test_an_error_status_is_a_result(site, status):
    assert run(site.page("/x", status=status))["status"] == status


def test_redirects_are_followed_and_listed(site):
    site.page("/c", b"here")
    site.page("/b/", status=307, location="../c")
    url = site.page("/a", status=302, location="/b/")
    result = run(url)
    assert result["final_url"] == site.url + "/c"
    assert result["redirects"] == [{"status": 302, "url": url}, {"status": 307, "url": site.url + "/b/"}]
    assert result["size"] == 4


def test_redirects_are_counted(site):
    url = site.page("/loop", status=302, location="/loop")
    with pytest.raises(KindFailed, match="more than 3 times"):
        run(url, redirects=3)
    assert len(site.seen) == 4


def test_without_redirects_the_redirect_is_the_result(site):
    result = run(site.page("/a", status=302, location="/b"), redirects=0)
    assert (result["status"], result["headers"]["location"]) == (302, "/b")


def test_a_redirect_to_nowhere_is_the_result(site):
    assert run(site.page("/a", status=302))["status"] == 302


def test_a_body_at_the_limit_passes_and_one_byte_more_does_not(site):
    assert run(site.page("/x", b"x" * 1000), max_bytes=1000)["size"] == 1000
    with pytest.raises(KindFailed, match="larger than the limit of 1,000 bytes"):
        run(site.page("/x", b"x" * 1001), max_bytes=1000)


def test_a_body_that_does_not_tell_its_length_is_cut_off_at_the_limit(site):
    written = []

    def endless(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        try:
            while not site.closing.is_set():
                written.append(handler.wfile.write(b"x" * 65_536))
        except OSError:
            site.closing.set()

    site.routes["/x"] = endless
    with pytest.raises(KindFailed, match="larger than"):
        run(site.url + "/x", max_bytes=10_000)
    assert site.closing.wait(10), "the server could go on writing: the connection was not closed"


def test_a_false_promise_of_length_reads_nothing(site, recorder):
    url = site.page("/x", b"x", content_length="99999999")
    with pytest.raises(KindFailed, match="larger than"):
        run(url, recorder)
    assert recorder.shares == []


def test_a_compressed_body_is_counted_as_sent_and_never_unpacked(site):
    bomb = gzip.compress(b"0" * 20_000_000)
    result = run(site.page("/x", bomb, content_encoding="gzip"), max_bytes=len(bomb))
    assert (result["size"], result["sha256"]) == (len(bomb), hashlib.sha256(bomb).hexdigest())


def test_headers_only_reads_no_body(site):
    result = run(site.page("/x", b"x" * 5000), headers_only=True, max_bytes=10)
    assert (result["status"], result["size"], result["sha256"]) == (200, None, None)


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n",
        b"H",
    ],
    ids=["headers", "body", "body of known length", "status line"],
)
def test_a_slow_drip_ends_at_the_deadline(site, first):
    start = time.monotonic()
    with pytest.raises(Transient, match=r"within 0\.3 s"):
        run(drip(site, "/x", first), timeout_s=0.3)
    assert time.monotonic() - start < 10


def test_the_deadline_is_for_all_redirects_together(site):
    def slow(handler):
        site.closing.wait(0.15)
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n")

    site.routes["/x"] = slow
    with pytest.raises(Transient, match=r"within 0\.4 s"):
        run(site.url + "/x", timeout_s=0.4, redirects=10)
    assert len(site.seen) < 6


def test_a_reset_connection_may_pass(site):
    def reset(handler):
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    site.routes["/x"] = reset
    with pytest.raises(Transient):
        run(site.url + "/x")


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"])
def test_a_broken_answer_may_pass(site, answer):
    site.routes["/x"] = lambda handler: handler.wfile.write(answer)
    with pytest.raises(Transient):
        run(site.url + "/x")


def test_a_port_that_nobody_listens_on_may_pass(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("HEADRACE_FETCH_ALLOW", f"127.0.0.1:{port}")
        with pytest.raises(Transient, match="No connection"):
            run(f"http://127.0.0.1:{port}/")


def test_headers_without_end_are_cut_off(site):
    def endless(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while not site.closing.is_set():
                handler.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        except OSError:
            site.closing.set()

    site.routes["/x"] = endless
    with pytest.raises(KindFailed):
        run(site.url + "/x")
    assert site.closing.wait(10)


def test_a_stop_ends_the_fetch_and_closes_the_connection(site, stopping):
    with pytest.raises(Stopped):
        run(drip(site, "/x", b"HTTP/1.1 200 OK\r\n\r\n"), stopping(3), timeout_s=30)
    assert site.closing.wait(10), "the server could go on writing: the connection was not closed"


@pytest.mark.parametrize("url", ["", "example.com", "ftp://example.com/", "http://a b/", "http://" + "a" * 3000])
def test_a_form_refuses_what_is_no_address(url):
    with pytest.raises(ValidationError):
        fetch.FetchParams(url=url)


@pytest.mark.parametrize("over", [{"timeout_s": 31}, {"max_bytes": 10 * 1024**2 + 1}, {"redirects": 11}])
def test_limits_have_limits(over):
    with pytest.raises(ValidationError):
        fetch.FetchParams(**over)
