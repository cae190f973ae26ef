"""A client of each side: submits one job, and waits until it knows the result."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from benchmarks import BenchError
from benchmarks.wire import Http, Json, messages

POLL_S = 0.5
ENDED = {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True)
class Seen:
    """One job as its client saw it; all in seconds. What a side does not tell is None."""

    told_at: float  # on the monotonic clock
    submit: float
    end_to_end: float
    notify: float
    queue_wait: float | None
    run: float | None
    params: Json
    result: Json


class Client(Protocol):
    async def one(self, body: Json, due: float) -> Seen:
        """Submit a job that was due at this time (monotonic) and follow it to its end."""
        ...

    def close(self) -> None: ...


def _since(moment: str) -> float:
    """Seconds from a server's time to now: client and servers share one clock here."""
    return time.time() - datetime.fromisoformat(moment).timestamp()


def _seen(due: float, answered: float, body: Json, ended: Json) -> Seen:
    now = time.monotonic()
    timings: dict[str, Any] = ended.get("timings", {})
    return Seen(
        told_at=now,
        submit=answered - due,
        end_to_end=now - due,
        notify=_since(ended["finished_at"]),
        queue_wait=timings.get("queue_wait"),
        run=timings.get("run"),
        params=body["params"],
        result=ended["result"],
    )


class Polling:
    """A client of the baseline: asks every POLL_S seconds."""

    def __init__(self, port: int, cookie: str) -> None:
        self.http = Http(port, {"Cookie": cookie})

    async def one(self, body: Json, due: float) -> Seen:
        status, task = await self.http.ask("POST", "/tasks", body)
        if status != 202:
            raise BenchError(f"The baseline answered a submit with {status}.")
        answered = time.monotonic()
        while task.get("status") != "SUCCESS":
            await asyncio.sleep(POLL_S)
            _, task = await self.http.ask("GET", f"/tasks/{task['id']}")
            if task["status"] == "FAILURE":
                raise BenchError(f"A task of the baseline failed: {task['result']}.")
        return _seen(due, answered, body, task)

    def close(self) -> None:
        self.http.close()


class Pushed:
    """A client of Headrace: opens the job's WebSocket and is told."""

    def __init__(self, web_port: int, push_port: int, token: str) -> None:
        self.http = Http(web_port, {"Authorization": f"Bearer {token}"})
        self.push_port = push_port

    async def one(self, body: Json, due: float) -> Seen:
        status, job = await self.http.ask("POST", "/api/jobs", body)
        if status != 202:
            raise BenchError(f"Headrace answered a submit with {status}: {job.get('detail')}.")
        answered = time.monotonic()
        async with aclosing(messages(self.push_port, job["ws_url"], self.http.lines)) as heard:
            async for message in heard:
                job = message.get("job", job)
                if job["state"] in ENDED:
                    break
        if job["state"] != "succeeded":
            raise BenchError(f"A job of Headrace is {job['state']}: {job['error']}.")
        return _seen(due, answered, body, job)

    def close(self) -> None:
        self.http.close()
