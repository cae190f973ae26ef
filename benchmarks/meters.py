"""CPU time and memory by kind of process, from /proc; Redis commands, from INFO commandstats; SQL statements, from
pg_stat_statements.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
import redis

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
NOT_OURS = {"info", "exists"}  # what the measuring itself asks
# All of a database, whoever sent them: SELECT 1, BEGIN and COMMIT too. The measuring asks from a database of its own.
_STATEMENTS = """
    SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements(false) AS statement
    JOIN pg_database ON pg_database.oid = statement.dbid WHERE datname = %s"""


@dataclass(frozen=True)
class Reading:
    """What had been used up at some moment; the difference of two is what a leg took."""

    seconds: float
    cpu: Mapping[str, float]
    commands: Mapping[str, int]
    statements: int

    def __sub__(self, before: Self) -> "Reading":
        return Reading(
            self.seconds - before.seconds,
            {kind: used - before.cpu.get(kind, 0) for kind, used in self.cpu.items()},
            {name: n - before.commands.get(name, 0) for name, n in self.commands.items()},
            self.statements - before.statements,
        )

    def per_second(self) -> tuple[float, float]:
        """Redis commands and SQL statements."""
        return sum(self.commands.values()) / self.seconds, self.statements / self.seconds


def _processes() -> dict[int, tuple[int, float]]:
    """pid -> (parent, CPU seconds of it and of its children that have ended)."""
    found: dict[int, tuple[int, float]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        found[int(folder.name)] = int(fields[1]), sum(map(int, fields[11:15])) * TICK_S
    return found


def _trees(processes: Mapping[int, tuple[int, float]], roots: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The processes of each kind, and everything below them."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, (parent, _) in processes.items():
        children[parent].append(pid)

    def tree(pid: int) -> list[int]:
        return [pid, *(each for child in children[pid] for each in tree(child))]

    return {kind: [each for pid in pids for each in tree(pid)] for kind, pids in roots.items()}


def cpu_of(roots: Mapping[str, list[int]]) -> dict[str, float]:
    """CPU seconds of each kind: its processes and everything below them."""
    processes = _processes()
    trees = _trees(processes, roots)
    return {kind: sum(processes.get(pid, (0, 0.0))[1] for pid in pids) for kind, pids in trees.items()}


def memory_of(roots: Mapping[str, list[int]]) -> dict[str, float]:
    """kB of each kind: what is its own, and its share of what several processes have (PSS)."""
    trees = _trees(_processes(), roots)
    return {kind: sum(_pss(pid) for pid in pids) for kind, pids in trees.items()}


def _pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("Pss:"))


def machine_cpu() -> float:
    """CPU seconds that all cores have been busy, or taken by the host of a virtual machine."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) * TICK_S


class Meters:
    """Reads everything at once. `roots` are the first processes of each kind, `database` is the side's, and `asked` a
    connection to another one.
    """

    def __init__(
        self, broker_url: str, asked: "psycopg.Connection[Any]", database: str, roots: Mapping[str, list[int]]
    ) -> None:
        self._redis, self._asked = redis.Redis.from_url(broker_url), asked
        self._database, self._roots = database, roots

    def memory(self, *kinds: str) -> dict[str, float]:
        """Now, in kB."""
        return memory_of({kind: self._roots[kind] for kind in kinds})

    def read(self) -> Reading:
        """Now. Our own CPU is the kind "client", and "machine" is everybody's, our neighbours' as well."""
        stats = self._redis.info("commandstats")
        names = {key.removeprefix("cmdstat_"): value["calls"] for key, value in stats.items()}
        commands = {name: calls for name, calls in names.items() if name not in NOT_OURS}
        [statements] = self._asked.execute(_STATEMENTS, [self._database]).fetchone() or (0,)
        cpu = {**cpu_of(self._roots), "client": time.process_time(), "machine": machine_cpu()}
        return Reading(time.monotonic(), cpu, commands, statements)


def overheard(broker_url: str, seconds: float) -> Counter[int]:
    """Commands that Redis is sent in so many seconds, by the number of the database: what each side sends at rest."""
    heard: Counter[int] = Counter()
    deadline = time.monotonic() + seconds
    with redis.Redis.from_url(broker_url).monitor() as monitor:  # type: ignore[no-untyped-call]
        while monitor.connection.can_read(timeout=max(0.0, deadline - time.monotonic())):
            heard[monitor.next_command()["db"]] += 1
    return heard
