"""A client of each side: submits one job, and waits until it knows the result."""

import asyncio
import time
from collections import defaultdict
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

    async def submit(self, body: Json) -> Json:
        """Submit a job; what was answered."""
        ...

    async def submit_many(self, way: str, bodies: list[Json]) -> list[str]:
        """Submit many in one request; their ids."""
        ...

    async def look(self, job_id: str) -> Json | None:
        """The result of a job, if it has one."""
        ...

    def close(self) -> None: ...


def since(moment: str) -> float:
    """Seconds from a server's time to now: client and servers share one clock here."""
    return time.time() - datetime.fromisoformat(moment).timestamp()


def _seen(due: float, answered: float, body: Json, ended: Json) -> Seen:
    now = time.monotonic()
    timings: dict[str, Any] = ended.get("timings", {})
    return Seen(
        told_at=now,
        submit=answered - due,
        end_to_end=now - due,
        notify=since(ended["finished_at"]),
        queue_wait=timings.get("queue_wait"),
        run=timings.get("run"),
        params=body["params"],
        result=ended["result"],
    )


class Polling:
    """A client of what is in the baseline's place: asks every POLL_S seconds."""

    def __init__(self, port: int, cookie: str) -> None:
        self.http = Http(port, {"Cookie": cookie})

    async def one(self, body: Json, due: float) -> Seen:
        task = await self.submit(body)
        answered = time.monotonic()
        while task.get("status") != "SUCCESS":
            await asyncio.sleep(POLL_S)
            _, task = await self.http.ask("GET", f"/tasks/{task['id']}")
            if task["status"] == "FAILURE":
                raise BenchError(f"A task of the baseline failed: {task['result']}.")
        return _seen(due, answered, body, task)

    async def submit(self, body: Json) -> Json:
        return await accepted(self.http, "/tasks", body)

    async def submit_many(self, way: str, bodies: list[Json]) -> list[str]:
        ids: list[str] = (await accepted(self.http, f"/many/{way}", {"jobs": bodies}))["ids"]
        return ids

    async def look(self, job_id: str) -> Json | None:
        _, task = await self.http.ask("GET", f"/tasks/{job_id}")
        return task["result"] if task["status"] == "SUCCESS" else None

    def close(self) -> None:
        self.http.close()


async def accepted(http: Http, path: str, body: Json) -> Json:
    """What a submit was answered.

    Raises:
        BenchError: it was not accepted.
    """
    status, answer = await http.ask("POST", path, body)
    if status != 202:
        raise BenchError(f"The submit to {path} was answered {status}: {answer.get('detail')}.")
    return answer


class Pushed:
    """A client of Headrace: opens the job's WebSocket and is told."""

    def __init__(self, web_port: int, push_port: int, token: str) -> None:
        self.http = Http(web_port, {"Authorization": f"Bearer {token}"})
        self.push_port = push_port

    async def one(self, body: Json, due: float) -> Seen:
        job = await self.submit(body)
        answered = time.monotonic()
        ended = await self._followed(job)
        if ended["state"] != "succeeded":
            raise BenchError(f"A job of Headrace is {ended['state']}: {ended['error']}.")
        return _seen(due, answered, body, ended)

    async def _followed(self, job: Json) -> Json:
        async with aclosing(messages(self.push_port, job["ws_url"], self.http.lines)) as heard:
            async for message in heard:
                job = message.get("job", job)
                if job["state"] in ENDED:
                    break
        return job

    async def submit(self, body: Json) -> Json:
        return await accepted(self.http, "/api/jobs", body)

    async def submit_many(self, way: str, bodies: list[Json]) -> list[str]:
        answer = await accepted(self.http, f"/api/jobs/{way}", {"jobs": bodies})
        return [job["id"] for job in answer["jobs"]]

    async def look(self, job_id: str) -> Json | None:
        _, job = await self.http.ask("GET", f"/api/jobs/{job_id}")
        return job["result"] if job["state"] == "succeeded" else None

    def close(self) -> None:
        self.http.close()


class OneSocket(Pushed):
    """A client of Headrace that is told of all of its jobs on one WebSocket, perhaps before a submit is answered."""

    path = "/ws/jobs"

    def __init__(self, web_port: int, push_port: int, token: str) -> None:
        super().__init__(web_port, push_port, token)
        self._ended: defaultdict[str, asyncio.Future[Json]] = defaultdict(asyncio.Future)
        self._first: asyncio.Future[Json] = asyncio.Future()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async with aclosing(messages(self.push_port, self.path, self.http.lines)) as heard:
            async for message in heard:
                if not self._first.done():
                    self._first.set_result(message)
                job = message.get("job")
                if job and job["state"] in ENDED and not self._ended[job["id"]].done():
                    self._ended[job["id"]].set_result(job)
        raise BenchError(f"The WebSocket {self.path} was closed while its client listened.")

    async def _heard(self, awaited: "asyncio.Future[Json]") -> Json:
        """What the socket says, or why it says nothing more."""
        either: set[asyncio.Future[Any]] = {awaited, self._listening}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            self._listening.result()
        return awaited.result()

    async def opened(self) -> None:
        """Return once nothing can be missed.

        Raises:
            Closed: the release has no such socket, or the server has closed it.
        """
        await self._heard(self._first)

    async def one(self, body: Json, due: float) -> Seen:
        await self.opened()
        return await super().one(body, due)

    async def _followed(self, job: Json) -> Json:
        try:
            return await self._heard(self._ended[job["id"]])
        finally:
            del self._ended[job["id"]]

    def close(self) -> None:
        self._listening.cancel()
        super().close()
