"""Both edges, each with a real nginx and a web process that stands in: how refusals look, what is passed on."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import jinja2
import pytest
import yaml

from harness import ROOT
from harness.processes import Process
from harness.waiting import answers, free_ports, wait_until
from jobs.problems import MAY_BE_DONE

pytestmark = pytest.mark.servers
ROLE = ROOT / "playbooks/roles/nginx"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
SITE = "edge.test"
SCRATCH = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Echo(BaseHTTPRequestHandler):
    """A web process: answers with the headers that it was sent, and dies before the answer where it is asked to."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/dies"):
            self.close_connection = True
            return
        if "slowly" in self.path:
            time.sleep(2)
        body = json.dumps(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


class Edge:
    """A running nginx: its ports of plain HTTP and of TLS (0: it has none)."""

    def __init__(self, process: Process, plain: int, tls: int = 0) -> None:
        self.process, self.plain, self.tls = process, plain, tls

    def ask(self, path: str = "/", host: str = SITE, plain: bool = False, **request: Any) -> httpx2.Response:
        """One answer; redirects are not followed."""
        method, headers = request.pop("method", "GET"), {"Host": host, **request.pop("headers", {})}
        scheme, port = ("http", self.plain) if plain or not self.tls else ("https", self.tls)
        with httpx2.Client(
            verify=False, trust_env=False, timeout=15
        ) as client:  # the certificate is tests/roles' to test
            return client.request(method, f"{scheme}://127.0.0.1:{port}{path}", headers=headers, **request)


def certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    files = ["-keyout", folder / "edge.key", "-out", folder / "edge.crt", "-subj", f"/CN={SITE}"]
    subprocess.run([*command, *files], check=True, capture_output=True)


def of_hosts(folder: Path, web: int, plain: int, tls: int, **inputs: Any) -> str:
    """nginx.conf as the role nginx writes it, moved to ports of ours."""
    certificate(folder)
    profile = yaml.safe_load((ROOT / "deploy/apps/headrace.yml").read_text())["app_profile"]
    version = subprocess.run([str(NGINX), "-v"], capture_output=True, text=True, check=True).stderr
    modern = tuple(int(part) for part in re.findall(r"\d+", version)[:3]) >= (1, 25, 1)
    variables = {
        **yaml.safe_load((ROLE / "defaults/main.yml").read_text()),
        "ansible_managed": "Ansible managed",
        "ansible_facts": {"distribution_major_version": "13" if modern else "12"},
        "app_profile": profile | {"root": str(folder)},
        "fleet_web_port": web,
        "fleet_push_port": web,
        "nginx_acme_folder": str(folder),
        "nginx_max_body_mb": 3,
        "nginx_names": [SITE, "localhost"],
        "nginx_static": profile["web"]["static"],
        "nginx_tls_certificate": f"{folder}/edge.crt",
        "nginx_tls_key": f"{folder}/edge.key",
        "nginx_web": ["127.0.0.1"],
        "nginx_web_timeout": 60,
        **inputs,
    }
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    templates.filters["comment"] = "# {}".format
    text = templates.get_template("etc/nginx/nginx.conf.j2").render(variables)
    text = re.sub(r"listen \[::\]:.*\n", "", text)
    text = re.sub(r"listen 80\b", f"listen 127.0.0.1:{plain}", text)
    text = re.sub(r"listen 443\b", f"listen 127.0.0.1:{tls}", text)
    text = text.replace("user www-data;", "user root;").replace("/run/nginx.pid", f"{folder}/nginx.pid")
    scratch = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in SCRATCH)
    return text.replace("/var/log/nginx", str(folder)).replace("http {\n", "http {\n" + scratch)


def of_containers(folder: Path, web: int, plain: int, push: int) -> str:
    """deploy/images/edge/nginx.conf, moved likewise."""
    text = (ROOT / "deploy/images/edge/nginx.conf").read_text().replace("/tmp/", f"{folder}/")
    for name in ("common-http.conf", "common-server.conf"):
        text = text.replace(f"include {name}", f"include {ROLE}/templates/etc/nginx/{name}")
    text = text.replace("include mime.types", "include /etc/nginx/mime.types")
    text = text.replace("//web:8000", f"//127.0.0.1:{web}").replace("//push:8001", f"//127.0.0.1:{push}")
    return text.replace("listen 8080", f"listen 127.0.0.1:{plain}").replace(
        "listen 127.0.0.1:8081;", "listen unix:" + f"{folder}/health;"
    )


@contextmanager
def running(folder: Path, text: str, plain: int, tls: int = 0) -> Iterator[Edge]:
    """That nginx, until the end of the block."""
    (folder / "nginx.conf").write_text(text)
    command = [str(NGINX), "-c", str(folder / "nginx.conf"), "-e", "stderr", "-g", "daemon off;"]
    process = Process("nginx", command, folder / "nginx.log")
    try:
        wait_until(lambda: process.alive() and answers(plain), why="nginx answers")
        yield Edge(process, plain, tls)
    finally:
        process.stop()


@contextmanager
def edge_with(web: int, folder: Path, **inputs: Any) -> Iterator[Edge]:
    """The edge of hosts, with these inputs of the role."""
    plain, tls = free_ports(2)
    with running(folder, of_hosts(folder, web, plain, tls, **inputs), plain, tls) as one:
        yield one


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    """The port of a web process."""
    if NGINX is None:
        pytest.skip("there is no nginx: run `make test` as root, or apt-get install nginx-light")
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def edge(web: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """The edge of hosts as it is delivered."""
    with edge_with(web, tmp_path_factory.mktemp("edge")) as one:
        yield one


@pytest.fixture(params=["hosts", "containers"])
def either(request: pytest.FixtureRequest, web: int, tmp_path: Path) -> Callable[..., Any]:
    """Each of the two edges, before a web process at this port, and push at the same or another one."""

    def start(port: int, push: int = 0) -> Any:
        push = push or port
        if request.param == "hosts":
            return edge_with(port, tmp_path, fleet_push_port=push)
        (plain,) = free_ports(1)
        return running(tmp_path, of_containers(tmp_path, port, plain, push), plain)

    return start


@pytest.fixture
def without_web(either: Callable[..., Any]) -> Iterator[Edge]:
    """Each of the two edges, with nobody behind it."""
    with either(free_ports(1)[0]) as one:
        yield one


# ---- how refusals look ----------------------------------------------------------------------------------------------


def assert_problem(answer: httpx2.Response, status: int) -> None:
    """The body says what the status line says."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["status"]) == (status, status)


@pytest.mark.parametrize("path", ["/", "/api/jobs", "/ws/jobs/x", "/api/events", "/api/jobs/x/events"])
def test_when_nobody_answers_the_status_is_that_of_the_body(without_web: Edge, path: str) -> None:
    answer = without_web.ask(path)
    assert_problem(answer, 503)
    assert answer.headers["retry-after"] == "2"


def test_what_was_never_sent_may_be_sent_again(without_web: Edge) -> None:
    answer = without_web.ask("/api/jobs", method="POST", content=b"{}")
    assert_problem(answer, 503)
    assert answer.headers["retry-after"] == "2"


def test_what_may_have_been_accepted_is_not_asked_for_again(either: Callable[..., Any], web: int) -> None:
    with either(web) as one:
        answer = one.ask("/dies", method="POST", content=b"{}")
        assert_problem(answer, 503)
        assert answer.json()["detail"] == MAY_BE_DONE
        assert "retry-after" not in answer.headers
        assert one.ask("/dies").headers["retry-after"] == "2"


def test_what_follows_jobs_goes_to_push_and_nothing_else_does(either: Callable[..., Any], web: int) -> None:
    with either(web, push=free_ports(1)[0]) as one:
        for path in ("/ws/jobs", "/ws/jobs/x", "/api/events?since=x", "/api/jobs/x/events"):
            assert one.ask(path).status_code == 503, path
        for path in ("/api/jobs", "/api/jobs/x", "/api/events/", "/api/eventsx"):
            assert one.ask(path).status_code == 200, path


def test_too_large_a_body_has_the_status_of_its_body(edge: Edge) -> None:
    assert_problem(edge.ask("/api/jobs", method="POST", content=b"x" * (3 * 2**20 + 1)), 413)


# ---- whose names, whose port, whose word -----------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [True, False])
def test_another_name_than_ours_gets_no_answer(edge: Edge, plain: bool) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        edge.ask("/a", host="evil.example", plain=plain)


def test_our_name_is_sent_from_plain_http_to_tls(edge: Edge) -> None:
    answer = edge.ask("/a?b=c", plain=True)
    assert (answer.status_code, answer.headers["location"]) == (301, f"https://{SITE}/a?b=c")


def test_the_web_process_hears_the_port_that_the_browser_knows(edge: Edge) -> None:
    heard = edge.ask(host="localhost:8443").json()
    assert (heard["Host"], heard["X-Forwarded-Proto"]) == ("localhost:8443", "https")


def test_by_a_forwarded_port_of_plain_http_the_setting_is_named(edge: Edge) -> None:
    answer = edge.ask(host="localhost:8080", plain=True)
    assert_problem(answer, 400)
    assert "nginx_https_port" in answer.json()["detail"]


def test_a_forwarded_port_of_https_may_be_set(web: int, tmp_path: Path) -> None:
    with edge_with(web, tmp_path, nginx_https_port=8443) as one:
        assert one.ask("/a", host="localhost:8080", plain=True).headers["location"] == "https://localhost:8443/a"


def test_certbots_answers_are_served_over_plain_http(edge: Edge) -> None:
    folder = Path(edge.process.log).parent / ".well-known/acme-challenge"
    folder.mkdir(parents=True)
    (folder / "token").write_text("proof")
    assert edge.ask("/.well-known/acme-challenge/token", plain=True).text == "proof"


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.66"}


def test_of_a_trusted_proxy_the_clients_address_and_scheme_are_believed(web: int, tmp_path: Path) -> None:
    with edge_with(web, tmp_path, nginx_trusted_proxies=["127.0.0.0/8", "::1"]) as one:
        heard = one.ask(plain=True, headers=FORWARDED).json()
        assert (heard["X-Forwarded-For"], heard["X-Forwarded-Proto"]) == ("192.0.2.66", "https")
        assert one.ask(plain=True, headers=FORWARDED | {"X-Forwarded-Proto": "http"}).status_code == 301


def test_of_anybody_else_they_are_not(edge: Edge) -> None:
    assert edge.ask(plain=True, headers=FORWARDED).status_code == 301
    heard = edge.ask(headers=FORWARDED | {"X-Forwarded-Proto": "http"}).json()
    assert (heard["X-Forwarded-For"], heard["X-Forwarded-Proto"]) == ("127.0.0.1", "https")


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_guessing_from_one_address_is_slowed_down(web: int, tmp_path: Path, path: str) -> None:
    with edge_with(web, tmp_path, nginx_sign_ins_per_minute=5, nginx_trusted_proxies=["127.0.0.1"]) as one:
        answers = [one.ask(path, method="POST", content=b"x") for _ in range(10)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 4
        assert_problem(answers[-1], 429)
        assert answers[-1].headers["retry-after"] == "60"
        assert one.ask(path).status_code == 200
        other = one.ask(path, method="POST", content=b"x", headers={"X-Forwarded-For": "192.0.2.66"})
        assert other.status_code == 200


def test_one_address_holds_so_many_connections_to_push(web: int, tmp_path: Path) -> None:
    with edge_with(web, tmp_path, nginx_push_connections=2) as one, ThreadPoolExecutor() as pool:
        held = [pool.submit(one.ask, path) for path in ("/ws/slowly", "/api/events?slowly", "/api/jobs/slowly/events")]
        assert sorted(answer.result().status_code for answer in held) == [200, 200, 429]
        assert one.ask("/").status_code == 200


def test_the_admin_is_open_to_its_networks_only(web: int, tmp_path: Path, edge: Edge) -> None:
    assert edge.ask("/admin/").status_code == 200
    with edge_with(web, tmp_path, nginx_admin_networks=["192.0.2.0/24"], nginx_trusted_proxies=["127.0.0.1"]) as one:
        assert_problem(one.ask("/admin/jobs/job/"), 403)
        assert one.ask("/admin/", headers={"X-Forwarded-For": "192.0.2.66"}).status_code == 200
        assert one.ask("/").status_code == 200
