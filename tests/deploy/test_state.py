"""What a host is now, and which units are older than what they read."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from deploy import state
from harness import ROOT


def unit(path: Path, *, started_s_ago: float, reloaded_s_ago: float | None = None, **more: str) -> dict[str, str]:
    """As systemd shows it."""

    def microseconds(ago: float) -> str:
        return str(int((time.monotonic() - ago) * 1e6))

    return {
        "Id": "x.service",
        "FragmentPath": str(path),
        "ExecMainStartTimestampMonotonic": microseconds(started_s_ago),
        "StateChangeTimestampMonotonic": microseconds(started_s_ago if reloaded_s_ago is None else reloaded_s_ago),
        **more,
    }


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of an hour ago."""
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (time.time() - 3600,) * 2)
    return tmp_path / "old"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A file that was written just now."""
    (tmp_path / "new").touch()
    return tmp_path / "new"


@pytest.mark.parametrize("name", ["DropInPaths", "EnvironmentFiles"])
def test_a_unit_is_stale_when_a_file_of_its_own_was_written_after_its_start(name: str, old: Path, new: Path) -> None:
    line = {"DropInPaths": "{old} {new}", "EnvironmentFiles": "{old} (ignore_errors=no) {new} (ignore_errors=no)"}[name]
    one = unit(old, started_s_ago=60, **{name: line.format(old=old, new=new)})
    assert state.stale([one], {}) == ["x.service"]
    assert state.stale([unit(new, started_s_ago=60)], {}) == ["x.service"]
    assert state.stale([unit(old, started_s_ago=60, **{name: line.format(old=old, new=old)})], {}) == []


def test_a_unit_is_stale_when_the_release_was_replaced_under_it(old: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(old)
    assert state.stale([unit(old, started_s_ago=60)], {"x.service": [str(link)]}) == ["x.service"]
    assert state.stale([unit(old, started_s_ago=60)], {"y.service": [str(link)]}) == []
    assert state.stale([unit(old, started_s_ago=-1)], {"x.service": [str(link), "/nowhere"]}) == []


def test_a_unit_whose_drop_in_systemd_has_not_read_is_stale(old: Path) -> None:
    unread = unit(old, started_s_ago=60, NeedDaemonReload="yes")
    assert state.stale([unread], {}) == ["x.service"]
    assert state.stale([unread], {}, reloads=True) == []  # a reload of the unit would not change that


def test_a_reload_is_enough_for_those_that_read_their_files_again(old: Path, new: Path) -> None:
    reloaded = unit(old, started_s_ago=60, reloaded_s_ago=-1)
    assert state.stale([reloaded], {"x.service": [str(new)]}, reloads=True) == []
    assert state.stale([reloaded], {"x.service": [str(new)]}) == ["x.service"]


SYSTEMCTL = """#!/bin/sh
cat <<'E'
Id=headrace-worker@cpu-1.service
ActiveState=active
MemoryMax=587202560
MainPID=1
Environment="WORKER_OPTIONS=--queues=cpu --pool=prefork" HEADRACE_LANE=cpu
FragmentPath=
DropInPaths=
EnvironmentFiles=
ExecMainStartTimestampMonotonic=1000000
StateChangeTimestampMonotonic=1000000

Id=headrace-run-7.service
ActiveState=active
MemoryMax=infinity
MainPID=1
Environment=

Id=headrace-web.service
ActiveState=inactive
MemoryMax=infinity
MainPID=0
E
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a systemd that answers as above, and with two packages; of a third its settings are left."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "dpkg-query").write_text(
        "#!/bin/sh\nprintf '%s\\n' 'installed curl' 'config-files vim' 'installed sudo'\n"
    )
    for program in ("systemctl", "dpkg-query"):
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def test_what_runs_is_what_systemd_and_the_servers_files_say(host: Path) -> None:
    files = {
        "postgresql/15/main/start.conf": "# comment\nmanual\n",
        "postgresql/17/main/start.conf": "auto\n",
        "postgresql/17/main/conf.d/headrace.conf": "port = 1\n# of 1194 MB\n",
        "redis/redis.conf": "maxmemory 358mb\n",
        "sudoers.d/headrace-admins": "# Ansible managed\nada ALL=(ALL:ALL) NOPASSWD: ALL\n",
    }
    for name, text in files.items():
        (host / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
        (host / "etc" / name).write_text(text)
    (host / "releases/0.1.0-abc").mkdir(parents=True)
    (host / "current").symlink_to("releases/0.1.0-abc")
    found = state.deployed("headrace", str(host), host / "etc")
    assert found.pop("units") == {
        "headrace-worker@cpu-1": {"options": "--queues=cpu --pool=prefork", "memory_mb": 560, "stale": True}
    }
    assert found == {
        "release": "0.1.0-abc",
        "database_mb": 1194,
        "broker_mb": 358,
        "broker_holds_mb": 0,
        "clusters": {"15": "manual", "17": "auto"},
        "admins": ["ada"],
        "packages": ["curl", "sudo"],
    }


def test_a_bare_host_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found: dict[str, Any] = state.deployed("headrace", str(tmp_path), tmp_path)
    assert not any(found.values())


def test_how_ansible_came_is_in_a_process_above_ours(tmp_path: Path) -> None:
    above = {os.getpid(): (70, ""), 70: (60, "A=1\0"), 60: (1, "SSH_CONNECTION=fe80::1%e 9 ::2 2222\0")}
    for pid, (parent, environ) in above.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "environ").write_text(environ)
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (b) c) S {parent} 0")
    assert state.came_from(tmp_path) == {"came_from": "fe80::1", "ssh_port": 2222}
    assert state.came_from(tmp_path / "nothing") == {}


def test_hosts_get_the_same_file() -> None:
    assert (ROOT / "playbooks/module_utils/state.py").resolve() == ROOT / "deploy/state.py"
