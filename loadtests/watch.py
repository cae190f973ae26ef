"""Looks, every second of a run, at the lanes, the load generator, this host's processes, Redis and PostgreSQL."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import gevent
import psutil
import psycopg
import redis

from loadtests import clock
from loadtests.api import Api, NotAccepted
from loadtests.samples import GeneratorSample, HostSample, LaneSample, Queue, StoreRate, StoreSample

EVERY_S = 1.0
TICK_S = 0.02
SEARCH_EVERY_S = 10.0
"""How often this host's processes are searched for new ones."""


def every(seconds: float, look: Callable[[], None]) -> "gevent.Greenlet[[], None]":
    """Call `look` at even times, in a greenlet, until that is killed."""

    def loop() -> None:
        due = clock.now()
        while True:
            look()
            due = max(due + seconds, clock.now())
            gevent.sleep(due - clock.now())

    return gevent.spawn(loop)


class Lanes:
    """What waits and runs on each lane, as the server says. A look that the server does not answer leaves a gap."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.samples: list[LaneSample] = []

    def look(self) -> None:
        """Take a sample."""
        with contextlib.suppress(NotAccepted):
            items = self.api.ask("GET", "/api/lanes").body["items"]
            lanes = {one["name"]: Queue(one["queued"], one["running"], one["oldest_queued_s"]) for one in items}
            self.samples.append(LaneSample(clock.now(), lanes))


@dataclass
class Generator:
    """This process: how busy it is, and how late its event loop runs what is due."""

    name: str = field(default_factory=lambda: f"{socket.gethostname()}/{os.getpid()}")
    samples: list[GeneratorSample] = field(default_factory=list)
    _delays: list[float] = field(default_factory=list)
    _seen: tuple[float, float] = (0.0, 0.0)

    def tick(self) -> None:
        """For ever: sleep for a moment, and note how much longer it took."""
        while True:
            due = time.perf_counter() + TICK_S
            gevent.sleep(TICK_S)
            self._delays.append(max(0.0, time.perf_counter() - due))

    def look(self) -> None:
        """Take a sample of the time since the last look."""
        at, cpu = time.perf_counter(), time.process_time()
        if self._seen[0]:
            share = (cpu - self._seen[1]) / (at - self._seen[0])
            self.samples.append(GeneratorSample(clock.now(), share, self._delays))
        self._seen, self._delays = (at, cpu), []

    def news(self) -> list[GeneratorSample]:
        """The samples since the last call."""
        samples, self.samples = self.samples, []
        return samples


class Host:
    """CPU and memory by what the processes do; `known` is whether the server runs on this host."""

    def __init__(self, address: str) -> None:
        self.samples: list[HostSample] = []
        self.cores = psutil.cpu_count() or 1
        self._port = urlsplit(address).port or (443 if address.startswith("https") else 80)
        self.known = is_here(urlsplit(address).hostname or "")
        self._groups: dict[int, tuple[str, psutil.Process]] = {}
        self._cpu: dict[int, float] = {}
        self._found_at = self._looked_at = 0.0
        psutil.cpu_percent()

    def look(self) -> None:
        """Take a sample, in a thread: reading hundreds of files of /proc here would delay every client."""
        gevent.get_hub().threadpool.apply(self._look)

    def _look(self) -> None:
        at = clock.now()
        if self.known and at - self._found_at > SEARCH_EVERY_S:
            self._groups, self._found_at = dict(found(self._port)), at
        cpu, memory = self._by_group(at - self._looked_at)
        busy = psutil.cpu_percent() / 100 * self.cores
        if self._looked_at:
            self.samples.append(HostSample(at, busy, cpu, memory))
        self._looked_at = at

    def _by_group(self, seconds: float) -> tuple[dict[str, float], dict[str, int]]:
        """Cores in use over the last seconds, and bytes of memory, of each group."""
        cpu: dict[str, float] = {}
        memory: dict[str, int] = {}
        for pid, (group, process) in self._groups.items():
            with contextlib.suppress(psutil.Error):
                times, size = process.cpu_times(), process.memory_info().rss
                spent = times.user + times.system
                cpu[group] = cpu.get(group, 0.0) + max(0.0, spent - self._cpu.get(pid, spent)) / seconds
                memory[group] = memory.get(group, 0) + size
                self._cpu[pid] = spent
        return cpu, memory


def is_here(host: str) -> bool:
    """Whether a name or an address is this host's own loopback."""
    with contextlib.suppress(OSError):
        return all(str(one[4][0]).startswith(("127.", "::1")) for one in socket.getaddrinfo(host, None))
    return False


def found(port: int) -> Iterable[tuple[int, tuple[str, psutil.Process]]]:
    """The processes of the server that listens on a port of this host, by id, each with its group."""
    for process in _family(port):
        with contextlib.suppress(psutil.Error):
            group = group_of(" ".join(process.cmdline()))
            if group and process.pid != os.getpid():
                yield process.pid, (group, process)


def _family(port: int) -> list[psutil.Process]:
    """What the demo that listens on the port has started; if it is no demo, every process of this host."""
    with contextlib.suppress(psutil.Error):
        for one in psutil.net_connections("tcp"):
            if one.status == "LISTEN" and one.laddr.port == port and one.pid:
                parents = psutil.Process(one.pid).parents()
                demos = [parent for parent in parents if DEMO in " ".join(parent.cmdline())]
                return demos[0].children(recursive=True) if demos else list(psutil.process_iter())
    return list(psutil.process_iter())


DEMO = " -m demo"
GROUPS = (
    ("config.wsgi", "web"),
    ("demo.edge", "edge and push"),
    ("config.asgi", "push"),
    ("manage.py sweep", "sweeper"),
    ("beat", "beat"),
    ("redis-server", "redis"),
    ("valkey-server", "redis"),
    ("postgres", "postgresql"),
    ("nginx", "nginx"),
)


def group_of(command: str) -> str:
    """The group of a process by its command line; empty if it is none of Headrace's."""
    if unit := re.search(r" --hostname=(\S+)-\d+@", command):  # deploy/worker.py writes it so
        return f"worker {unit[1]}"
    return next((group for mark, group in GROUPS if mark in command), "")


TIMEOUT_S = 2
TRANSACTIONS = "SELECT sum(xact_commit + xact_rollback), sum(numbackends) FROM pg_stat_database"
Ask = Callable[[], tuple[float, float]]
"""How many commands or transactions there have been, and how many connections there are."""


class Stores:
    """What Redis and PostgreSQL do, if the environment names them as it does for the application.

    `missing` says by name why one is not looked at.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.samples: list[StoreSample] = []
        self.missing: dict[str, str] = {}
        self._asks: dict[str, Ask] = {}
        self._counted: dict[str, tuple[float, float]] = {}
        self._add("redis", "redis", "HEADRACE_BROKER_URL", environ, _redis)
        self._add("postgresql", "postgres", "HEADRACE_DATABASE_URL", environ, _postgresql)

    def _add(self, name: str, scheme: str, variable: str, environ: Mapping[str, str], ask: Any) -> None:
        url = environ.get(variable)
        if url and url.startswith(scheme):
            self._asks[name] = ask(url)
        else:
            self.missing[name] = f"{variable} does not say where it is" if not url else "there is none"

    def look(self) -> None:
        """Take a sample. One that cannot be asked is not asked again."""
        found = {name: rates for name, ask in list(self._asks.items()) if (rates := self._rates(name, ask))}
        if found:
            self.samples.append(StoreSample(clock.now(), **found))

    def _rates(self, name: str, ask: Ask) -> StoreRate | None:
        try:
            count, connections = ask()
        except (redis.RedisError, psycopg.Error, OSError) as error:
            self.missing[name] = " ".join(str(error).split()) or type(error).__name__
            del self._asks[name]
            return None
        at, before = clock.now(), self._counted.get(name)
        self._counted[name] = (at, count)
        return StoreRate((count - before[1]) / (at - before[0]), connections) if before else None


def _redis(url: str) -> Ask:
    client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)

    def ask() -> tuple[float, float]:
        info: Any = client.info()
        return float(info["total_commands_processed"]), float(info["connected_clients"])

    return ask


def _postgresql(url: str) -> Ask:
    kept: list[Any] = []

    def ask() -> tuple[float, float]:
        if not kept:
            kept.append(psycopg.connect(url, connect_timeout=TIMEOUT_S, autocommit=True))
        with contextlib.closing(kept[0].execute(TRANSACTIONS)) as cursor:
            count, connections = cursor.fetchone()
        return float(count), float(connections)

    return ask
