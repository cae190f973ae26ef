"""A push process that runs, and clients of it."""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from django.db.models import F
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from harness.processes import Process
from harness.waiting import answers, wait_until
from jobs import services
from jobs.models import Job
from jobs.schemas import JobOut

PATIENCE_S = 20  # far more than anything here takes


def argv_of(port: int) -> list[str]:
    options = ["-k", "asgi", "-b", f"127.0.0.1:{port}", "--no-control-socket"]
    return ["gunicorn", *options, "config.asgi:application"]


class Push:
    """A running push process, and clients of it."""

    def __init__(self, port: int, process: Process) -> None:
        self.port, self.process = port, process
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_S)
        wait_until(lambda: process.alive() and answers(port), why="the push process answers")

    def socket(self, path: str, token: str = "", origin: str | None = None, **headers: str) -> ClientConnection:
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        url = f"ws://127.0.0.1:{self.port}{path}"
        return connect(url, additional_headers=headers, origin=origin, proxy=None)  # type: ignore[arg-type]

    def follow(self, job_id: uuid.UUID, token: str) -> ClientConnection:
        return self.socket(f"/ws/jobs/{job_id}", token)

    @contextmanager
    def stream(self, job_id: uuid.UUID, token: str) -> Iterator[Iterator[dict[str, str]]]:
        headers = {"Authorization": f"Bearer {token}"}
        with self.http.stream("GET", f"/api/jobs/{job_id}/events", headers=headers) as response:
            assert response.status_code == 200
            yield events_of(response)

    def gauge(self, name: str) -> float:
        page = self.http.get("/metrics").text
        return float(re.search(rf"^headrace_push_{name} (\S+)$", page, re.MULTILINE)[1])  # type: ignore[index]


def events_of(response: httpx2.Response) -> Iterator[dict[str, str]]:
    """Each event of a text/event-stream as its fields."""
    event: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            event[name] = value
        elif event:
            yield event
            event = {}


def claim_of(job: Job) -> services.Claim:
    claim = services.claim(job.pk, "quick-1@host", "solo")
    assert claim
    return claim


def bump(job: Job, **values: Any) -> None:
    """A change of which no hint tells."""
    Job.objects.filter(pk=job.pk).update(version=F("version") + 1, **values)


def received(client: ClientConnection) -> dict[str, Any]:
    """The job of the next message."""
    while (message := json.loads(client.recv(timeout=PATIENCE_S)))["type"] == "alive":
        pass
    assert set(message) == {"type", "job", "sent_at"}
    assert JobOut.model_validate(message["job"])
    job: dict[str, Any] = message["job"]
    return job


def close_code(client: ClientConnection) -> int:
    try:
        while True:
            client.recv(timeout=PATIENCE_S)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006
