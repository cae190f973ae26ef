"""The filter plugin: what playbooks use is there, and what cannot work is one sentence."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible.plugins.loader import filter_loader

from harness import BIN, ROOT
from tests.deploy.fleet.example import Fleet


def loaded(name: str) -> Any:
    filter_loader.add_directory(str(ROOT / "playbooks/filter_plugins"))
    return filter_loader.get(name).j2_function


def test_what_cannot_be_planned_is_one_sentence_to_ansible(good: Fleet) -> None:
    good.hosts["cpu1"]["headrace_lanes"].append("gpu")
    with pytest.raises(AnsibleFilterError, match=r"serves the lane gpu.*\.$"):
        loaded("host_plan")("cpu1", good.hosts, good.groups, good.profile)
    with pytest.raises(AnsibleFilterError, match="line break"):
        loaded("systemd_quoted")("a\nB=1")


def test_every_filter_of_the_door_is_written_and_used() -> None:
    places = [*(ROOT / "playbooks").rglob("*.yml"), *(ROOT / "playbooks").rglob("*.j2")]
    places += (ROOT / "deploy/inventories").rglob("*.yml")
    used = " ".join(path.read_text() for path in places)
    names = re.findall(r'^    "(\w+)": "deploy', (ROOT / "playbooks/filter_plugins/fleet.py").read_text(), re.MULTILINE)
    assert len(names) >= 10
    assert [name for name in names if not re.search(rf"\| {name}\b|map\('{name}'", used)] == []
    assert all(callable(loaded(name)) for name in names)


def test_an_ansible_that_is_not_ours_says_which_one_is(tmp_path: Path) -> None:
    """Python finds another `deploy` first, so that ours cannot be imported, as with a system's Ansible."""
    (tmp_path / "deploy.py").touch()
    argv = [BIN / "ansible", "-i", "localhost,", "all", "-m", "debug", "-a", 'msg="{{ 1 | machine_address }}"']
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "Use .venv/bin/ansible-playbook, which `make .venv/.deploy` makes" in run.stdout + run.stderr
