"""What a host is now: how Ansible came in, what of an application runs there, and which units are older than the files
that they read. Alone in this file, because hosts get it (playbooks/module_utils)."""

import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SHOWN = (
    *("Id", "ActiveState", "MemoryMax", "MainPID", "Environment", "FragmentPath", "DropInPaths", "EnvironmentFiles"),
    *("ExecMainStartTimestampMonotonic", "StateChangeTimestampMonotonic", "NeedDaemonReload"),
)


def shown(patterns: Iterable[str]) -> list[dict[str, str]]:
    """What systemd says of those units that it has loaded and that run."""
    argv = ["systemctl", "show", "--property=" + ",".join(SHOWN), *patterns]
    try:
        text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout  # noqa: S603
    except OSError:  # no systemd
        return []
    units = []
    for block in text.strip().split("\n\n"):
        unit: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition("=")
            unit[name] = f"{unit[name]} {value}" if name in unit else value
        units.append(unit)
    return [unit for unit in units if unit.get("ActiveState") in {"active", "activating", "reloading"}]


def stale(units: Iterable[dict[str, str]], files: Mapping[str, Iterable[str]], *, reloads: bool = False) -> list[str]:
    """Names of those that have started, or with `reloads` been read again, before a file that they read was written.

    A run that was interrupted between a file and its restart leaves one, and a new release under a unit makes one.
    `files` has for each unit what it reads besides the unit file, drop-ins and environment that systemd knows.
    """
    since = "StateChangeTimestampMonotonic" if reloads else "ExecMainStartTimestampMonotonic"
    booted = time.time() - time.monotonic()
    found = []
    for unit in units:
        began = int(unit.get(since) or 0) / 1e6
        unread = not reloads and unit.get("NeedDaemonReload") == "yes"  # a drop-in that systemd has not seen
        written = max(_written(unit, files.get(unit["Id"], ())), default=0.0)
        if unread or (began and written > booted + began):
            found.append(unit["Id"])
    return found


def _written(unit: dict[str, str], files: Iterable[str]) -> Iterator[float]:
    """When each file that a unit reads was written; a link, when it was made."""
    environment = re.findall(r"(\S+) \(ignore_errors", unit.get("EnvironmentFiles", ""))
    for path in [unit.get("FragmentPath", ""), *unit.get("DropInPaths", "").split(), *environment, *files]:
        if os.path.lexists(path):
            yield os.lstat(path).st_mtime


def came_from(proc: Path = Path("/proc")) -> dict[str, Any]:
    """The address of whoever signed in by SSH to run this, and the port that was asked; nothing if nobody has."""
    pid = os.getpid()
    while pid > 1:
        try:
            environment = (proc / str(pid) / "environ").read_text(errors="replace")
            pid = int((proc / str(pid) / "stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            break
        if found := re.search(r"(?:^|\0)SSH_CONNECTION=(\S+) \d+ \S+ (\d+)\0", environment):
            return {"came_from": found[1].partition("%")[0], "ssh_port": int(found[2])}
    return {}


def packages() -> list[str]:
    """The names of Debian's packages that are installed."""
    argv = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n"]
    try:
        lines = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()  # noqa: S603
    except OSError:  # no Debian
        return []
    return [name for status, _, name in (line.partition(" ") for line in lines) if status == "installed"]


def deployed(name: str, root: str, etc: Path = Path("/etc")) -> dict[str, Any]:
    """What runs of an application, and what its servers were given."""
    running = shown([f"{name}-*.service", "redis-server.service"])
    current = Path(root) / "current"
    redis = [unit["MainPID"] for unit in running if unit["Id"] == "redis-server.service"]
    ours = [unit for unit in running if unit["Id"].startswith(f"{name}-") and f"{name}-run-" not in unit["Id"]]
    old = stale(ours, {unit["Id"]: [str(current)] for unit in ours})
    return {
        "release": current.resolve().name if current.exists() else "",
        "packages": packages(),
        "units": {unit["Id"].removesuffix(".service"): _unit(unit, old) for unit in ours},
        "database_mb": _number(r"^# of (\d+) MB", *etc.glob("postgresql/*/main/conf.d/headrace.conf")),
        "broker_mb": _number(r"^maxmemory (\d+)mb", etc / "redis/redis.conf"),
        "admins": _admins(etc / "sudoers.d/headrace-admins"),
        "broker_holds_mb": sum(map(_resident_mb, redis)),
        "clusters": {
            path.parts[-3]: path.read_text().strip().splitlines()[-1].strip()
            for path in etc.glob("postgresql/*/main/start.conf")
        },
    }


def _unit(unit: dict[str, str], old: list[str]) -> dict[str, Any]:
    options = re.search(r'WORKER_OPTIONS="?([^"]*)"', unit["Environment"])
    memory = unit["MemoryMax"]
    return {
        "options": options[1] if options else "",
        "memory_mb": int(memory) // 2**20 if memory.isdigit() else 0,
        "stale": unit["Id"] in old,
    }


def _admins(sudoers: Path) -> list[str]:
    return re.findall(r"^([^#\s]\S*) ALL=", sudoers.read_text(), re.MULTILINE) if sudoers.exists() else []


def _number(pattern: str, *paths: Path) -> int:
    found = [re.search(pattern, path.read_text(), re.MULTILINE) for path in paths if path.exists()]
    return max((int(one[1]) for one in found if one), default=0)


def _resident_mb(pid: str) -> int:
    return _number(r"^VmRSS:\s+(\d+) kB", Path("/proc") / pid / "status") // 1024
