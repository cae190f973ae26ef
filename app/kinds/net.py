"""The guarded HTTP client: fetches what the public can reach, and nothing in the private network of its worker.

A user's address may name anything: a database beside the worker, a cloud's metadata service, a name that answers
differently each time. So the guard is where the connection is made, not where the address is read: the name is
resolved once, every address it has is judged, and the socket goes to an address that was judged. TLS and the Host
header keep the name. Redirects are followed by a loop of our own, each through the same guard.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpcore2
import httpx2

from kinds.base import KindFailed, Progress, Transient

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

ALLOW = "HEADRACE_FETCH_ALLOW"
DENY = "HEADRACE_FETCH_DENY"  # addresses and networks, public ones too: the hosts of this deployment trust each other
REFUSED = "Refused: "
MAX_URL = 8000
REDIRECTS = {301, 302, 303, 307, 308}
NAT64 = ip_network("64:ff9b::/96")
GLOBAL_V6 = ip_network("2000::/3")

# The special-purpose registries of IANA (RFC 6890 and later), and one public address that a cloud uses internally.
# Python's own `is_global` changed between the versions that we support, so we have a table of our own.
SPECIAL: list[tuple[Network, str]] = [
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "an address that means this host"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a shared address behind a carrier's NAT"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "a cloud's host agent"),
        ("169.254.169.254/32", "a cloud's metadata service"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a tunnel address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a benchmarking address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "an address that means this host"),
        ("::1/128", "a loopback address"),
        ("2001::/23", "a reserved address"),
        ("2001:db8::/32", "a documentation address"),
        ("2002::/16", "a tunnel address"),
        ("3fff::/20", "a documentation address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("ff00::/8", "a multicast address"),
    )
]


class Refused(KindFailed):
    """The guard does not allow this address. The sentence starts with REFUSED, by which others recognise it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(REFUSED + sentence)


@dataclass(frozen=True)
class Limits:
    """Of one exchange, redirects included: seconds, bytes of body, redirects (0: they are not followed)."""

    timeout_s: float
    max_bytes: int
    redirects: int
    headers_only: bool = False


@dataclass(frozen=True)
class Answer:
    """What came back: `size` in bytes as sent (None: the body was not read), header names in lower case."""

    final_url: str
    status: int
    headers: dict[str, str]
    size: int | None
    ttfb_ms: float
    total_ms: float
    redirects: list[dict[str, str | int]]


class Deadline:
    """The moment by which an exchange must be over, however slowly the other side sends."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start = seconds, time.monotonic()

    def elapsed_ms(self) -> float:
        return round((time.monotonic() - self.start) * 1000, 1)

    def left(self) -> float:
        """Seconds left; raises Transient when there are none."""
        left = self.start + self.seconds - time.monotonic()
        if left <= 0:
            raise self.passed()
        return left

    def passed(self) -> Transient:
        return Transient(f"There was no complete answer within {self.seconds:g} s.")


def special(address: Address) -> str | None:
    """What keeps an address from being a public one, as in "a private address"; None: it is public.

    IPv6 addresses that are translated to IPv4 on their way (mapped, NAT64) are what they are translated to.
    """
    for network, what in SPECIAL:
        if address in network:
            return what
    if isinstance(address, IPv4Address):
        return None
    inner = translated(address)
    if inner != address:
        return special(inner)
    return None if address in GLOBAL_V6 else "a reserved address"


def translated(address: Address) -> Address:
    """What an address becomes on its way."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or (IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else address)


def ours(address: Address) -> str | None:
    """What an address is if it belongs to a host of this deployment, which are where a worker may do too much."""
    entries = [entry.strip() for entry in os.environ.get(DENY, "").split(",")]
    try:
        found = any(translated(address) in ip_network(entry, strict=False) for entry in entries if entry)
    except ValueError as error:
        raise KindFailed(f"{DENY} is wrong: {error}; the operator must mend it.") from None
    return "an address of this deployment" if found else None


def split_port(entry: str) -> tuple[str, str]:
    """`host:port`, `[address]:port` or either without a port, as (host, port or "")."""
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
    return name, port


def allowed(entry: str) -> tuple[str | Network, int | None]:
    """One entry of the operator's allow-list: a name or a network, and the port it is limited to."""
    name, port = split_port(entry)
    if not name or not (port == "" or (port.isascii() and port.isdecimal())):
        raise KindFailed(f"{ALLOW} holds {entry!r}, which is no host, address or network; the operator must mend it.")
    try:
        return ip_network(name, strict=False), int(port) if port else None
    except ValueError:
        if "/" in name:
            raise KindFailed(f"{ALLOW} holds {entry!r}, which is no network; the operator must mend it.") from None
        return name.lower().rstrip("."), int(port) if port else None


def is_allowed(host: str, address: Address, port: int) -> bool:
    """Whether the operator lets this target through; the environment is read at each call."""
    entries = [entry.strip() for entry in os.environ.get(ALLOW, "").split(",")]
    for target, only_port in (allowed(entry) for entry in entries if entry):
        named = host.lower().rstrip(".") == target if isinstance(target, str) else address in target
        if named and only_port in (None, port):
            return True
    return False


def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a host (a name, or an address in any of the forms that the system reads), in order."""
    found = [ip_address(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    plain = [address.ipv4_mapped or address if isinstance(address, IPv6Address) else address for address in found]
    return list(dict.fromkeys(plain))


def no_address(host: str, error: Exception) -> KindFailed:
    """The sentence for a name that did not resolve; Transient when asking again may help."""
    missing = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_FAMILY}
    if isinstance(error, UnicodeError) or (isinstance(error, socket.gaierror) and error.errno in missing):
        return KindFailed(f"There is no host named {host}.")
    return Transient(f"The name {host} could not be resolved just now.")


class Resolver:
    """Asks the system for addresses in threads of its own, which are few: its resolver has no timeout, and one that
    waits for a slow name server cannot be ended. Who asks for a name that is being asked for waits for the same answer.
    """

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, int], Future[list[Address]]] = {}

    def ask(self, host: str, port: int, deadline: Deadline) -> "Future[list[Address]]":
        """The answer, when it comes; raises Transient if it cannot be asked for before the deadline."""
        with self._lock:
            if there := self._asked.get((host, port)):
                return there
        if not self._free.acquire(timeout=deadline.left()):
            raise Transient(f"The name {host} could not be resolved just now: too many names are being asked for.")
        answer: Future[list[Address]] = Future()
        with self._lock:
            self._asked[host, port] = answer
        try:
            threading.Thread(target=self._run, args=(host, port, answer), daemon=True, name="resolve").start()
        except RuntimeError as error:  # the system has no thread left
            self._done(host, port)
            raise Transient(f"The name {host} could not be resolved just now: {error}.") from error
        return answer

    def _run(self, host: str, port: int, answer: "Future[list[Address]]") -> None:
        try:
            answer.set_result(resolve(host, port))
        except (OSError, ValueError) as error:
            answer.set_exception(error)
        finally:
            self._done(host, port)

    def _done(self, host: str, port: int) -> None:
        with self._lock:
            self._asked.pop((host, port), None)
        self._free.release()


RESOLVER = Resolver(32)


def resolve_in_time(host: str, port: int, deadline: Deadline) -> list[Address]:
    """`resolve`, given up at the deadline."""
    try:
        return RESOLVER.ask(host, port, deadline).result(deadline.left())
    except TimeoutError:
        raise deadline.passed() from None
    except (OSError, ValueError) as error:
        raise no_address(host, error) from error


def judged(host: str, port: int, deadline: Deadline) -> list[Address]:
    """The addresses of a host, when every one of them is public or allowed; else raises Refused."""
    addresses = resolve_in_time(host, port, deadline)
    for address in addresses:
        what = special(address) or ours(address)
        if what and not is_allowed(host, address, port):
            verb = "is" if host == str(address) else f"resolves to {address},"
            raise Refused(f"{host} {verb} {what}; ask the operator to allow it with {ALLOW}.")
    return addresses


def tls_failure(host: str, error: httpcore2.ConnectError) -> KindFailed:
    """The sentence for a failed TLS handshake. A bad certificate stays bad; a broken connection may pass."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return KindFailed(f"The TLS certificate of {host} is not valid: {cause.verify_message.rstrip('.')}.")
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return KindFailed(f"{host} does not speak TLS that we accept: {cause.reason}.")
    return Transient(f"{host} broke off the TLS handshake: {error}.")


class GuardedStream(httpcore2.NetworkStream):
    """A connection on which every read and write ends by the deadline."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self.inner, self.deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.inner.read(max_bytes, self.deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.inner.write(buffer, self.deadline.left())

    def close(self) -> None:
        self.inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            inner = self.inner.start_tls(ssl_context, server_hostname, self.deadline.left())
        except httpcore2.ConnectError as error:
            raise tls_failure(str(server_hostname), error) from error
        return GuardedStream(inner, self.deadline)

    def get_extra_info(self, info: str) -> object:
        return self.inner.get_extra_info(info)


class GuardedBackend(httpcore2.NetworkBackend):
    """Connects to nothing but judged addresses. This is the only place that opens a socket."""

    def __init__(self, deadline: Deadline) -> None:
        self.inner, self.deadline = httpcore2.SyncBackend(), deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = judged(host, port, self.deadline)
        for number, address in enumerate(addresses):
            share = self.deadline.left() / (len(addresses) - number)
            try:
                return GuardedStream(self.inner.connect_tcp(str(address), port, share), self.deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses) - 1:
                    raise
        raise Transient(f"The name {host} has no address just now.")


@cache
def tls() -> ssl.SSLContext:
    """The one TLS context: loading the certificate authorities takes longer than many fetches."""
    return httpcore2.default_ssl_context()


def parse(url: str) -> httpx2.URL:
    """An address that may be asked; raises KindFailed or Refused with the sentence that says why not."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise KindFailed(f"{url[:200]!r} is not a valid address: {str(error).rstrip('.')}.") from error
    if parsed.scheme not in ("http", "https"):
        raise Refused(f"{url[:200]!r} is not an http or https address.")
    if parsed.userinfo:
        raise Refused("the address holds a user name or a password; leave it out.")
    if not parsed.host:
        raise KindFailed(f"{url[:200]!r} names no host.")
    if len(str(parsed)) > MAX_URL:
        raise KindFailed(f"The address is longer than {MAX_URL} characters.")
    return parsed


def join(base: httpx2.URL, location: str) -> httpx2.URL:
    """Where a redirect leads, judged like an address that a user wrote."""
    try:
        return parse(str(base.join(location)))
    except (httpx2.InvalidURL, ValueError) as error:
        raise KindFailed(f"{base.host} redirects to {location[:200]!r}, which is not a valid address.") from error


@contextmanager
def sentences(host: str, deadline: Deadline) -> Iterator[None]:
    """Turns the HTTP library's errors into ours."""
    try:
        yield
    except httpcore2.ConnectError as error:
        raise Transient(f"No connection to {host} could be made: {error}.") from error
    except httpcore2.TimeoutException as error:
        raise deadline.passed() from error
    except httpcore2.LocalProtocolError as error:
        raise KindFailed(f"{host} cannot be asked that: {error}.") from error
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
        raise Transient(f"{host} broke off or garbled the answer: {error}.") from error


@contextmanager
def exchange(url: httpx2.URL, deadline: Deadline) -> Iterator[httpcore2.Response]:
    """One GET over a connection of its own, judged anew. No cookies, no credentials, no proxy, no compression."""
    target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    headers = [
        ("Host", url.netloc.decode("ascii")),
        ("User-Agent", "headrace"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    with (
        sentences(url.host, deadline),
        httpcore2.ConnectionPool(ssl_context=tls(), network_backend=GuardedBackend(deadline)) as pool,
        pool.stream("GET", target, headers=headers) as response,
    ):
        yield response


def headers_of(response: httpcore2.Response) -> dict[str, str]:
    """The first value of each header, cut to a length worth keeping."""
    values: dict[str, str] = {}
    for name, value in response.headers:
        values.setdefault(name.decode("latin-1").lower(), value.decode("utf-8", "replace")[:MAX_URL])
    return values


def read(
    response: httpcore2.Response, max_bytes: int, expected: str, sink: Callable[[bytes], None], progress: Progress
) -> int:
    """Hands the body to `sink` piece by piece, as sent; raises KindFailed when it is larger than `max_bytes`.

    `expected` is the Content-Length or ""; when it is already over the limit, nothing is read.
    """
    size, total = 0, int(expected[:19]) if expected.isascii() and expected.isdecimal() else max_bytes
    too_large = KindFailed(f"The body is larger than the limit of {max_bytes:,} bytes.")
    if total > max_bytes:
        raise too_large
    for piece in response.iter_stream():
        size += len(piece)
        if size > max_bytes:
            raise too_large
        sink(piece)
        progress(min(1.0, size / max(total, 1)), f"{size:,} bytes")
    return size


def get(url: str, limits: Limits, sink: Callable[[bytes], None], progress: Progress) -> Answer:
    """Fetches an address and follows its redirects.

    Raises:
        Refused: the guard says no, to the address or to where it redirects.
        Transient: no connection, a broken one, or no complete answer in time.
        KindFailed: no such host, a bad certificate, a body over the limit, too many redirects.
    """
    deadline, here, hops = Deadline(limits.timeout_s), parse(url), list[dict[str, str | int]]()
    while True:
        with exchange(here, deadline) as response:
            ttfb_ms, headers = deadline.elapsed_ms(), headers_of(response)
            moved = response.status in REDIRECTS and "location" in headers and limits.redirects > 0
            if not moved:
                expected = headers.get("content-length", "")
                size = None if limits.headers_only else read(response, limits.max_bytes, expected, sink, progress)
                return Answer(str(here), response.status, headers, size, ttfb_ms, deadline.elapsed_ms(), hops)
        hops.append({"status": response.status, "url": str(here)})
        if len(hops) > limits.redirects:
            raise KindFailed(f"{url[:200]} redirects more than {limits.redirects} times.")
        here = join(here, headers["location"])
        progress(0.0, f"Redirected to {here.host}")
