"""The edge: TLS, what a web process hears of its client, and how refusals look. A web process stands in, which answers
with the headers that it has got."""

import json
import socket
import ssl

import httpx2
import pytest

from tests.roles.conftest import SITE, Bare

WEB = """
import http.server, json
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(self.headers)).encode())
http.server.ThreadingHTTPServer(("", 8000), Echo).serve_forever()
"""


@pytest.fixture(scope="module")
def surroundings(surroundings: None, bare: Bare) -> None:
    bare.machine.check_output("systemd-run --unit=web python3 -c %s", WEB)


def get(host: Bare, path: str, trust: ssl.SSLContext | None = None, **options: object) -> httpx2.Response:
    """An answer over TLS, checked against the certificate that the role has made."""
    trust = trust or ssl.create_default_context(cafile=str(host.certificates / "edge.crt"))
    with httpx2.Client(verify=trust, trust_env=False, timeout=15) as client:
        headers = {"Host": SITE, **options.pop("headers", {})}
        asked = client.build_request("POST" if "content" in options else "GET", f"https://{host.ip}{path}",
                                     headers=headers, extensions={"sni_hostname": SITE}, **options)  # fmt: skip
        return client.send(asked)


def test_it_serves_tls_with_a_certificate_for_the_site(host: Bare) -> None:
    assert get(host, "/").status_code == 200


def test_it_refuses_old_tls(host: Bare) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host.ip, 443), timeout=5) as raw, pytest.raises(ssl.SSLError):
        old.wrap_socket(raw)


def test_plain_http_is_sent_to_https(host: Bare) -> None:
    answer = httpx2.get(f"http://{host.ip}/a?b=c", headers={"Host": SITE}, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (301, f"https://{SITE}/a?b=c")


def test_what_a_client_says_of_itself_is_not_believed(host: Bare) -> None:
    forged = dict.fromkeys(("X-Forwarded-For", "X-Forwarded-Host", "Forwarded"), "192.0.2.66")
    heard = json.loads(get(host, "/", headers={**forged, "X-Forwarded-Proto": "http"}).text)
    assert "192.0.2.66" not in heard.values()
    assert (heard["Host"], heard["X-Forwarded-Proto"]) == (SITE, "https")


def test_what_is_for_machines_is_not_for_the_world(host: Bare) -> None:
    assert get(host, "/metrics").status_code == 404


def test_too_large_a_body_is_refused_in_a_sentence(host: Bare) -> None:
    answer = get(host, "/api/jobs", content=b"x" * (3 * 2**20 + 1))
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert "over 3 MB" in answer.json()["detail"]


def test_a_second_run_changes_nothing(host: Bare) -> None:
    assert host.apply() == 0


def test_another_name_of_the_site_gets_a_certificate_for_it(host: Bare) -> None:
    before = (host.certificates / "edge.crt").read_bytes()
    host.apply(headrace_hostnames=[SITE, "other.test"])
    assert (host.certificates / "edge.crt").read_bytes() != before
    assert get(host, "/", headers={"Host": SITE}).status_code == 200
    host.apply()


def test_without_a_web_process_it_says_when_to_come_back(host: Bare) -> None:
    host.machine.check_output("systemctl stop web")
    answer = get(host, "/")
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    assert (answer.headers["content-type"], answer.headers["retry-after"]) == ("application/problem+json", "2")
