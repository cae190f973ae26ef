"""Servers that go away and come back, and the workers that wait for them."""

import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
import redis
from django.db import OperationalError, connection

from harness.processes import Process
from harness.servers import Redis
from harness.waiting import wait_until
from jobs import services
from jobs.models import Job
from kinds.base import Outcome, Part, Split
from tests.app.test_faults import LANES, ask, ended, running
from worker.attempt import execute

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def away(database_url: str) -> Iterator[None]:
    """Every connection to the database is cut, and it takes no new ones."""
    address, _, name = database_url.rpartition("/")
    connection.close()
    with psycopg.connect(f"{address}/template1", autocommit=True) as elsewhere:
        elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            elsewhere.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            yield
        finally:
            elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize(("lane", "patience_s"), [("cpu", "30"), ("io", "30"), ("quick", "30"), ("io", "0.5")])
def test_claim_waits_for_the_database_and_then_gives_its_message_back(
    lane: str,
    patience_s: str,
    user: Any,
    start_worker: Callable[..., Process],
    empty_broker: Redis,
    database_url: str,
) -> None:
    """There is no sweeper here: a message that was dropped would never run."""
    worker = start_worker(lane, HEADRACE_LEASE_S=patience_s)
    worker.signal(signal.SIGSTOP)
    job_id = ask(user, "wait", lane=lane, ms=1)
    with away(database_url):
        worker.signal(signal.SIGCONT)
        wait_until(
            lambda: worker.output().count("the database does not take it: trying again") >= 6, why="the claim waits"
        )
    done = ended(job_id)
    assert (done.state, done.attempt) == ("succeeded", 1), done.error


@pytest.mark.parametrize("lane", LANES)
def test_what_an_attempt_has_made_is_held_until_the_database_is_back(
    lane: str, user: Any, start_worker: Callable[..., Process], empty_broker: Redis, database_url: str
) -> None:
    """For longer than two leases. There is no sweeper here: a job whose output was discarded would never end."""
    worker = start_worker(lane, HEADRACE_LEASE_S="0.5")
    job_id = ask(user, "wait", lane=lane, ms=1000)
    running(job_id)
    with away(database_url):
        wait_until(lambda: worker.output().count("the database does not take it: trying again") >= 6, why="it waits")
    done = ended(job_id)
    assert (done.state, done.attempt) == ("succeeded", 1), done.error


@pytest.mark.parametrize("table", ["jobs_job", "fleet_worker"])
def test_live_workers_keep_their_jobs_while_a_table_is_locked(
    table: str,
    user: Any,
    start_worker: Callable[..., Process],
    sweeper: Process,
    empty_broker: Redis,
    database_url: str,
) -> None:
    """For longer than a lease, as CREATE INDEX takes it, and twice."""
    start_worker("io", slots=3)
    jobs = [ask(user, "wait", lane="io", ms=14_000) for _ in range(3)]
    for job_id in jobs:
        running(job_id)
    with psycopg.connect(database_url) as theirs:
        for _ in range(2):
            theirs.execute(f"LOCK TABLE {table} IN SHARE MODE")
            theirs.execute("SELECT pg_sleep(5)")
            theirs.commit()
            theirs.execute("SELECT pg_sleep(1)")
            theirs.commit()
    for job_id in jobs:
        done = ended(job_id)
        assert (done.state, done.attempt) == ("succeeded", 1), done.error


def test_outputs_that_the_ledger_cannot_take_fail_their_job(
    user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split into nothing, into a kind that is not there, and a result that PostgreSQL refuses."""
    outcomes = [Split([]), Split([Part("nothing", {})]), Outcome({"text": "\x00"})]
    for outcome in outcomes:
        job_id = ask(user, "digest")
        monkeypatch.setattr("worker.attempt._run", lambda *_, made=outcome: made)
        execute([job_id], "w@h")
        job = Job.objects.get(pk=job_id)
        assert (job.state, job.attempt) == ("failed", 1)
        assert job.error == "The digest kind failed in a way its author did not expect."


def test_claim_whose_answer_was_lost_is_given_up(
    user: Any, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, claim = ask(user, "digest"), services.claim_all

    def answer_lost(*args: Any) -> None:
        monkeypatch.setattr(services, "claim_all", claim)
        claim(*args)
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(services, "claim_all", answer_lost)
    execute([job_id], "w@h")
    job = Job.objects.get(pk=job_id)
    assert (job.state, job.attempt, job.lease_until) == ("queued", 1, None)
    execute([job_id], "w@h")
    assert ended(job_id).attempt == 2


class Wire(socketserver.ThreadingTCPServer):
    """A network between a worker and its broker; what was connected when it was cut stays dead, without a reset."""

    daemon_threads = True
    cuts, whole = 0, True

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(("127.0.0.1", 0), Ends)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @contextmanager
    def cut(self) -> Iterator[None]:
        self.cuts, self.whole = self.cuts + 1, False
        yield
        self.whole = True


class Ends(socketserver.BaseRequestHandler):
    """One connection through the wire."""

    server: Wire

    def handle(self) -> None:
        cuts = self.server.cuts if self.server.whole else -1
        with socket.create_connection(("127.0.0.1", self.server.port)) as far:
            pumps = [(self.request, far), (far, self.request)]
            threads = [threading.Thread(target=self.pump, args=(*pair, cuts), daemon=True) for pair in pumps]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def pump(self, near: socket.socket, far: socket.socket, cuts: int) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                if self.server.cuts == cuts:
                    far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)


def test_worker_that_was_cut_off_from_its_broker_comes_back(
    user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    """Nothing tells it that its connections are dead; what ran all the while runs on, once."""
    with Wire(empty_broker.port) as wire:
        through = empty_broker.url.replace(f":{empty_broker.port}/", f":{wire.server_address[1]}/")
        worker = start_worker("io", slots=2, HEADRACE_BROKER_URL=through)
        long = ask(user, "wait", lane="io", ms=14_000)
        running(long)
        with wire.cut():
            time.sleep(10)
        back = time.monotonic()
        assert ended(ask(user, "wait", lane="io", ms=1)).state == "succeeded"
        assert time.monotonic() - back < 15
        assert (ended(long).state, ended(long).attempt) == ("succeeded", 1)
        assert worker.alive()
        wire.shutdown()


@pytest.mark.parametrize("lane", LANES)
def test_worker_waits_for_a_broker_that_refuses_writes(
    lane: str, user: Any, start_worker: Callable[..., Process], sweeper: Process, empty_broker: Redis
) -> None:
    """As one does whose replica is away, if it was told to have one; what runs runs on."""
    worker = start_worker(lane)
    client = redis.Redis.from_url(empty_broker.url)
    jobs = [ask(user, "wait", lane=lane, ms=2000)]
    running(jobs[0])
    client.config_set("min-replicas-to-write", 1)
    try:
        jobs.append(ask(user, "wait", lane=lane, ms=1))
        ended(jobs[0])
        wait_until(lambda: worker.output().count("Cannot connect to redis") >= 3, 60, "it tries to come back")
    finally:
        client.config_set("min-replicas-to-write", 0)
    for job_id in jobs:
        done = ended(job_id)
        assert (done.state, done.attempt) == ("succeeded", 1), done.error
    assert worker.alive()
