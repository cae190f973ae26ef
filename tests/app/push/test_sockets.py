"""Push, on gunicorn's own ASGI worker: who may follow a job, what is said, and what survives faults."""

import asyncio
import json
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import DatabaseError, OperationalError, connection
from django.test import Client
from websockets.sync.client import ClientConnection

from harness.waiting import free_port, wait_until
from jobs import hints, services
from jobs.hints import Hint
from jobs.models import ApiToken, Job
from jobs.schemas import as_json
from jobs.tokens import create_token
from push import reader, watcher
from push.identity import Identity
from push.messages import message_of
from tests.app.ledger import job_of
from tests.app.push.client import PATIENCE_S, Push, bump, claim_of, close_code, events_of, received

pytestmark = pytest.mark.django_db(transaction=True)


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_socket_tells_snapshot_changes_and_end_then_closes(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    with push.follow(job.pk, token) as client:
        seen = [received(client)]
        claim = claim_of(job)
        seen.append(received(client))
        services.report(claim, 0.5, "half way")
        seen.append(received(client))
        services.succeed(claim, {"answer": 42})
        seen.append(received(client))
        assert close_code(client) == 1000
    assert [one["state"] for one in seen] == ["queued", "running", "running", "succeeded"]
    assert [one["version"] for one in seen] == [1, 2, 3, 4]
    assert (seen[2]["progress"], seen[2]["note"], seen[3]["result"]) == (0.5, "half way", {"answer": 42})
    assert wait_until(lambda: Job.objects.get(pk=job.pk).notified_at, why="the notify time is kept")


def test_stream_tells_the_same(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    with push.stream(job.pk, token) as events:
        seen = [next(events)]
        claim = claim_of(job)
        seen.append(next(events))
        services.succeed(claim, {"answer": 42})
        seen += list(events)
    assert int(seen[0]["retry"]) > 0
    assert [event["event"] for event in seen] == ["job"] * 3
    jobs = [json.loads(event["data"])["job"] for event in seen]
    assert [one["state"] for one in jobs] == ["queued", "running", "succeeded"]
    assert [int(event["id"]) for event in seen] == [one["version"] for one in jobs] == [1, 2, 3]
    assert wait_until(lambda: Job.objects.get(pk=job.pk).notified_at)


def test_stream_is_not_buffered_on_its_way(push: Push, user: Any, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    job = job_of(user)
    services.cancel(job.pk)
    found = push.http.get(f"/api/jobs/{job.pk}/events", headers=headers).headers
    assert found["Content-Type"].startswith("text/event-stream")
    assert (found["X-Accel-Buffering"], found["Cache-Control"]) == ("no", "no-store")


def test_ended_job_is_told_at_once_and_only_the_first_client_counts(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    services.cancel(job.pk)
    with push.follow(job.pk, token) as client:
        assert received(client)["state"] == "cancelled"
        assert close_code(client) == 1000
    first = wait_until(lambda: Job.objects.get(pk=job.pk).notified_at)
    with push.follow(job.pk, token) as client:
        assert received(client)["notified_at"] is not None
        assert close_code(client) == 1000
    assert Job.objects.get(pk=job.pk).notified_at == first


def test_event_source_that_has_seen_the_end_is_told_to_stop(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    version = services.cancel(job.pk).version
    path, headers = f"/api/jobs/{job.pk}/events", {"Authorization": f"Bearer {token}"}
    assert push.http.get(path, headers={**headers, "Last-Event-ID": str(version)}).status_code == 204
    assert push.http.get(path, headers={**headers, "Last-Event-ID": str(version - 1)}).status_code == 200


def test_all_who_follow_are_told(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    with ExitStack() as stack:
        clients = [stack.enter_context(push.follow(job.pk, token)) for _ in range(10)]
        assert {received(client)["version"] for client in clients} == {1}
        services.cancel(job.pk)
        assert {received(client)["state"] for client in clients} == {"cancelled"}


def test_reconnecting_client_misses_nothing(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    with push.follow(job.pk, token) as client:
        assert received(client)["state"] == "queued"
    services.succeed(claim_of(job), {"answer": 42})
    with push.follow(job.pk, token) as client:
        assert received(client)["result"] == {"answer": 42}
        assert close_code(client) == 1000


def test_change_between_subscribing_and_reading_is_seen(push: Push, user: Any, token: str) -> None:
    """Jobs end while clients connect; whatever the order, each client gets the end."""
    jobs = [job_of(user) for _ in range(20)]
    ender = threading.Thread(target=lambda: [services.cancel(job.pk) for job in jobs])
    with ExitStack() as stack:
        ender.start()
        clients = [stack.enter_context(push.follow(job.pk, token)) for job in jobs]
        assert {close_code(client) for client in clients} == {1000}
    ender.join()


# ---- who may follow -------------------------------------------------------------------------------------------------


def test_session_cookie_opens_both(push: Push, user: Any, empty_broker: Any) -> None:
    browser = Client()
    browser.force_login(user)
    cookie = f"sessionid={browser.cookies['sessionid'].value}"
    job = job_of(user)
    services.cancel(job.pk)
    with push.socket(f"/ws/jobs/{job.pk}", Cookie=cookie) as client:
        assert received(client)["state"] == "cancelled"
    assert push.http.get(f"/api/jobs/{job.pk}/events", headers={"Cookie": cookie}).status_code == 200


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer nope"}, {"Cookie": "sessionid=" + "a" * 32}])
def test_without_sign_in(push: Push, user: Any, empty_broker: Any, header: dict[str, str]) -> None:
    job = job_of(user)
    with push.socket(f"/ws/jobs/{job.pk}", **header) as client:
        assert close_code(client) == 4401
    response = push.http.get(f"/api/jobs/{job.pk}/events", headers=header)
    assert (response.status_code, response.headers["Content-Type"]) == (401, "application/problem+json")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_strangers_and_absent_jobs_look_the_same(push: Push, user: Any, other_user: Any, token: str) -> None:
    theirs = job_of(other_user).pk
    bodies = set()
    for job_id in (theirs, uuid.uuid4()):
        with push.follow(job_id, token) as client:
            assert close_code(client) == 4404
        response = push.http.get(f"/api/jobs/{job_id}/events", headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 404
        bodies.add(response.text)
    assert len(bodies) == 1


@pytest.mark.parametrize(
    "path", ["/ws/jobs/x", "/ws/jobs/", "/ws/", "/", "/ws/jobs/%00", f"/ws/jobs/{uuid.UUID(int=1)}/"]
)
def test_other_sockets_are_4404(push: Push, token: str, path: str) -> None:
    with push.socket(path, token) as client:
        assert close_code(client) == 4404


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "https://ok.example.evil.example", "http://ok.example", "https://wild.evil",
     "https://evilwild.example", "https://127.0.0.1", "file://", "https://["],
)  # fmt: skip
def test_foreign_page_is_4403(push: Push, user: Any, token: str, origin: str) -> None:
    with push.socket(f"/ws/jobs/{job_of(user).pk}", token, origin) as client:
        assert close_code(client) == 4403


def test_our_own_and_trusted_pages_are_let_in(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    for origin in (f"http://127.0.0.1:{push.port}", "https://ok.example", "https://a.wild.example"):
        with push.socket(f"/ws/jobs/{job.pk}", token, origin) as client:
            assert received(client)["version"] == 1


def test_everything_else_is_the_web_processs(push: Push, token: str) -> None:
    for path in ("/", "/api/jobs", "/api/jobs/x/events", "/login/"):
        response = push.http.get(path, headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 404
        assert "web process" in response.json()["detail"]
    response = push.http.post(f"/api/jobs/{uuid.uuid4()}/events", headers={"Authorization": f"Bearer {token}"})
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
    assert push.http.get("/healthz").text == "ok"


@pytest.mark.parametrize("how", ["token deleted", "user disabled", "signed out", "password changed"])
def test_who_may_not_any_more_is_disconnected_within_seconds(
    push: Push, user: Any, empty_broker: Any, how: str
) -> None:
    job, token, browser = job_of(user), create_token(user), Client()
    browser.force_login(user)
    by_token = {"Authorization": f"Bearer {token}"}
    by_session = {"Cookie": f"sessionid={browser.cookies['sessionid'].value}"}
    header = by_session if how in ("signed out", "password changed") else by_token
    stays = create_token(user) if how != "user disabled" else ""
    with ExitStack() as stack:
        client = stack.enter_context(push.socket(f"/ws/jobs/{job.pk}", **header))
        response = stack.enter_context(push.http.stream("GET", f"/api/jobs/{job.pk}/events", headers=header))
        events = events_of(response)
        received(client)
        next(events)
        other = stack.enter_context(push.follow(job.pk, stays)) if stays else None
        if how == "token deleted":
            ApiToken.objects.filter(user=user).first().delete()  # type: ignore[union-attr]
        elif how == "signed out":
            browser.logout()
        else:
            user.is_active = how != "user disabled"
            user.set_password("another-" + token)
            user.save()
        began = time.monotonic()
        assert close_code(client) == 4401
        assert list(events) == []
        assert time.monotonic() - began < 6
        if other:  # whoever signed in otherwise stays
            received(other)
            services.cancel(job.pk)
            assert received(other)["state"] == "cancelled"


def test_one_user_follows_so_many_jobs_and_no_more(
    own_push: Callable[..., Push], user: Any, other_user: Any, token: str
) -> None:
    push, job = own_push(HEADRACE_MAX_FOLLOWED="2"), job_of(user)
    address, header = f"/api/jobs/{job.pk}/events", {"Authorization": f"Bearer {token}"}
    with push.follow(job.pk, token) as first, push.stream(job.pk, token) as second:
        received(first)
        next(second)
        with push.follow(job.pk, token) as third:
            assert close_code(third) == 1013
        response = push.http.get(address, headers=header)
        assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
        assert "2 jobs already" in response.json()["detail"]
        with push.follow(job_of(other_user).pk, create_token(other_user)) as theirs:
            received(theirs)
    wait_until(lambda: push.gauge("watchers") == 0)
    with push.follow(job.pk, token) as again:
        received(again)


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_change_without_a_hint_is_seen(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    with push.follow(job.pk, token) as client, push.stream(job.pk, token) as events:
        received(client)
        next(events)
        bump(job, note="quietly")
        assert received(client)["note"] == json.loads(next(events)["data"])["job"]["note"] == "quietly"


def test_changes_arrive_while_the_broker_is_dead_and_hints_after_it(
    own_push: Callable[..., Push], user: Any, token: str, broker: Any
) -> None:
    push, job = own_push(), job_of(user)
    with push.follow(job.pk, token) as client:
        received(client)
        wait_until(lambda: push.gauge("listening"), why="hints are heard")
        broker.kill()
        try:
            wait_until(lambda: not push.gauge("listening"), why="the loss is noticed")
            bump(job, note="without a broker")
            assert received(client)["note"] == "without a broker"
        finally:
            broker.start()
        wait_until(lambda: push.gauge("listening"), why="hints are heard again")
        services.cancel(job.pk)
        assert received(client)["state"] == "cancelled"
        assert close_code(client) == 1000


def test_hung_broker_is_noticed_and_changes_arrive(
    own_push: Callable[..., Push], user: Any, token: str, broker: Any
) -> None:
    push, job = own_push(), job_of(user)
    with push.follow(job.pk, token) as client:
        received(client)
        wait_until(lambda: push.gauge("listening"))
        with broker.paused():
            bump(job, note="hung")
            assert received(client)["note"] == "hung"
            wait_until(lambda: not push.gauge("listening"), why="a broker that says nothing is taken for dead")
        wait_until(lambda: push.gauge("listening"), why="hints are heard again")


def test_without_a_database_clients_are_asked_to_come_back(own_push: Callable[..., Push], token: str) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    push = own_push(HEADRACE_DATABASE_URL=nowhere, HEADRACE_DATABASE_WAIT_S="0.5")
    for header in ({"Authorization": f"Bearer {token}"}, {"Cookie": "sessionid=" + "a" * 32}):
        with push.socket(f"/ws/jobs/{uuid.uuid4()}", **header) as client:
            assert close_code(client) == 1013
        response = push.http.get(f"/api/jobs/{uuid.uuid4()}/events", headers=header)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert "database" in response.json()["detail"]
    assert "Traceback" not in push.process.output()


def test_clients_that_come_during_an_outage_are_served_after_it(
    own_push: Callable[..., Push], user: Any, token: str, database: Any
) -> None:
    push, job = own_push(HEADRACE_DATABASE_WAIT_S="60"), job_of(user)
    session = {"Cookie": f"sessionid={signed_in(user)}"}
    connection.close()
    database.stop()
    socket_address, stream_address = f"/ws/jobs/{job.pk}", f"/api/jobs/{job.pk}/events"
    answers: list[Any] = []

    def read(header: dict[str, str]) -> None:
        with push.socket(socket_address, **header) as client:
            answers.append(received(client)["id"])

    def stream(header: dict[str, str]) -> None:
        with push.http.stream("GET", stream_address, headers=header, timeout=90) as response:
            answers.append(json.loads(next(events_of(response))["data"])["job"]["id"])

    by_token = {"Authorization": f"Bearer {token}"}
    threads = [threading.Thread(target=how, args=(who,)) for how in (read, stream) for who in (session, by_token)]
    for thread in threads:
        thread.start()
    wait_until(lambda: push.process.output().count("database out of reach") >= 4, why="they have met the outage")
    assert not answers
    database.start()
    for thread in threads:
        thread.join(60)
    assert answers == [str(job.pk)] * 4


def test_first_read_waits_for_the_database(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job, read, times = job_of(user), watcher.READER.read, []

    async def once(job_id: uuid.UUID) -> Job | None:
        times.append(job_id)
        if len(times) == 1:
            raise OperationalError
        return await read(job_id)

    async def first() -> Any:
        async with aclosing(watcher.follow(job.pk, Identity(user.pk))) as changes:
            found = await anext(changes)
        await watcher.WATCHER.stop()
        return found and found.id

    monkeypatch.setattr(watcher, "WATCHER", watcher.Watcher())
    monkeypatch.setattr(watcher.READER, "read", once)
    assert asyncio.run(first()) == job.pk


def signed_in(user: Any) -> str:
    client = Client()
    client.force_login(user)
    return str(client.cookies["sessionid"].value)


def vanish(raw: socket.socket) -> None:
    """Reset the connection, as a client does that loses its power or its patience."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def request_of(path: str, token: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", *headers, "", ""]
    return "\r\n".join(lines).encode()


UPGRADE = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {'A' * 22}=="]


def test_vanished_clients_leave_nothing_behind(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    with push.follow(job.pk, token) as client:  # the watcher's own tasks run from the first client on
        received(client)
    wait_until(lambda: push.gauge("watchers") == 0)
    idle = push.gauge("tasks")
    raws = [socket.create_connection(("127.0.0.1", push.port)) for _ in range(20)]
    for number, raw in enumerate(raws):
        by_socket = request_of(f"/ws/jobs/{job.pk}", token, *UPGRADE)
        raw.sendall(by_socket if number % 2 else request_of(f"/api/jobs/{job.pk}/events", token))
    wait_until(lambda: push.gauge("watchers") == 20, why="all follow")
    for raw in raws[:10]:
        vanish(raw)
        bump(job)  # somebody writes to them
    wait_until(lambda: push.gauge("watchers") == 10, 10, "those who were reset are forgotten")
    for raw in raws[10:]:
        raw.close()
    wait_until(lambda: push.gauge("watchers") == 0, 10, "so are those who left quietly, with nothing to tell them")
    wait_until(lambda: push.gauge("tasks") <= idle, why="their tasks have ended")
    assert not re.search(r'"level": "error"|\[ERROR\]|Traceback', push.process.output())


def test_client_that_reads_nothing_holds_nobody_up(push: Push, user: Any, token: str) -> None:
    job = job_of(user, text="water " * 30_000)
    wait_until(lambda: push.gauge("watchers") == 0)
    with socket.create_connection(("127.0.0.1", push.port)) as lazy, push.follow(job.pk, token) as client:
        lazy.sendall(request_of(f"/ws/jobs/{job.pk}", token, *UPGRADE))
        wait_until(lambda: push.gauge("watchers") == 2)
        claim = claim_of(job)
        for number in range(60):  # 60 x 180 kB fill what the kernel buffers for the lazy one
            services.report(claim, number / 60, f"step {number}")
            wait_for_note(client, f"step {number}")
        services.succeed(claim, {})
        assert close_code(client) == 1000
    wait_until(lambda: push.gauge("watchers") == 0, why="the lazy client is forgotten once it has left")


def wait_for_note(client: ClientConnection, note: str) -> None:
    while received(client)["note"] != note:
        pass


def test_what_clients_say_is_ignored_but_a_flood_is_refused(push: Push, user: Any, token: str) -> None:
    job = job_of(user)
    with push.follow(job.pk, token) as client:
        received(client)
        for message in ("hello", b"\x00\xff", "", '{"type": "job"}'):
            client.send(message)
        services.report(claim_of(job), 0.5, "still told")
        wait_for_note(client, "still told")
        client.send("x" * 5000)
        assert close_code(client) == 1009


@pytest.mark.parametrize("fragments", [0, 3])
def test_a_large_message_is_refused_before_it_is_read(push: Push, user: Any, token: str, fragments: int) -> None:
    with socket.create_connection(("127.0.0.1", push.port), timeout=PATIENCE_S) as raw:
        raw.sendall(request_of(f"/ws/jobs/{job_of(user).pk}", token, *UPGRADE))
        raw.recv(65536)
        for number in range(fragments):
            raw.sendall(struct.pack("!BBHI", 0x00 if number else 0x02, 0xFE, 4000, 0) + bytes(4000))
        raw.sendall(struct.pack("!BBQ", 0x80 if fragments else 0x82, 0xFF, 2**24))  # 16 MiB follow, it says
        said = b""
        while piece := raw.recv(65536):
            said += piece
        assert struct.pack("!H", 1009) in said


def test_restart_sends_clients_away_at_once(own_push: Callable[..., Push], user: Any, token: str) -> None:
    push, job = own_push(), job_of(user)
    with push.follow(job.pk, token) as client, push.stream(job.pk, token) as events:
        received(client)
        next(events)
        began = time.monotonic()
        push.process.child.terminate()
        assert close_code(client) == 1012
        assert list(events) == []
        assert push.process.child.wait(PATIENCE_S) == 0
        assert time.monotonic() - began < 10  # not gunicorn's 30 s of patience with open connections


# ---- inside ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[uuid.UUID, Job]:
    """What the database would say, and nobody else who watches."""
    stored: dict[uuid.UUID, Job] = {}

    async def jobs(ids: Any) -> dict[uuid.UUID, Job]:
        await asyncio.sleep(0.01)
        return {one: stored[one] for one in ids if one in stored}

    monkeypatch.setattr(reader, "_jobs", jobs)
    monkeypatch.setattr(watcher, "READER", reader.Reader())
    quiet = watcher.Watcher()
    monkeypatch.setattr(quiet, "_tasks", [None])  # it has none of its own
    monkeypatch.setattr(watcher, "WATCHER", quiet)
    return stored


def stored_job(**values: Any) -> Job:
    return Job(**{"owner_id": 1, "kind": "digest", "version": 1, "created_at": datetime.now(UTC), **values})


def test_quiet_job_gives_a_sign_of_life(rows: dict[uuid.UUID, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "KEEPALIVE_S", 0.02)
    job = stored_job()
    rows[job.pk] = job

    async def first_three() -> list[Any]:
        changes = watcher.follow(job.pk, Identity(1))
        seen = [await anext(changes) for _ in range(3)]
        await changes.aclose()
        return [one and one.id for one in seen]

    assert asyncio.run(first_three()) == [job.pk, None, None]
    assert json.loads(message_of(None))["type"] == "alive"
    assert len(watcher.WATCHER) == 0


def test_change_during_a_read_is_not_left_to_the_poll(
    rows: dict[uuid.UUID, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stored_job()
    rows[job.pk] = job
    slow = reader._jobs

    async def overtaken(ids: Any) -> Any:
        found = await slow(ids)
        monkeypatch.setattr(reader, "_jobs", slow)
        rows[job.pk] = stored_job(pk=job.pk, version=2)
        watcher.WATCHER._hear(Hint(job.pk, 1, 2))  # the row changed after it was read
        return found

    async def first_two() -> list[int]:
        changes = watcher.follow(job.pk, Identity(1))
        seen = [(await asyncio.wait_for(anext(changes), PATIENCE_S)).version for _ in range(2)]  # type: ignore[union-attr]
        await changes.aclose()
        return seen

    monkeypatch.setattr(reader, "_jobs", overtaken)
    assert asyncio.run(first_two()) == [1, 2]


def test_outage_while_following_is_waited_out(rows: dict[uuid.UUID, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "POLL_S", 0.02)
    job = stored_job()
    rows[job.pk] = job
    healthy = reader._jobs

    async def away(ids: Any) -> Any:
        raise OperationalError("away")

    async def through() -> Any:
        changes = watcher.follow(job.pk, Identity(1))
        await anext(changes)
        monkeypatch.setattr(reader, "_jobs", away)
        watcher.WATCHER._hear(Hint(job.pk, 1, 2))
        later = asyncio.create_task(anext(changes))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        assert not later.done()
        monkeypatch.setattr(reader, "_jobs", healthy)
        job.version, job.state = 2, "failed"
        return (await later).version

    assert asyncio.run(through()) == 2


def test_reads_of_many_are_few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def jobs(ids: Any) -> dict[uuid.UUID, Any]:
        asked.append(len(ids))
        await asyncio.sleep(0.01)
        return dict.fromkeys(ids, "job")

    monkeypatch.setattr(reader, "_jobs", jobs)
    ids = [uuid.uuid4() for _ in range(50)]

    async def main() -> list[Any]:
        own = reader.Reader()
        reads = [asyncio.create_task(own.read(one)) for one in ids * 4]
        await asyncio.sleep(0)
        reads[0].cancel()  # who leaves does not take the answer from the others
        return await asyncio.gather(*reads, return_exceptions=True)

    answers = asyncio.run(main())
    assert answers[1:] == ["job"] * 199
    assert sum(asked) <= 51
    assert len(asked) <= 2
    monkeypatch.setattr(reader, "AT_ONCE", 20)
    asked.clear()
    asyncio.run(main())
    assert max(asked) == 20  # each may be large


def test_read_that_fails_is_told_to_all_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def jobs(ids: Any) -> Any:
        raise OperationalError("away")

    monkeypatch.setattr(reader, "_jobs", jobs)

    async def main() -> list[Any]:
        own, one = reader.Reader(), uuid.uuid4()
        return await asyncio.gather(*[own.read(one) for _ in range(3)], return_exceptions=True)

    assert all(isinstance(error, DatabaseError) for error in asyncio.run(main()))


# ---- what hints save ------------------------------------------------------------------------------------------------


def test_who_follows_from_the_beginning_asks_the_ledger_nothing(push: Push, user: Any, token: str) -> None:
    """The hints say it all: what is in the row is not what is told."""
    with push.follow(job_of(user).pk, token) as warm:  # the subscription
        received(warm)
        job = job_of(user)
        Job.objects.filter(pk=job.pk).update(note="only who reads the row knows this", params={"top": 1})
        with push.follow(job.pk, token) as client:
            assert (first := received(client))["note"] == ""
            assert first["params"] == as_json(job)["params"]
            claim = claim_of(job)
            assert received(client)["state"] == "running"
            services.succeed(claim, {"words": 3})
            ended = received(client)
    ours = as_json(Job.objects.get(pk=job.pk))
    assert ended["result"] == {"words": 3}
    assert set(ended) == set(ours)
    same = set(ours) - {"params", "notified_at", "timings"}
    assert {name: ended[name] for name in same} == {name: ours[name] for name in same}


def test_a_hint_that_is_long_or_of_another_release_sends_who_follows_to_the_row(
    push: Push, user: Any, token: str
) -> None:
    job = job_of(user, text="x" * 10_000)
    with push.follow(job.pk, token) as client:
        assert len(received(client)["params"]["text"]) == 10_000
        bump(job, note="by an id alone")
        redis.Redis.from_url(settings.ENV.broker_url).publish(hints.CHANNEL, str(job.pk))
        assert received(client)["note"] == "by an id alone"
        bump(job, note="by a later schema")
        line = f"9 {job.pk} {user.pk} 4 0 0 more\nwhatever"
        redis.Redis.from_url(settings.ENV.broker_url).publish(hints.CHANNEL, line)
        assert received(client)["note"] == "by a later schema"
        claim = claim_of(job)
        assert received(client)["state"] == "running"
        services.succeed(claim, {"words": "y" * 10_000})
        assert len(received(client)["result"]["words"]) == 10_000


def test_another_users_hints_open_nothing(push: Push, user: Any, other_user: Any, token: str) -> None:
    with push.follow(job_of(user).pk, token) as warm:
        received(warm)
        with push.follow(job_of(other_user).pk, token) as client:
            assert close_code(client) == 4404


def test_notify_times_are_of_the_moment_though_written_later(user: Any, empty_broker: Any) -> None:
    jobs = [job_of(user) for _ in range(2)]
    for job in jobs:
        services.succeed(claim_of(job), {})
    services.mark_notified([(jobs[0].pk, timedelta(seconds=0)), (jobs[1].pk, timedelta(seconds=60))])
    times = [Job.objects.get(pk=job.pk).notified_at for job in jobs]
    assert all(times)
    assert abs((times[0] - times[1]).total_seconds() - 60) < 5
