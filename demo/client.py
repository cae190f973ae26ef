"""A client of the API: submits a job of every kind, follows each over its WebSocket, fetches its result."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx2
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from demo import DemoError, checks

PATIENCE_S = 600.0
SYNTHETIC_MS = 150
FINISHED = {"succeeded", "failed", "cancelled"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """A job that has ended, how long after its end the client was told, and what checking it said."""

    job: Json
    artifact: bytes
    notify_s: float
    verified: bool = False
    finding: str = ""


def submissions(kinds: list[Json], site: str) -> Iterator[Json]:
    """One job of every kind, with its own defaults; where a kind leaves the lane open, one a lane."""
    ours: dict[str, Json] = {"fetch": {"url": f"{site}/weir.html"}, "linkcheck": {"url": f"{site}/"}}
    for kind in kinds:
        if kind["lane"] is not None:
            yield {"kind": kind["name"], "params": ours.get(kind["name"], {})}
            continue
        for lane in kind["schema"]["properties"]["lane"]["enum"]:
            yield {"kind": kind["name"], "params": {"lane": lane, "ms": SYNTHETIC_MS}}


class Client:
    """One user of one Headrace; `tls` says whom to trust where the address is https."""

    def __init__(self, address: str, token: str, console: Console, tls: ssl.SSLContext | None = None) -> None:
        self.console, self.drawn, self.tls = console, console.is_terminal, tls
        self.headers = {"Authorization": f"Bearer {token}"}
        self.sockets = address.replace("http", "ws", 1)
        self.http = httpx2.AsyncClient(
            base_url=address, headers=self.headers, timeout=30, trust_env=False, verify=tls or True
        )

    async def run(self, site: str) -> list[Ended]:
        """Submit, follow and verify one job of every kind."""
        async with self.http:
            kinds = (await self.ask("GET", "/api/kinds")).json()["items"]
            try:
                async with asyncio.timeout(PATIENCE_S):
                    ended = await self.all_of(list(submissions(kinds, site)))
            except TimeoutError as error:
                raise DemoError(f"The jobs had not all ended after {PATIENCE_S:.0f} s.") from error
        return [checked(one, site) for one in ended]

    async def ask(self, method: str, path: str, body: Json | None = None) -> httpx2.Response:
        """One request; raises DemoError with the server's own sentence when it is not answered with success."""
        answer = await self.http.request(method, path, json=body)
        if answer.is_success:
            return answer
        problem = answer.headers.get("content-type", "").startswith("application/problem+json")
        raise DemoError(f"{method} {path}: {answer.json()['detail'] if problem else answer.status_code}")

    async def all_of(self, bodies: list[Json]) -> list[Ended]:
        """All side by side, each with a bar of its own (or a line, where there is no terminal)."""
        kind, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
        with Progress(
            kind, BarColumn(), TimeElapsedColumn(), note, console=self.console, disable=not self.drawn
        ) as bars:
            return await asyncio.gather(*(self.one(body, bars) for body in bodies))

    async def one(self, body: Json, bars: Progress) -> Ended:
        """Submit a job, follow it to its end, and fetch its result."""
        job = (await self.ask("POST", "/api/jobs", body)).json()
        bar = bars.add_task(f"{job['kind']} on {job['lane']}", total=1.0, note="")
        job, told_at = await self.follow(job, lambda now: show(bars, bar, now))
        if not self.drawn:
            self.console.print(f"{job['kind']} on {unit(job)}: {job['state']}")
        notify_s = (told_at - datetime.fromisoformat(job["finished_at"])).total_seconds()
        job = (await self.ask("GET", job["url"])).json()
        artifact = (await self.ask("GET", job["artifact_url"])).content if job["artifact_url"] else b""
        return Ended(job, artifact, notify_s)

    async def follow(self, job: Json, tell: Callable[[Json], None]) -> tuple[Json, datetime]:
        """The job when it has ended, and when we were told. A broken connection is opened again; nothing is missed."""
        address = self.sockets + job["ws_url"]
        async for socket in connect(address, additional_headers=self.headers, proxy=None, ssl=self.tls):
            with contextlib.suppress(ConnectionClosed):
                async for text in socket:
                    job, told_at = json.loads(text).get("job", job), datetime.now(UTC)
                    tell(job)
                    if job["state"] in FINISHED:
                        return job, told_at
            if 4000 <= (socket.close_code or 0) < 5000:  # the server's own codes: it will not say more next time
                raise DemoError(f"The WebSocket {job['ws_url']} was closed with {socket.close_code}.")
        raise AssertionError("connect() goes on for ever")


def show(bars: Progress, bar: TaskID, job: Json) -> None:
    """What the bar of a job says."""
    bars.update(bar, completed=job["progress"], note=job["note"] if job["state"] == "running" else job["state"])


def checked(ended: Ended, site: str) -> Ended:
    """With what checking its result says."""
    job = ended.job
    if job["state"] != "succeeded":
        return replace(ended, finding=f"NO: it {job['state']}: {job['error'] or 'no reason given'}")
    try:
        return replace(ended, verified=True, finding=checks.check(job, ended.artifact, site))
    except checks.WrongError as error:
        return replace(ended, finding=f"NO: {error}")


def unit(job: Json) -> str:
    """The worker unit's name, without its host."""
    return str(job["worker"]).partition("@")[0] or "-"


def between(job: Json, first: str, last: str) -> str:
    """The time from one of a job's moments to another."""
    if not (job[first] and job[last]):
        return "-"
    return took((datetime.fromisoformat(job[last]) - datetime.fromisoformat(job[first])).total_seconds())


def took(seconds: float) -> str:
    """A time, as people read it."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def table(jobs: list[Ended]) -> Table:
    """One row a job."""
    rows = Table("kind", "lane", "pool", "worker", title="One job of every kind")
    for column in ("queue wait", "run", "notify"):
        rows.add_column(column, justify="right", no_wrap=True)
    rows.add_column("verified")
    for ended in jobs:
        job = ended.job
        facts = job["kind"], job["lane"], job["pool"], unit(job)
        times = (
            between(job, "created_at", "started_at"),
            between(job, "started_at", "finished_at"),
            took(ended.notify_s),
        )
        rows.add_row(*facts, *times, ended.finding, style=None if ended.verified else "red")
    return rows
