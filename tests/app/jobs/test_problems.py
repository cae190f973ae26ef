"""Every refusal and failure is one problem document, whoever refuses."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from django.test import Client

from harness.waiting import answers, free_port, wait_until
from tests.app.jobs.client import Api, problem
from tests.app.ledger import job_of

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)  # for tests with threads, processes or the broker
JSON = "application/json"


def test_unknown_address_is_404(api: Api) -> None:
    for path in ("/", "/nope", "/jobs/", "/jobs/x/y/z", "/%00"):
        problem(api.get(path), 404)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_wrong_method_is_405(api: Api, method: str) -> None:
    response = api.call(method, "/jobs")
    problem(response, 405)
    assert set(response.headers["Allow"].split(", ")) == {"GET", "POST"}


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_body_that_is_not_json_is_415(api: Api, media_type: str) -> None:
    problem(api.post("/jobs", b"a=1", content_type=media_type), 415)


def test_body_over_the_limit_is_413(api: Api, settings: Any) -> None:
    limit = settings.ENV.max_body_bytes
    assert f"{limit:,}" in problem(api.post("/jobs", b" " * (limit + 1)), 413)["detail"]
    problem(api.post("/jobs", b" " * limit), 400)


def test_bug_is_500_without_details(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("fleet.status.lanes", broken)
    assert "secret" not in json.dumps(problem(api.get("/lanes"), 500))


def test_unknown_host_is_400() -> None:
    problem(Client().get("/api/kinds", headers={"Host": "evil.example"}), 400)


def test_events_are_misdirected_here(api: Api) -> None:
    for path in (f"/jobs/{job_of(api.user).pk}/events", "/events"):
        assert "push process" in problem(api.get(path), 421)["detail"]


# ---- on the real server ---------------------------------------------------------------------------------------------


@pytest.fixture
def serve(launch: Any) -> Callable[..., str]:
    def start(**env: str) -> str:
        port = free_port()
        argv = ["gunicorn", "config.wsgi", "-k", "gthread", "--threads", "4", "-b", f"127.0.0.1:{port}"]
        process = launch("web", *argv, "--no-control-socket", **env)
        wait_until(lambda: process.alive() and answers(port), why="the web process answers")
        return f"http://127.0.0.1:{port}"

    return start


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 50_000):
        yield b" " * 50_000


@committed
def test_chunked_bodies_are_read_and_limited(api: Api, serve: Callable[..., str]) -> None:
    base = serve(HEADRACE_MAX_BODY_BYTES="100000")
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": JSON}
    for content, status in ((iter([b'{"kind":', b'"digest"}']), 202), (chunks(200_000), 413), (b" " * 100_001, 413)):
        response = httpx2.post(f"{base}/api/jobs", headers=headers, content=content)
        assert response.status_code == status
        assert status == 202 or problem(response, 413)


@committed
def test_without_a_database_it_is_503_and_the_process_lives(api: Api, serve: Callable[..., str]) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    base = serve(HEADRACE_DATABASE_URL=nowhere, HEADRACE_DATABASE_WAIT_S="0.5")
    with httpx2.Client(base_url=base, headers={"Authorization": f"Bearer {api.token}"}) as client:
        response = client.post("/api/jobs", json={"kind": "digest"})
        assert "database" in problem(response, 503)["detail"]
        assert int(response.headers["Retry-After"]) > 0
        problem(httpx2.get(f"{base}/api/lanes", headers={"Cookie": "sessionid=" + "a" * 32}), 503)
        assert client.get("/healthz").text == "ok"
        assert client.get("/metrics").status_code == 503
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"database": "down", "broker": "ok"})
