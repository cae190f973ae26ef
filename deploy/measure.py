"""What a host may use: its cores and its memory. Alone in this file, because hosts get it (playbooks/module_utils)."""

import os
from collections.abc import Iterator
from pathlib import Path


def measure(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """The cores and MiB of memory that this process may use: what the machine has, or its cgroup's limit if less."""
    cores, memory = len(os.sched_getaffinity(0)), _mem_total(proc)
    for folder in _cgroup_folders(proc, cgroup):
        cores = min(cores, _quota_cores(folder) or cores)
        memory = min(memory, _memory_limit(folder) or memory)
    return cores, memory // 2**20


def _mem_total(proc: Path) -> int:
    lines = (proc / "meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))


def _cgroup_folders(proc: Path, cgroup: Path) -> Iterator[Path]:
    """This process's folder in each hierarchy, and the folders above it, whose limits hold as well.

    In a container the path may be one of the host's that cannot be seen; then only the folders that exist count.
    """
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for root in (cgroup / name for name in {controllers, *controllers.split(",")}):
            inside = root / path.lstrip("/")
            yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(root))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _quota_cores(folder: Path) -> int | None:
    """Whole cores of the CPU quota (cgroup v2, then v1), at least one; None: no quota."""
    quota = _read(folder / "cpu.max") or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    match quota.split():
        case [limit, period] if limit.isdigit() and period.isdigit():  # neither "max" nor "-1"
            return max(1, int(limit) // int(period))
    return None


def _memory_limit(folder: Path) -> int | None:
    limit = (_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")).strip()
    return int(limit) if limit.isdigit() else None
