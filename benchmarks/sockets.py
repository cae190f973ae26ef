"""What the followers of one job cost: many WebSockets through an nginx as the edge has it, on two push processes."""

import asyncio
import os
import resource
import shutil
import ssl
import statistics
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import BenchError, NotInstalled
from benchmarks.cases import FOLLOWED, HEADRACE
from benchmarks.clients import ENDED, Pushed, since
from benchmarks.figures import MS, AtRest, Figures, verdicts
from benchmarks.meters import Reading
from benchmarks.report import Title, number, verdict
from benchmarks.stacks import Bench, Headrace, Servers
from benchmarks.wire import Json, messages
from harness import ROOT
from harness.processes import Process, until_ready
from harness.waiting import answers, free_port

CASE = "sockets"
PUSH_WORKERS, AT_ONCE = 2, 50  # processes; WebSockets that are being opened
WARM, PATIENCE_S, SETTLE_S = 20, 180.0, 1.0  # what a process makes once is made for the first few followers
SPARE_FILES = 500
ROLE = ROOT / "playbooks/roles/nginx/templates/etc/nginx"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
KINDS = {"push": "push", "edge": "nginx", "client": "the client"}


def _costs(leg: str) -> dict[str, Title]:
    cpu = {f"{leg}_{kind}_cpu": (f"  CPU of {name} for each", "ms") for kind, name in KINDS.items()}
    counts = {
        f"{leg}_statements": ("  SQL statements for all", ""),
        f"{leg}_commands": ("  Redis commands for all", ""),
    }
    return cpu | counts


ROWS = {
    "opened_per_s": ("opened", "1/s"),
    **_costs("open"),
    "push_kb": ("memory of push for each", "kB"),
    "edge_kb": ("memory of nginx for each", "kB"),
    "told_s": ("from the end to the last being told", "s"),
    "told_p50_s": ("  to half of them", "s"),
    **_costs("end"),
}


@dataclass(frozen=True)
class Size:
    followers: int = 2000
    rest_s: float = 5.0


FEW = Size(100, 1.0)  # enough to see that it works


def nginx() -> str:
    """Where it is.

    Raises:
        NotInstalled: nowhere.
    """
    if found := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        return found
    raise NotInstalled("There is no nginx here: apt-get install --no-install-recommends nginx-light.")


def raise_limit(followers: int) -> None:
    """Let this process, and those that it starts, have enough open files: one of nginx's may have two for each.

    Raises:
        NotInstalled: that is more than we may.
    """
    needed = 2 * (followers + WARM) + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise NotInstalled(
            f"{followers:,} followers need {needed:,} open files in one process, and {hard:,} are allowed here: raise "
            f"that as root (`ulimit -Hn {needed}`), or try it with --quick."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if soft == resource.RLIM_INFINITY else max(soft, needed), hard))


def certificate(folder: Path) -> ssl.SSLContext:
    """Make one that is signed by itself; what a client trusts that knows it.

    Raises:
        NotInstalled: there is no openssl.
    """
    if (openssl := shutil.which("openssl")) is None:
        raise NotInstalled("There is no openssl here, for the certificate of nginx: apt-get install openssl.")
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-subj", "/CN=bench"]
    files = ["-keyout", str(folder / "edge.key"), "-out", str(folder / "edge.crt")]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([openssl, "req", *kind, *names, *files], check=True, capture_output=True)
    return ssl.create_default_context(cafile=folder / "edge.crt")


def config(folder: Path, port: int, push_port: int, followers: int) -> str:
    """nginx.conf: what the role nginx writes of TLS and the way to push, with room for one address to have so many."""
    temporary = "\n".join(f"    {name}_temp_path {folder}/{name};" for name in TEMPORARY)
    return f"""\
worker_processes auto;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{
    worker_connections {2 * (followers + WARM) + SPARE_FILES};
}}
http {{
{temporary}
    access_log off;
    include {folder}/common-http.conf;
    limit_conn_zone $binary_remote_addr zone=push:10m;
    ssl_certificate {folder}/edge.crt;
    ssl_certificate_key {folder}/edge.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers off;
    ssl_session_cache shared:tls:10m;
    ssl_session_timeout 1d;
    ssl_session_tickets off;
    ssl_buffer_size 4k;
    upstream push {{
        least_conn;
        server 127.0.0.1:{push_port};
    }}
    server {{
        listen 127.0.0.1:{port} ssl;
        location /ws/ {{
            limit_conn push {followers + WARM};
            proxy_pass http://push;
            proxy_buffering off;
            proxy_read_timeout 300s;
            proxy_send_timeout 300s;
        }}
    }}
}}
"""


class Followed(Headrace):
    """Ours, with two push processes behind an edge. No worker: what is followed waits in the ledger until it is
    cancelled.
    """

    def __init__(self, servers: Servers, logs: Path, followers: int) -> None:
        super().__init__(servers, logs)
        self.followers, self.push_workers = followers, PUSH_WORKERS
        # One process may get nearly all: both take what comes.
        self.environment["HEADRACE_MAX_FOLLOWED"] = str(followers + WARM)

    def start(self) -> None:
        super().start()
        folder, self.edge_port = self.servers.directory / "edge", free_port()
        folder.mkdir()
        self.tls = certificate(folder)
        shutil.copy(ROLE / "common-http.conf", folder)
        (folder / "nginx.conf").write_text(config(folder, self.edge_port, self.push_port, self.followers))
        as_nobody: dict[str, Any] = {}
        if os.geteuid() == 0:
            for path in (folder, folder / "edge.key"):
                shutil.chown(path, "www-data", "www-data")
            as_nobody = {"user": "www-data", "group": "www-data", "extra_groups": []}
        command: list[str | Path] = [nginx(), "-c", folder / "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
        self.units.append(Process("edge", command, self.logs / f"{self.name}-edge.log", cwd=folder, **as_nobody))
        until_ready(lambda: answers(self.edge_port), "nginx", self.units)

    def _spawn_workers(self) -> list[str]:
        return []

    def client(self) -> Pushed:
        return Pushed(self.web_port, self.edge_port, self.token)


class Followers:
    """Many clients of one job. They say goodbye when all have been told: on machines of their own they would not take
    the time of those who wait.
    """

    def __init__(self, number: int, client: Pushed, tls: ssl.SSLContext, job: Json) -> None:
        self.number, self.client, self.tls, self.job = number, client, tls, job
        self.told: list[float] = []  # seconds from the job's end until each was told
        self._gate, self._opened = asyncio.Semaphore(AT_ONCE), 0
        self._all_opened, self._all_told = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """From the moment when each has heard what the job is; all have heard of its end afterwards.

        Raises:
            ExceptionGroup: of BenchError, from those that heard something else.
        """
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for _ in range(self.number):
                group.create_task(self._follow())
            await self._all_opened.wait()
            yield

    async def _follow(self) -> None:
        path = self.job["ws_url"]
        async with aclosing(messages(self.client.push_port, path, self.client.http.lines, self.tls)) as heard:
            async with self._gate:
                await anext(heard)
            self._opened += 1
            if self._opened == self.number:
                self._all_opened.set()
            async for message in heard:
                job = message.get("job", {})
                if job.get("state") in ENDED:
                    return await self._has_been_told(job)
        raise BenchError(f"The WebSocket {path} was closed before it told of the end.")

    async def _has_been_told(self, job: Json) -> None:
        self.told.append(since(job["finished_at"]))
        if len(self.told) == self.number:
            self._all_told.set()
        await self._all_told.wait()


async def _job(client: Pushed) -> Json:
    """A job that waits for its time, which does not come: nothing happens to it but what we do."""
    later = datetime.now(UTC) + timedelta(hours=1)
    return await client.submit({"kind": "digest", "params": {"text": "water"}, "run_after": later.isoformat()})


async def _end(client: Pushed, job: Json) -> None:
    status, answer = await client.http.ask("POST", f"{job['url']}/cancel")
    if status != 200:
        raise BenchError(f"The job was not cancelled: {answer.get('detail')}")


async def _warm(client: Pushed, tls: ssl.SSLContext) -> None:
    job = await _job(client)
    async with Followers(WARM, client, tls, job).opened():
        await _end(client, job)


@dataclass(frozen=True)
class Took:
    """What was seen."""

    rest: AtRest
    opening: Reading
    ending: Reading
    grown: Mapping[str, float]  # kB
    told: Sequence[float]

    def figures(self) -> Figures:
        """Of all followers together, or of one where the row says so."""
        followers = len(self.told)
        found: Figures = {"followers": followers, "opened_per_s": followers / self.opening.seconds}
        for name, took in (("open", self.opening), ("end", self.ending)):
            found |= {f"{name}_{kind}_cpu": took.cpu[kind] * MS / followers for kind in KINDS}
            found[f"{name}_statements"] = max(0.0, took.statements - self.rest.statements * took.seconds)
            found[f"{name}_commands"] = max(0.0, sum(took.commands.values()) - self.rest.commands * took.seconds)
        found |= {f"{kind}_kb": kb / followers for kind, kb in self.grown.items()}
        return {**found, "told_s": max(self.told), "told_p50_s": statistics.median(self.told)}


async def measure(side: Followed, size: Size) -> Figures:
    """Open, look, end, look."""
    client, meters = side.client(), side.meters()
    await _warm(client, side.tls)
    before = meters.read()
    await asyncio.sleep(size.rest_s)
    rest = AtRest(*(meters.read() - before).per_second())
    job = await _job(client)
    followers = Followers(size.followers, client, side.tls, job)
    memory, before = meters.memory("push", "edge"), meters.read()
    async with followers.opened():
        opening = meters.read() - before
        await asyncio.sleep(SETTLE_S)
        grown = {kind: used - memory[kind] for kind, used in meters.memory("push", "edge").items()}
        before = meters.read()
        await _end(client, job)
    await asyncio.sleep(SETTLE_S)  # until the time of the notify is stored
    ending = meters.read() - before
    client.close()
    return Took(rest, opening, ending, grown, followers.told).figures()


def sockets(size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    """Start Headrace alone with its edge, and measure.

    Raises:
        NotInstalled: there is no nginx, or this machine allows too few open files.
    """
    nginx()
    raise_limit(size.followers)
    with Bench(partial(Followed, followers=size.followers)) as bench:
        bench.start()
        side = bench.ours
        assert isinstance(side, Followed)  # noqa: S101  (for mypy)
        say(f"{len(side.units)} units are up; opening {size.followers:,} WebSockets, {AT_ONCE} at once")
        found = asyncio.run(measure(side, size))
    return {**found, "aims": verdicts(FOLLOWED, {CASE: {HEADRACE: found}})}


def table(found: dict[str, Any]) -> Table:
    shown = Table("measure", "", "aim", title=f"{found['followers']:,} followers of one job, on two push processes")
    for row in _rows(found):
        shown.add_row(*row)
    return shown


def _rows(found: dict[str, Any]) -> Iterator[list[str]]:
    for name, (title, unit) in ROWS.items():
        aims = [verdict(aim) for aim in found["aims"] if aim["measure"] == name]
        yield [f"{title}, {unit}" if unit else title, number(found[name]), *(aims or [""])]
