"""Ports are reachable exactly from where they should be, and servers refuse whoever should not ask."""

import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.clusters import Cluster

PORTS = (22, 80, 443, 5432, 6379, 8000, 8001)
Pair = tuple[str, int]
PROBE = "timeout 5 bash -c '</dev/tcp/{ip}/{port}' 2>/dev/null && echo {host} {port} &"


def allowed(cluster: Cluster, source: str | None, target: str, port: int) -> bool:
    """What should be: from a host of the cluster, or (None) from outside."""
    groups = [group for group, hosts in cluster.groups.items() if group != "all" and source in hosts]
    inside = {5432: "db", 6379: "broker", 8000: "web", 8001: "web"}
    if port == 22:
        return True
    if port in (80, 443):
        return target in cluster.groups["edge"]
    if target not in cluster.groups[inside[port]]:
        return False
    clients = {"edge"} if inside[port] == "web" else {"web", "workers", "beat"}
    return bool(clients & set(groups))


def expected(cluster: Cluster, source: str | None) -> set[Pair]:
    others = [name for name in cluster.machines if name != source]
    return {(name, port) for name in others for port in PORTS if allowed(cluster, source, name, port)}


def test_ports_are_open_exactly_to_who_needs_them(local: Cluster) -> None:
    def reached(source: str) -> set[Pair]:
        probes = [
            PROBE.format(ip=local.ip(host), port=port, host=host)
            for host in local.machines
            for port in PORTS
            if host != source
        ]
        lines = local.on(source, " ".join([*probes, "wait"])).splitlines()
        return {(line.split()[0], int(line.split()[1])) for line in lines}

    found = local.everywhere(reached)
    assert found == {source: expected(local, source) for source in local.machines}


def open_from_here(pairs: Iterable[tuple[str, str, int]]) -> set[Pair]:
    def attempt(pair: tuple[str, str, int]) -> bool:
        try:
            with socket.create_connection(pair[1:], timeout=5):
                return True
        except OSError:
            return False

    pairs = list(pairs)
    with ThreadPoolExecutor(max_workers=50) as pool:
        return {(pair[0], pair[2]) for pair, found in zip(pairs, pool.map(attempt, pairs), strict=True) if found}


def test_from_outside_only_the_edge_and_ssh_answer(local: Cluster) -> None:
    pairs = ((name, local.ip(name), port) for name in local.machines for port in PORTS)
    assert open_from_here(pairs) == expected(local, None)


def test_nothing_listens_that_the_firewall_does_not_know(local: Cluster) -> None:
    def listening(name: str) -> set[int]:
        rows = local.on(name, "ss -tlnH").splitlines()
        addresses = [row.split()[3].rsplit(":", 1) for row in rows]
        return {int(port) for address, port in addresses if not address.strip("[]").startswith(("127.", "::1"))}

    for name, ports in local.everywhere(listening).items():
        mine = {22} | {
            port for other in [*local.machines, None] for host, port in expected(local, other) if host == name
        }
        assert ports <= mine, name


# ---- the broker and the database ------------------------------------------------------------------------------------


def python(cluster: Cluster, host: str, *lines: str) -> str:
    """What a few lines of Python print there, in the application's environment."""
    code = "; ".join(lines).replace('"', '\\"')
    return cluster.on(host, f'headrace-run python -c "{code}" 2>&1 || true')


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("PING", "NOAUTH"),
        ("AUTH wrong-password", "WRONGPASS"),
        ("AUTH default x", "WRONGPASS"),
        ("AUTH headrace wrong-password", "WRONGPASS"),
    ],
)
def test_redis_answers_nobody_without_the_password(local: Cluster, said: str, answer: str) -> None:
    ip = local.ip(local.groups["broker"][0])
    ask = rf"exec 3<>/dev/tcp/{ip}/6379; printf '{said}\r\n' >&3; timeout 5 head -n 1 <&3"
    assert answer in local.on(local.groups["web"][0], f'bash -c "{ask}"')


@pytest.mark.parametrize(
    "command", ["FLUSHALL", "CONFIG GET dir", "SHUTDOWN", "KEYS *", "ACL LIST", "REPLICAOF NO ONE"]
)
def test_redis_lets_the_application_do_only_what_it_needs(local: Cluster, command: str) -> None:
    code = ["import os, redis", "r = redis.Redis.from_url(os.environ['HEADRACE_BROKER_URL'])", "print(r.ping())"]
    said = python(local, local.groups["web"][0], *code, f"r.execute_command(*'{command}'.split())")
    assert "True" in said
    assert "NoPermissionError" in said


def test_redis_forgets_nothing(local: Cluster) -> None:
    broker = local.groups["broker"][0]
    plan = local.plan(broker)
    conf = local.on(broker, "cat /etc/redis/redis.conf")
    for line in ("maxmemory-policy noeviction", "appendonly yes", "appendfsync everysec"):
        assert line in conf.splitlines()
    assert f"maxmemory {int(plan['shares_mb']['broker'] * 0.6)}mb" in conf.splitlines()
    code = ["import os, redis", "r = redis.Redis.from_url(os.environ['HEADRACE_BROKER_URL'])"]
    web = local.groups["web"][0]
    python(local, web, *code, "r.pipeline(transaction=True).lpush('kept', 'one').lpush('kept', 'two').execute()")
    local.on(broker, "systemctl restart redis-server")  # Type=notify: it answers from here on
    kept = python(local, web, *code, "print('kept', r.llen('kept'), r.delete('kept'))")
    assert kept.splitlines()[-1] == "kept 2 1", "Redis has read its append-only file back, transactions too"


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("user='postgres'", "no pg_hba.conf entry"),
        ("dbname='postgres'", "no pg_hba.conf entry"),
        ("sslmode='disable'", "no pg_hba.conf entry"),
        ("password='wrong'", "password authentication failed"),
    ],
)
def test_postgresql_refuses_others(local: Cluster, change: str, refusal: str) -> None:
    code = ["import os, psycopg", f"psycopg.connect(os.environ['HEADRACE_DATABASE_URL'], {change})"]
    assert refusal in python(local, local.groups["web"][0], *code)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE DATABASE mine",
        "CREATE ROLE mine",
        "CREATE TABLE public.mine ()",
        "CREATE SCHEMA mine",
        "SELECT * FROM pg_authid",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
def test_application_owns_its_schema_and_nothing_else(local: Cluster, statement: str) -> None:
    code = [
        "import os, psycopg",
        "c = psycopg.connect(os.environ['HEADRACE_DATABASE_URL'], autocommit=True)",
        "print(c.execute('SELECT count(*) FROM jobs_job').fetchone())",
        f"c.execute({statement!r})",
    ]
    said = python(local, local.groups["web"][0], *code)
    assert "(" in said
    assert "InsufficientPrivilege" in said


# ---- the edge -------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(local: Cluster) -> httpx2.Client:
    """Somebody who trusts the cluster's certificate."""
    trust = ssl.create_default_context(cafile=str(local.secrets / "edge.crt"))
    return httpx2.Client(base_url=local.address, verify=trust, trust_env=False, timeout=15)


def test_plain_http_is_sent_to_https(local: Cluster) -> None:
    answer = httpx2.get(local.address.replace("https", "http") + "/api/docs?x=1", trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (301, f"{local.address}/api/docs?x=1")


def test_pages_carry_the_headers_that_protect(browser: httpx2.Client) -> None:
    headers = browser.get("/login/").headers
    assert headers["strict-transport-security"] == "max-age=300"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["server"] == "nginx"
    assert all("secure" in cookie.lower() for cookie in headers.get_list("set-cookie"))


def test_static_files_come_from_the_edge_and_may_be_kept(local: Cluster, browser: httpx2.Client) -> None:
    page = browser.get("/login/").text
    path = page.split('href="/static/')[1].split('"')[0]
    answer = browser.get(f"/static/{path}")
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert browser.get("/static/../app/config/settings.py").status_code == 404


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_what_is_for_machines_is_not_for_the_world(browser: httpx2.Client, path: str) -> None:
    assert browser.get(path).status_code == 404


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_request_for_a_name_that_is_not_ours_is_closed_without_an_answer(
    local: Cluster, browser: httpx2.Client, scheme: str
) -> None:
    url = local.address.replace("https", scheme) + "/login/"
    with pytest.raises(httpx2.RemoteProtocolError, match="without sending a response"):
        browser.get(url, headers={"Host": "evil.example"})


def test_forged_forwarding_is_ignored(browser: httpx2.Client) -> None:
    answer = browser.get("/", headers={"X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example"})
    assert answer.status_code == 302
    assert "evil.example" not in answer.headers["location"]


def test_too_large_a_body_is_refused_in_a_sentence(local: Cluster, browser: httpx2.Client) -> None:
    limit = local.profile["web"]["max_body_mb"]
    answer = browser.post("/api/jobs", content=b"x" * (limit * 2**20 + 1))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert f"over {limit} MB" in answer.json()["detail"]


def test_old_tls_is_refused(local: Cluster) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    ip = local.ip(local.groups["edge"][0])
    with socket.create_connection((ip, 443), timeout=5) as raw, pytest.raises(ssl.SSLError):
        old.wrap_socket(raw)


def test_ssh_takes_keys_only(local: Cluster) -> None:
    config = local.on("web1", "sshd -T")
    assert {"passwordauthentication no", "kbdinteractiveauthentication no"} <= set(config.splitlines())
