"""One client against a server that it imagines: what it sends, what it counts, what it complains of."""

import random
import socket
import threading

import gevent
import pytest
import websockets.sync.server

from loadtests.api import Answer, Api, NotAccepted, Target
from loadtests.client import Client, Desk
from loadtests.clock import now
from loadtests.ends import Ends
from loadtests.shapes import Shape, Work
from loadtests.work import Piece
from tests.loadtests.records import a_digest

SHAPE = Shape(
    summary="", model="closed", work={"digest": 1}, ways={"single": 1}, deadline_s=2, poll_s=0.01,
    stages=[{"name": "only", "seconds": 1, "users": 1}],
)  # fmt: skip
PIECE = Piece("digest", Work(kind="digest", lane="quick", params={"text": "the wheel turns"}, cost_s=0.1), 1)


class Server:
    """Answers from lists; the last answer of a list is given for ever."""

    def __init__(self, posts, gets, messages):
        self.posts, self.gets, self.messages, self.asked = posts, gets, messages, []

    def ask(self, method, path, body=None):
        self.asked.append((method, path, body))
        answers = self.posts if method == "POST" else self.gets
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, found = answer
        return Answer(status, found, now(), now())

    def follow(self, path):
        for message in self.messages:
            yield message, now()
        while True:
            gevent.sleep(0.01)


@pytest.fixture
def told():
    return []


@pytest.fixture
def client(told, monkeypatch):
    monkeypatch.setattr("loadtests.work.varied", lambda kind, chance: {})

    def make(posts, gets, messages):
        desk = Desk(SHAPE, [PIECE], lambda *facts: told.append(facts), lambda at: "only", chance=random.Random(1))
        return Client(desk, Server(posts, gets, messages))

    return make


ROW = a_digest()
QUEUED = ROW | {"state": "queued", "finished_at": None, "started_at": None, "result": None}
TOLD = [{"type": "job", "job": QUEUED}, {"type": "alive"}, {"type": "job", "job": ROW}]


def failures(told):
    return [failure for *_, failure in told if failure]


def test_a_job_is_counted_from_the_moment_that_it_was_due(client, told):
    one = client([(202, QUEUED)], [(200, ROW)], TOLD)
    due_at = now() - 1.5
    one.one(PIECE, "single", due_at)
    [record] = one.desk.ledger.records.values()
    assert record.due_at == due_at
    spans = {stage: seconds for stage, _, seconds, _ in told}
    assert spans["end to end"] >= 1.5 > spans["submit"]
    assert set(spans) == {"submit", "queue wait", "run", "notify", "end to end"}
    assert failures(told) == []
    assert record.closed
    assert one.desk.busy == 0


@pytest.mark.parametrize("way", ["single", "poll"])
def test_a_server_that_is_away_for_a_moment_is_asked_again(client, told, way):
    away = NotAccepted("away", 503)
    one = client([(202, QUEUED)], [away, away, (200, ROW)], TOLD)
    one.one(PIECE, way)
    assert failures(told) == []
    assert one.desk.ledger.failed == 2


def test_a_submit_with_a_key_is_sent_again_to_a_server_that_is_away(client, told):
    one = client([NotAccepted("away", 503), (202, QUEUED), (200, QUEUED)], [(200, ROW)], TOLD)
    one.one(PIECE, "keyed")
    assert failures(told) == []
    assert one.desk.ledger.refused == {"away": 1}
    keys = {body["idempotency_key"] for method, _, body in one.api.asked if method == "POST"}
    assert (len(one.api.asked), len(keys)) == (4, 1)


def test_a_refused_submit_promises_nothing(client, told):
    one = client([NotAccepted("full", 503)], [(200, ROW)], TOLD)
    one.one(PIECE, "single")
    assert one.desk.ledger.records == {}
    assert one.desk.ledger.refused == {"full": 1}
    assert failures(told) == ["full"]


def test_a_key_that_gives_two_jobs_is_a_double(client, told):
    other = QUEUED | {"id": "f" * 32}
    one = client([(202, QUEUED), (202, other)], [(200, ROW)], TOLD)
    one.one(PIECE, "keyed")
    [failure] = failures(told)
    assert failure.startswith(f"double {ROW['id']}")
    [first, second] = [body for method, _, body in one.api.asked if method == "POST"]
    assert first == second
    assert first["idempotency_key"]


@pytest.mark.parametrize(
    ("gets", "messages", "complaint"),
    [
        ([(200, ROW)], TOLD[:2], "lost"),
        ([NotAccepted("no such job", 404)], TOLD, "lost"),
        ([(200, ROW | {"result": {"sha256": "0"}})], TOLD, "double"),
        ([(200, ROW | {"finished_at": "2030-01-01T00:00:09Z"})], TOLD, "double"),
        ([(200, wrong := ROW | {"result": {"sha256": "0"}})], [{"job": wrong}], "wrong"),
        ([(200, failed := ROW | {"state": "failed", "error": "Broke.", "result": None})], [{"job": failed}], "wrong"),
    ],
)
def test_what_is_not_as_promised_is_a_failure_with_its_id(client, told, gets, messages, complaint):
    one = client([(202, QUEUED)], gets, messages)
    one.one(PIECE, "single")
    [failure] = failures(told)
    assert failure.startswith(f"{complaint} {ROW['id']}: ")


def test_a_batch_is_followed_side_by_side(client, told):
    rows = [a_digest(), a_digest()]
    one = client([(202, {"jobs": rows})], [(200, rows[0])], [])
    one.api.follow = lambda path: iter([({"job": row}, now()) for row in rows if row["id"] in path])
    one.api.gets = [(200, rows[0]), (200, rows[1])]
    one.batch([PIECE, PIECE])
    assert len(one.desk.ledger.records) == 2
    assert {record.way for record in one.desk.ledger.records.values()} == {"batch"}


@pytest.fixture
def together(client):
    """A client that follows all jobs on one socket, which has told of the end before the submit was answered."""

    def make(messages):
        one = client([(202, QUEUED)], [(200, ROW)], messages)
        one.desk.ends = Ends(one.api, SHAPE.deadline_s)
        return Client(one.desk, one.api)

    return make


def test_on_one_socket_an_end_before_the_answer_to_the_submit_is_not_missed(together, told):
    one = together([{"type": "cursor", "cursor": "x"}, *TOLD])
    one.one(PIECE, "single")
    assert failures(told) == []


def test_on_one_socket_each_client_is_told_of_its_own_job(together, told):
    rows = [a_digest(), a_digest()]

    def ended_later():
        yield {"type": "cursor", "cursor": "x"}
        gevent.sleep(0.05)
        yield from ({"type": "job", "job": row} for row in reversed(rows))

    one = together(ended_later())
    one.api.posts, one.api.gets = [(202, {"jobs": rows})], [(200, rows[1]), (200, rows[0])]
    one.batch([PIECE, PIECE])
    assert failures(told) == []
    assert all(record.told_at for record in one.desk.ledger.records.values())


def test_who_was_not_told_on_one_socket_has_lost_a_job(together, told):
    together([{"type": "cursor", "cursor": "x"}, *TOLD[:2]]).one(PIECE, "single")
    [failure] = failures(told)
    assert failure.startswith(f"lost {ROW['id']}: its client was not told")


def test_one_socket_that_the_server_refuses_is_said_for_each_job(together, told):
    def closed():
        yield from [{"type": "cursor", "cursor": "x"}]
        gevent.sleep(0.01)
        raise NotAccepted("the WebSocket /ws/jobs was closed with 4401", 4401)

    one = together(closed())
    for _ in range(2):
        one.one(PIECE, "single")
    assert [failure.split(": ", 1)[1] for failure in failures(told)] == ["its client was not told within 2 s"] * 2
    assert {record.trouble for record in one.desk.ledger.records.values()} == {
        "the WebSocket /ws/jobs was closed with 4401"
    }


def test_a_socket_that_breaks_goes_on_from_its_last_cursor():
    asked = []

    def serve(connection):
        asked.append(connection.request.path)
        if len(asked) == 1:
            connection.send('{"type": "job", "job": {}}')
            connection.send('{"type": "cursor", "cursor": "2026-01-01T00:00:00+00:00"}')
            connection.close(1012)
        connection.close(4404)

    with websockets.sync.server.serve(serve, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = Api(Target(f"http://127.0.0.1:{server.socket.getsockname()[1]}", "x"))
        with pytest.raises(NotAccepted, match="4404"):
            list(api.follow("/ws/jobs"))
        server.shutdown()
    assert asked == ["/ws/jobs", "/ws/jobs?since=2026-01-01T00%3A00%3A00%2B00%3A00"]


def hangs_up(listener):
    """Answers the first request on each connection, and closes it as the second one comes."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed: the test is over
            return
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            connection.recv(65536)


def test_a_kept_connection_that_the_server_closes_is_no_refusal():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hangs_up, args=(listener,), daemon=True).start()
        api = Api(Target(f"http://127.0.0.1:{listener.getsockname()[1]}", "x"))
        assert [api.ask("POST", "/api/jobs", {}).status for _ in range(3)] == [200, 200, 200]
        api.close()
