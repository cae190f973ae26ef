"""What this machine may use."""

from pathlib import Path

import pytest

from deploy.measure import measure
from harness import ROOT


def fake_machine(tmp_path: Path, cgroup_line: str, files: dict[str, str]) -> tuple[int, int]:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(cgroup_line)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    return measure(tmp_path / "proc", tmp_path / "cgroup")


NO_LIMIT_V1 = str(2**63 - 4096)


@pytest.mark.parametrize(
    ("cgroup_line", "files", "expected"),
    [
        ("0::/\n", {}, (8, 8192)),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, (8, 8192)),
        ("0::/\n", {"cpu.max": "350000 100000", "memory.max": "1073741824"}, (3, 1024)),
        ("0::/\n", {"cpu.max": "50000 100000"}, (1, 8192)),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, (2, 8192)),
        ("0::/not/seen/here\n", {"memory.max": "1073741824"}, (8, 1024)),
        (
            "4:memory:/\n2:cpu,cpuacct:/x\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "400000\n",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "2147483648\n",
            },
            (4, 2048),
        ),
        (
            "4:memory:/\n1:cpu:/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": NO_LIMIT_V1,
            },
            (8, 8192),
        ),
    ],
)
def test_the_cgroups_limit_counts_when_it_is_less(tmp_path, monkeypatch, cgroup_line, files, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    assert fake_machine(tmp_path, cgroup_line, files) == expected


def test_hosts_get_the_file_and_it_needs_nothing_of_ours():
    text = (ROOT / "playbooks/module_utils/measure.py").read_text()
    assert text == (ROOT / "deploy/measure.py").read_text()
    assert "deploy" not in [line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))]
