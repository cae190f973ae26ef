"""A database that is away for seconds: requests wait for it, nothing is stored twice, and a cut is noticed."""

import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import psycopg
import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.db import InterfaceError, OperationalError, connection, transaction
from django.test import Client

from config.settings import NOTICE_A_CUT
from harness.processes import Process
from harness.servers import PostgreSQL
from harness.waiting import answers, free_port, wait_until
from jobs import submit as submitting
from jobs.models import Job
from jobs.outages import connection_lost
from jobs.tokens import create_token

pytestmark = pytest.mark.django_db(transaction=True)
FROM_THE_MIDDLEWARE = 2  # signing in saves the session once, and the middleware again
Serve = Callable[..., tuple[str, Process]]


@pytest.fixture
def serve(launch: Callable[..., Process]) -> Serve:
    def start(**env: str) -> tuple[str, Process]:
        port = free_port()
        argv = ["gunicorn", "config.wsgi", "-k", "gthread", "--threads", "8", "-b", f"127.0.0.1:{port}"]
        process = launch("web", *argv, "--no-control-socket", **env)
        wait_until(lambda: process.alive() and answers(port), why="the web process answers")
        return f"http://127.0.0.1:{port}", process

    return start


@pytest.fixture
def by_token(user: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {create_token(user)}"}


@pytest.fixture
def by_session(user: Any) -> dict[str, str]:
    client = Client()
    client.force_login(user)
    return {"Cookie": f"sessionid={client.cookies['sessionid'].value}; csrftoken={'a' * 32}"}


def in_threads(*calls: Callable[[], httpx2.Response]) -> tuple[list[threading.Thread], dict[int, httpx2.Response]]:
    answers: dict[int, httpx2.Response] = {}

    def ask(number: int, call: Callable[[], httpx2.Response]) -> None:
        answers[number] = call()

    threads = [threading.Thread(target=ask, args=pair, daemon=True) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    return threads, answers


def test_requests_wait_for_a_database_that_restarts(
    serve: Serve, database: PostgreSQL, by_token: dict[str, str], by_session: dict[str, str], empty_broker: Any
) -> None:
    base, web = serve(HEADRACE_DATABASE_WAIT_S="60")
    client = httpx2.Client(base_url=base, trust_env=False, timeout=90)
    form = {"csrfmiddlewaretoken": "a" * 32, "text": "a b", "top": "3", "one-time-key": "b" * 32}
    calls = [
        lambda: client.post("/api/jobs", json={"kind": "digest"}, headers=by_token),
        lambda: client.post("/api/jobs/batch", json={"jobs": [{"kind": "digest"}] * 3}, headers=by_token),
        lambda: client.get("/api/jobs", headers=by_token),
        lambda: client.get("/", headers=by_session),
        lambda: client.post("/new/digest/", data=form, headers=by_session),
    ]
    assert client.get("/", headers=by_session).status_code == 200  # connections that will be cut
    assert client.get("/api/jobs", headers=by_token).status_code == 200
    connection.close()
    database.stop()
    threads, answers = in_threads(*calls)
    wait_until(lambda: web.output().count("database out of reach") >= 2 * len(calls), why="all have met the outage")
    assert client.get("/healthz").text == "ok"
    assert client.get("/readyz").json()["database"] == "down"
    assert not answers
    database.start()
    for thread in threads:
        thread.join(60)
    assert [answers[number].status_code for number in range(len(calls))] == [202, 202, 200, 200, 302]
    assert Job.objects.count() == 5


def test_pages_too_say_when_to_come_back(serve: Serve, by_session: dict[str, str]) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    base, web = serve(HEADRACE_DATABASE_URL=nowhere, HEADRACE_DATABASE_WAIT_S="0.5")
    for path in ("/", "/fleet/", "/admin/"):
        page = httpx2.get(base + path, headers=by_session, trust_env=False, timeout=60)
        assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
        assert "The database is out of reach" in page.text
    form = {"username": "ada", "password": "x", "csrfmiddlewaretoken": "a" * 32}
    page = httpx2.post(
        base + "/login/", data=form, headers={"Cookie": f"csrftoken={'a' * 32}"}, timeout=60, trust_env=False
    )
    assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
    assert "Traceback" not in web.output()


# ---- a commit whose answer was lost ---------------------------------------------------------------------------------


def lost() -> OperationalError:
    error = OperationalError("server closed the connection unexpectedly")
    error.__cause__ = psycopg.OperationalError()
    return error


@pytest.fixture
def first_answer_lost(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The first submit is stored, and then the connection is gone before anybody is told (or has published it)."""
    store, times = submitting._store, []

    def once(*args: Any) -> Any:
        if times:
            return store(*args)
        times.append(1)
        with transaction.atomic():
            store(*args)
            connection.run_on_commit.clear()
        raise lost()

    monkeypatch.setattr("jobs.submit._store", once)
    yield
    assert times


@pytest.mark.usefixtures("first_answer_lost")
@pytest.mark.parametrize("key", [{}, {"idempotency_key": "k"}])
def test_job_whose_answer_was_lost_is_stored_and_answered_once(
    by_token: dict[str, str], empty_broker: Any, key: dict[str, str]
) -> None:
    body = {"kind": "digest", **key}
    answer = Client(headers=by_token).post("/api/jobs", body, content_type="application/json")
    assert answer.status_code == 202
    assert str(Job.objects.get().pk) == answer.json()["id"]
    assert messages() == 1


def test_who_may_have_a_job_is_not_told_to_come_back(
    by_token: dict[str, str], monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    def gone(*args: Any) -> Any:
        raise lost()

    monkeypatch.setattr(settings, "ENV", settings.ENV.model_copy(update={"database_wait_s": 0.2}))
    monkeypatch.setattr("jobs.submit._store", gone)
    client = Client(headers=by_token)
    answer = client.post("/api/jobs", {"kind": "digest"}, content_type="application/json")
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, False)
    assert "same idempotency_key" in answer.json()["detail"]
    monkeypatch.setattr("jobs.tokens.user_of", gone)
    answer = client.post("/api/jobs", {"kind": "digest"}, content_type="application/json")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


@pytest.mark.usefixtures("first_answer_lost")
def test_batch_whose_answer_was_lost_is_stored_and_answered_once(by_token: dict[str, str], empty_broker: Any) -> None:
    one = {"kind": "digest", "idempotency_key": "k"}
    body = {"jobs": [{"kind": "digest"}, one, one, {"kind": "digest"}]}
    answer = Client(headers=by_token).post("/api/jobs/batch", body, content_type="application/json")
    ids = [job["id"] for job in answer.json()["jobs"]]
    assert ids[1] == ids[2]
    assert {str(job.pk) for job in Job.objects.all()} == set(ids)
    assert (len(set(ids)), messages()) == (3, 3)


@pytest.mark.usefixtures("first_answer_lost")
def test_form_whose_answer_was_lost_is_stored_once(user: Any, empty_broker: Any) -> None:
    client = Client()
    client.force_login(user)
    answer = client.post("/new/digest/", {"text": "a b", "top": "3"})  # without a one-time key
    assert answer.headers["Location"] == f"/jobs/{Job.objects.get().pk}/"


def messages() -> int:
    import redis
    from django.conf import settings

    return int(redis.Redis.from_url(settings.ENV.broker_url).llen("quick"))


def test_session_that_cannot_be_saved_is_saved_later(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is saved after the view, where only a signal tells of what goes wrong."""
    user.set_password("a long enough one")
    user.save()
    save, times = SessionStore.save, []

    def once(*args: Any, **options: Any) -> Any:
        times.append(1)
        if len(times) == FROM_THE_MIDDLEWARE:
            raise lost()
        return save(*args, **options)

    monkeypatch.setattr(SessionStore, "save", once)
    client = Client(raise_request_exception=False)
    answer = client.post("/login/", {"username": "ada", "password": "a long enough one"})
    assert (answer.status_code, answer.headers.get("Location")) == (302, "/")
    assert len(times) > FROM_THE_MIDDLEWARE
    assert client.get("/").status_code == 200


def test_another_request_gets_other_ids(by_token: dict[str, str], empty_broker: Any) -> None:
    client = Client(headers=by_token)
    ids = {client.post("/api/jobs", {"kind": "digest"}, content_type="application/json").json()["id"] for _ in "ab"}
    assert len(ids) == 2


# ---- what is an outage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "away"),
    [
        (psycopg.OperationalError("connection refused"), True),
        (psycopg.InterfaceError("the connection is closed"), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.errors.CannotConnectNow(), True),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.DeadlockDetected(), False),
        (psycopg.errors.DiskFull(), False),
        (psycopg.errors.QueryCanceled(), False),
        (None, False),
    ],
)
def test_only_a_lost_connection_is_waited_out(cause: Exception | None, away: bool) -> None:
    for error in (OperationalError(), InterfaceError()):
        error.__cause__ = cause
        assert connection_lost(error) is away


def test_query_that_fails_is_not_run_again(by_token: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def deadlock(*_: Any) -> Any:
        calls.append(uuid.uuid4())
        raise OperationalError from psycopg.errors.DeadlockDetected()

    monkeypatch.setattr("jobs.submit._store", deadlock)
    answer = Client(headers=by_token).post("/api/jobs", {"kind": "digest"}, content_type="application/json")
    assert (answer.status_code, len(calls)) == (503, 1)


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="no network")
def test_cut_network_is_noticed_in_bounded_time() -> None:
    connection.ensure_connection()
    with socket.socket(fileno=socket.dup(connection.connection.fileno())) as sock:
        options = {
            "tcp_user_timeout": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            "keepalives_idle": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            "keepalives_interval": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
            "keepalives_count": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        }
    assert options == NOTICE_A_CUT
