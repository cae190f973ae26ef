"""The checks that need no server: lint, format, types, migrations, Django's own production checks."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery import Celery
from django.core.exceptions import ImproperlyConfigured

from config import environment, lanes
from harness import APP, BIN, ROOT
from harness.processes import Process
from harness.servers import redis_binary
from harness.waiting import free_port, wait_until

PRODUCTION = {
    "HEADRACE_SECRET_KEY": secrets.token_hex(32),
    "HEADRACE_DATABASE_URL": "postgresql://headrace:x@db1:5432/headrace",
    "HEADRACE_BROKER_URL": "redis://headrace:x@broker1:6379/0",
    "HEADRACE_ALLOWED_HOSTS": "headrace.example",
    "HEADRACE_STATIC_ROOT": "/srv/headrace/static",
}


def check(*argv: str, cwd: os.PathLike[str] = ROOT, **env: str) -> str:
    """Run one of the tools; its output, or a failure that shows it."""
    run = subprocess.run(
        [str(BIN / argv[0]), *argv[1:]], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_lint_is_clean() -> None:
    check("ruff", "check", ".")


def test_format_is_clean() -> None:
    check("ruff", "format", "--check", ".")


def test_types_are_clean() -> None:
    check(
        "mypy",
    )


def test_playbooks_are_clean() -> None:
    check("ansible-lint", "--offline", "playbooks", "deploy", PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")


def test_yaml_is_clean() -> None:
    """Those that git has or would take: yamllint itself walks through every file of every container in var/."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.yml", "*.yaml"]
    ours = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert ours
    check("yamllint", "--strict", *ours)


def test_migrations_are_complete() -> None:
    check("python", "manage.py", "makemigrations", "--check", "--dry-run", cwd=APP)


def test_production_settings_pass_djangos_deploy_check() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    argv = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    run = subprocess.run(argv, cwd=APP, env={**env, **PRODUCTION}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


SHOW_HSTS = """
import django
from django.http import HttpResponse
from django.middleware.security import SecurityMiddleware
from django.test import RequestFactory
django.setup()
request = RequestFactory().get("/", headers={"X-Forwarded-Proto": "https"})
print(SecurityMiddleware(lambda request: HttpResponse())(request).headers.get("Strict-Transport-Security"))
"""


@pytest.mark.parametrize(
    ("change", "header"),
    [
        ({}, "max-age=300"),
        ({"HEADRACE_HSTS_S": "0"}, "None"),
        ({"HEADRACE_PLAIN_HTTP": "1"}, "None"),
        (
            {"HEADRACE_HSTS_S": "31536000", "HEADRACE_HSTS_SUBDOMAINS": "1", "HEADRACE_HSTS_PRELOAD": "1"},
            "max-age=31536000; includeSubDomains; preload",
        ),
    ],
)
def test_hsts_begins_small_and_is_raised_by_the_operator(change: dict[str, str], header: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    env |= {**PRODUCTION, **change, "HEADRACE_STATIC_ROOT": ""}
    argv = [sys.executable, "-c", SHOW_HSTS]
    run = subprocess.run(argv, cwd=APP, env=env, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == header, run.stderr


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"HEADRACE_SECRET_KEY": None}, "HEADRACE_SECRET_KEY is not set"),
        ({"HEADRACE_SECRET_KEY": "short"}, "HEADRACE_SECRET_KEY is wrong"),
        ({"HEADRACE_ALOWED_HOSTS": "x"}, "did you mean HEADRACE_ALLOWED_HOSTS?"),
        ({"HEADRACE_LEASE_S": "-1"}, "HEADRACE_LEASE_S is wrong: Input should be greater than 0"),
        ({"HEADRACE_HSTS_S": "31536000", "HEADRACE_HSTS_PRELOAD": "1"}, "PRELOAD is wrong: it needs HEADRACE_HSTS_S="),
        ({"HEADRACE_DATABASE_URL": "mysql://x"}, "HEADRACE_DATABASE_URL is wrong"),
        ({"HEADRACE_BROKER_URL": "unix:///r.sock"}, "must begin with redis:// or rediss://, as in redis://user"),
        ({"HEADRACE_BROKER_URL": "redis+socket:///r.sock"}, "must begin with redis:// or rediss://"),
        ({"HEADRACE_RESULT_URL": "unix:///r.sock"}, "HEADRACE_RESULT_URL is wrong: it must begin with redis://"),
        ({"HEADRACE_BROKER_URL": "rediss://b?ssl_cert_reqs=x"}, "ssl_cert_reqs must be required, optional or none"),
        ({"HEADRACE_SECRET_KEY": None, "HEADRACE_SECRET_KEY_FILE": "/nowhere"}, "HEADRACE_SECRET_KEY_FILE cannot be"),
    ],
)
def test_wrong_environment_is_one_sentence(change: dict[str, str | None], sentence: str) -> None:
    found = {name: value for name, value in {**PRODUCTION, **change}.items() if value is not None}
    with pytest.raises(ImproperlyConfigured) as refusal:
        environment.read(found)
    assert sentence in str(refusal.value)
    assert "short" not in str(refusal.value).replace("should", "")  # a wrong secret is not shown


@pytest.mark.servers
def test_a_broker_over_tls_is_believed_only_with_its_certificate(tmp_path: Path) -> None:
    """By everything of ours that asks it: redis-py, Kombu and Celery's result backend."""
    key, certificate, port = tmp_path / "key", tmp_path / "crt", free_port()
    names = ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", *names], check=True, capture_output=True
    )
    tls = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    argv = [redis_binary(), "--port", "0", "--tls-port", str(port), "--dir", str(tmp_path), *tls]
    server = Process("redis", argv, tmp_path / "log")

    def answers(query: str) -> list[bool]:
        found = {**PRODUCTION, "HEADRACE_BROKER_URL": f"rediss://127.0.0.1:{port}/0{query}"}
        url = environment.read(found).broker_url
        celery = Celery(broker=url, backend=url)
        asked = (redis.Redis.from_url(url).ping, celery.backend.client.ping, celery.connection().channel)
        return [reaches(one) for one in asked]

    def reaches(ask: Callable[[], object]) -> bool:
        try:
            ask()
        except redis.ConnectionError:
            return False
        return True

    try:
        wait_until(lambda: answers("?ssl_cert_reqs=none") == [True] * 3, 10, "it answers")
        for query in ("", "?ssl_cert_reqs=CERT_REQUIRED"):
            assert answers(query) == [False] * 3
            ca = f"{'&' if query else '?'}ssl_ca_certs={certificate}"
            assert answers(query + ca) == [True] * 3
    finally:
        server.stop()


def test_secret_may_come_from_a_file(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "secret")
    with open(path, "w") as file:
        file.write("s" * 60 + "\n")
    found = {**PRODUCTION, "HEADRACE_SECRET_KEY_FILE": path}
    del found["HEADRACE_SECRET_KEY"]
    assert environment.read(found).secret_key == "s" * 60


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("lanes: {}", "exchange"),
        ("lanes: [", "cannot be read"),
        ("exchange: {name: x, type: topic}\nlanes: {cpu: {pool: eventlet}}", "lanes.cpu"),
    ],
)
def test_wrong_lane_table_is_one_sentence(broken: str, sentence: str, tmp_path: os.PathLike[str]) -> None:
    path = Path(tmp_path) / "lanes.yml"
    path.write_text(broken)
    with pytest.raises(lanes.LaneTableError, match=sentence):
        lanes.load(path)


def test_kind_that_no_lane_serves_stops_every_process(tmp_path: os.PathLike[str]) -> None:
    path = Path(tmp_path) / "lanes.yml"
    path.write_text(lanes.TABLE.read_text().replace('"cpu.#"', '"cpu.nothing"'))
    env = {**os.environ, "HEADRACE_LANE_TABLE": str(path)}
    argv = [sys.executable, "manage.py", "check"]
    run = subprocess.run(argv, cwd=APP, env=env, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "is bound by no lane" in run.stderr
