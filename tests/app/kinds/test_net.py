"""The guard: what it judges, what it lets through, and that the socket goes to what was judged."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinds import net
from kinds.base import KindFailed, Transient

LIMITS = net.Limits(timeout_s=5, max_bytes=100_000, redirects=5)
PUBLIC = ip_address("93.184.215.14")
LOOPBACK = ip_address("127.0.0.1")


def get(url, limits=LIMITS):
    return net.get(url, limits, lambda piece: None, lambda share, note="": None)


@pytest.fixture
def no_sockets(monkeypatch):
    """Fails the test at the first connection."""
    monkeypatch.delenv(net.ALLOW, raising=False)

    def connect(self, host, *args, **kwargs):
        pytest.fail(f"a socket was opened to {host}")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "[2600:1f18::7]", "[64:ff9b::5db8:d70e]", "[::ffff:93.184.215.14]"]
)
def test_hosts_of_this_deployment_are_refused_though_they_are_public(no_sockets, monkeypatch, address):
    monkeypatch.setenv(net.DENY, "93.184.215.0/28, 2600:1f18::7")
    with pytest.raises(net.Refused, match="an address of this deployment; ask the operator"):
        get(f"http://{address}:5432/")


def test_the_operator_may_allow_one_of_them(opened, monkeypatch):
    monkeypatch.setenv(net.DENY, str(PUBLIC))
    monkeypatch.setenv(net.ALLOW, f"{PUBLIC}:8099")
    with pytest.raises(Transient):
        get(f"http://{PUBLIC}:8099/")
    with pytest.raises(net.Refused):
        get(f"http://{PUBLIC}:5432/")
    assert opened == [(str(PUBLIC), 8099)]


def test_a_wrong_entry_is_a_sentence(no_sockets, monkeypatch):
    monkeypatch.setenv(net.DENY, "db1")
    with pytest.raises(KindFailed, match="HEADRACE_FETCH_DENY is wrong: 'db1'"):
        get(f"http://{PUBLIC}/")


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a socket was opened to; none answers."""
    addresses = []

    def connect(self, host, port, *args, **kwargs):
        addresses.append((host, port))
        raise httpcore2.ConnectError("no network in this test")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    return addresses


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("0.0.0.0", "means this host"),
        ("0.1.2.3", "means this host"),
        ("10.0.0.5", "private"),
        ("100.64.0.1", "carrier's NAT"),
        ("100.100.100.200", "carrier's NAT"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("168.63.129.16", "host agent"),
        ("169.254.169.254", "metadata"),
        ("169.254.1.1", "link-local"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.192", "reserved"),
        ("192.0.2.1", "documentation"),
        ("192.168.1.1", "private"),
        ("198.19.0.1", "benchmarking"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "means this host"),
        ("::1", "loopback"),
        ("::7f00:1", "reserved"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.5", "private"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::a00:5", "private"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b:1::a00:5", "reserved"),
        ("2001:0:a00:5::1", "reserved"),
        ("2001:db8::1", "documentation"),
        ("2002:a00:5::1", "tunnel"),
        ("2002:7f00:1::", "tunnel"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%2", "link-local"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
        ("4000::1", "reserved"),
    ],
)
def test_an_address_that_is_not_public_is_named_for_what_it_is(address, what):
    assert what in (net.special(ip_address(address)) or "public")


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "172.15.255.255", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"],
)
def test_a_public_address_is_public(address):
    assert net.special(ip_address(address)) is None


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6) | st.ip_addresses(v=6, network="2000::/3"))
def test_nothing_passes_that_python_calls_local(address):
    """Python's table is a second opinion; ours may be stricter, never laxer."""
    if net.special(address) is None:
        if address in net.NAT64 or getattr(address, "ipv4_mapped", None):
            address = IPv4Address(int(address) & 0xFFFFFFFF)
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@given(
    st.ip_addresses(v=4)
    | st.sampled_from([n for n, _ in net.SPECIAL if n.version == 4]).flatmap(
        lambda network: st.ip_addresses(v=4, network=network)
    )
)
def test_an_address_inside_an_ipv6_form_is_judged_as_itself(inner):
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        outer = IPv6Address(int(IPv6Address(prefix)) | int(inner))
        assert net.special(outer) == net.special(inner)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
        "http://0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://localhost/",
        "http://localhost./",
        "http://LOCALHOST/",
        "http://169.254.169.254/latest/meta-data/",
        "http://1.1.1.1@127.0.0.1/",
        "http://1.1.1.1\\@127.0.0.1/",
        "http://127.0.0.1#@1.1.1.1/",
        "http://127.0.0.1\t/",
        "http://127.0.0.1:99999/",
        "http:///x",
        "https://127.0.0.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "ftp://1.1.1.1/",
        "//127.0.0.1/",
        "127.0.0.1",
        "",
    ],
)
def test_every_way_to_write_a_local_address_ends_before_a_socket_opens(url, no_sockets):
    with pytest.raises(KindFailed) as refusal:
        get(url)
    assert not isinstance(refusal.value, Transient)


def test_a_refusal_says_what_the_address_is_and_who_can_help(no_sockets, monkeypatch):
    monkeypatch.setattr(net, "resolve", lambda host, port: [ip_address("10.0.0.5")])
    with pytest.raises(net.Refused) as refusal:
        get("http://intranet.test/")
    assert str(refusal.value) == (
        "Refused: intranet.test resolves to 10.0.0.5, a private address; "
        "ask the operator to allow it with HEADRACE_FETCH_ALLOW."
    )
    monkeypatch.undo()
    with pytest.raises(net.Refused, match=r"^Refused: 10.0.0.5 is a private address; ask"):
        get("http://10.0.0.5/")


def test_credentials_in_an_address_are_refused(no_sockets):
    with pytest.raises(net.Refused, match="user name or a password"):
        get("https://user:secret@example.com/")


def test_one_local_address_among_public_ones_refuses_the_host(no_sockets, monkeypatch):
    monkeypatch.setattr(net, "resolve", lambda host, port: [PUBLIC, ip_address("10.0.0.5")])
    with pytest.raises(net.Refused):
        get("http://mixed.test/")


def test_a_name_that_changes_its_address_is_asked_once_and_connected_where_it_was_judged(opened, monkeypatch):
    answers = iter([[PUBLIC], [LOOPBACK], [LOOPBACK]])
    asked = []

    def resolve(host, port):
        asked.append(host)
        return next(answers)

    monkeypatch.setattr(net, "resolve", resolve)
    with pytest.raises(Transient):
        get("http://rebind.test:8080/")
    assert asked == ["rebind.test"]
    assert opened == [(str(PUBLIC), 8080)]


def test_rebinding_below_our_own_resolver_meets_a_socket_that_asks_no_name(site, monkeypatch):
    """As above, but on real sockets: every look-up that Python makes is counted."""
    names, system = [], socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if host == "rebind.test":
            names.append(host)
            host = "127.0.0.1" if len(names) == 1 else "127.9.9.9"
        return system(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setenv(net.ALLOW, f"rebind.test:{site.port}")
    site.page("/", b"hello")
    assert get(f"http://rebind.test:{site.port}/").status == 200
    assert names == ["rebind.test"]
    assert site.seen == [("/", f"rebind.test:{site.port}")]


def test_every_address_of_a_host_is_tried_in_order(opened, monkeypatch):
    addresses = [PUBLIC, ip_address("1.1.1.1"), ip_address("2606:4700::1111")]
    monkeypatch.setattr(net, "resolve", lambda host, port: addresses)
    with pytest.raises(Transient, match="no network in this test"):
        get("http://many.test/")
    assert opened == [(str(address), 80) for address in addresses]


@pytest.mark.parametrize(
    "where", ["http://127.0.0.1:{other}/", "http://[::ffff:127.0.0.1]:{other}/", "//localhost:{other}/"]
)
def test_a_redirect_is_judged_again(site, new_site, where):
    other = new_site()
    other.page("/", b"secret")
    url = site.page("/go", status=302, location=where.format(other=other.port))
    with pytest.raises(net.Refused):
        get(url)
    assert other.seen == []


@pytest.mark.parametrize("where", ["file:///etc/passwd", "gopher://127.0.0.1/", "http://a:b@1.1.1.1/", "http://["])
def test_a_redirect_to_what_may_not_be_asked_is_refused(site, where):
    with pytest.raises(KindFailed):
        get(site.page("/go", status=301, location=where))


@pytest.mark.parametrize(
    ("entries", "host", "address", "port", "through"),
    [
        ("", "a.test", "10.0.0.5", 80, False),
        ("a.test", "a.test", "10.0.0.5", 80, True),
        ("A.test.", "a.TEST", "10.0.0.5", 80, True),
        ("a.test:80", "a.test", "10.0.0.5", 80, True),
        ("a.test:80", "a.test", "10.0.0.5", 6379, False),
        ("a.test", "b.a.test", "10.0.0.5", 80, False),
        ("10.0.0.5", "a.test", "10.0.0.5", 80, True),
        ("10.0.0.5", "a.test", "10.0.0.6", 80, False),
        ("10.0.0.5:80", "a.test", "10.0.0.5", 81, False),
        ("10.0.0.0/8", "a.test", "10.9.9.9", 80, True),
        ("10.0.0.0/8:8080", "a.test", "10.9.9.9", 8080, True),
        ("10.0.0.0/8:8080", "a.test", "10.9.9.9", 80, False),
        ("fd00::/8", "a.test", "fd00::1", 80, True),
        ("[fd00::/8]:80", "a.test", "fd00::1", 80, True),
        ("[fd00::1]:80", "a.test", "fd00::1", 81, False),
        ("::1", "a.test", "::1", 80, True),
        (" b.test , 10.0.0.5 ,, ", "a.test", "10.0.0.5", 80, True),
    ],
)
def test_the_operator_lets_through_what_the_list_names_and_no_more(monkeypatch, entries, host, address, port, through):
    monkeypatch.setenv(net.ALLOW, entries)
    assert net.is_allowed(host, ip_address(address), port) is through


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "a.test:http", ":80", "[::1]:x", "a/b"])
def test_a_mistake_in_the_list_is_named(monkeypatch, entry):
    monkeypatch.setenv(net.ALLOW, entry)
    with pytest.raises(KindFailed, match=net.ALLOW):
        net.is_allowed("a.test", LOOPBACK, 80)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(socket.EAI_NONAME, "no"), KindFailed),
        (socket.gaierror(socket.EAI_AGAIN, "later"), Transient),
        (socket.gaierror(socket.EAI_FAIL, "server"), Transient),
        (UnicodeError("label too long"), KindFailed),
    ],
)
def test_no_such_name_is_final_and_a_resolver_in_trouble_is_not(monkeypatch, error, kind):
    def getaddrinfo(*args, **kwargs):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(KindFailed, match=r"gone\.test") as failure:
        get("http://gone.test/")
    assert type(failure.value) is kind


def test_a_label_that_no_name_can_have_is_a_sentence(no_sockets):
    with pytest.raises(KindFailed):
        get("http://" + "a" * 70 + ".test/")


def test_a_resolver_that_hangs_ends_at_the_deadline(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(net, "resolve", lambda host, port: release.wait(30) and [])
    start = time.monotonic()
    with pytest.raises(Transient, match=r"within 0\.2 s"):
        get("http://slow.test/", net.Limits(0.2, 10, 0))
    release.set()
    assert time.monotonic() - start < 10


def test_a_slow_resolver_takes_few_threads_and_one_for_each_name(monkeypatch):
    """Whoever asks later waits for the answer that is on its way, or hears that too many names are asked for."""
    release, asked = threading.Event(), []

    def resolve(host, port):
        asked.append(host)
        release.wait(30)
        return [PUBLIC]

    monkeypatch.setattr(net, "resolve", resolve)
    monkeypatch.setattr(net, "RESOLVER", net.Resolver(2))
    for host in ("a.test", "a.test", "b.test", "c.test"):
        with pytest.raises(Transient):
            net.resolve_in_time(host, 80, net.Deadline(0.1))
    assert asked == ["a.test", "b.test"]
    release.set()
    for host in ("a.test", "b.test", "c.test", "d.test"):
        assert net.resolve_in_time(host, 80, net.Deadline(10)) == [PUBLIC]


def test_a_system_without_threads_is_tried_again(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(net, "RESOLVER", net.Resolver(1))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(Transient, match="can't start new thread"):
            net.resolve_in_time("a.test", 80, net.Deadline(1))
    assert net.resolve_in_time("127.0.0.1", 80, net.Deadline(10)) == [LOOPBACK]


def test_the_environment_names_no_proxy(site, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert get(site.page("/", b"x")).status == 200


@given(
    st.text(max_size=60)
    | st.text(max_size=40).map("http://".__add__)
    | st.text("0123456789abcdefx.:[]@/\\%#?", max_size=40).map("http://".__add__)
)
def test_any_text_is_an_address_or_a_sentence(text):
    with suppress(KindFailed):
        assert net.parse(text).scheme in ("http", "https")


@given(st.text(max_size=60))
def test_any_redirect_is_an_address_or_a_sentence(text):
    with suppress(KindFailed):
        assert net.join(net.parse("http://a.test/x"), text).host


@given(st.ip_addresses())
def test_the_table_and_the_list_agree_on_what_a_network_is(address):
    assert any(address in network for network in (ip_network("0.0.0.0/0"), ip_network("::/0")))
    assert net.allowed(str(ip_network(address)))[0] == ip_network(address)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for pinned.test, which is its own authority."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    home = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=pinned.test"
    files = ["-addext", "subjectAltName=DNS:pinned.test", "-keyout", home / "key.pem", "-out", home / "cert.pem"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return home


@pytest.fixture
def tls_site(site, certificate, monkeypatch):
    """The site behind TLS; every name leads to it. `site.asked` has the names that clients sent in SNI."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    site.asked = []
    context.sni_callback = lambda connection, name, _: site.asked.append(name)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    site.page("/", b"over TLS")
    monkeypatch.setattr(net, "resolve", lambda host, port: [LOOPBACK])
    return site


def trusting(certificate):
    return ssl.create_default_context(cafile=str(certificate / "cert.pem"))


def test_tls_is_checked_against_the_name_though_the_socket_goes_to_the_address(tls_site, certificate, monkeypatch):
    monkeypatch.setattr(net, "tls", lambda: trusting(certificate))
    assert get(f"https://pinned.test:{tls_site.port}/").status == 200
    assert tls_site.asked == ["pinned.test"]
    assert tls_site.seen == [("/", f"pinned.test:{tls_site.port}")]


@pytest.mark.parametrize(("host", "trusted"), [("other.test", True), ("pinned.test", False)])
def test_a_certificate_of_another_name_or_of_nobody_we_know_is_final(tls_site, certificate, monkeypatch, host, trusted):
    if trusted:
        monkeypatch.setattr(net, "tls", lambda: trusting(certificate))
    with pytest.raises(KindFailed, match="TLS certificate") as failure:
        get(f"https://{host}:{tls_site.port}/")
    assert type(failure.value) is KindFailed
    assert tls_site.seen == []


def test_https_to_a_port_that_speaks_plain_http_is_final(site):
    with pytest.raises(KindFailed, match="does not speak TLS") as failure:
        get(f"https://127.0.0.1:{site.port}/")
    assert type(failure.value) is KindFailed
