"""Playbooks without hosts: what Ansible would have measured is in its fact cache, and only what runs whatever the tags
say is run, which is the checks of arguments and the preflight. Nothing connects, nothing changes."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from ansible.plugins.loader import cache_loader

from harness import BIN, ROOT

ROLES = ("edge", "web", "db", "broker", "workers", "beat", "loadgen")
FACTS = {
    "_ansible_facts_gathered": True,
    "architecture": "x86_64",
    "capacity": {"cores": 4, "memory_mb": 8192},
    "distribution": "Debian",
    "distribution_major_version": "13",
    "distribution_release": "trixie",
    "distribution_version": "13.1",
    "mounts": [{"mount": "/", "size_available": 2**35}],
    "virtualization_role": "guest",
    "virtualization_type": "kvm",
}
SECRETS = dict.fromkeys(("secret_key", "database_password", "broker_password", "broker_admin_password"), "s" * 40)
Facts = Mapping[str, Mapping[str, Any]]


def inventory() -> dict[str, Any]:
    """One host that is everything, and one that is nothing."""
    one = {"ansible_host": "192.0.2.1", "headrace_lanes": ["cpu", "io", "quick"]}
    return {
        "all": {
            "hosts": {"one": one, "spare": {"ansible_host": "192.0.2.2"}},
            "vars": {"headrace_secrets": SECRETS},
            "children": {name: {"hosts": {"one": {}}} for name in ROLES},
        }
    }


def rehearse(folder: Path, playbook: str, hosts: Mapping[str, Any], *args: str, facts: Facts | None = None) -> str:
    """What ansible-playbook says, after its return code; `facts` are those of hosts that differ from FACTS."""
    env = {
        **os.environ,
        "ANSIBLE_CACHE_PLUGIN": "jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(folder / "facts"),
        "ANSIBLE_TIMEOUT": "1",
    }
    with mock.patch.dict(os.environ, env):
        cache = cache_loader.get("jsonfile")
    for host in hosts["all"]["hosts"]:
        cache.set(host, {**FACTS, **(facts or {}).get(host, {})})
    (folder / "hosts.json").write_text(json.dumps(hosts))
    argv = [
        BIN / "ansible-playbook",
        "-i",
        folder / "hosts.json",
        Path("playbooks", playbook),
        "--tags",
        "nothing",
        *args,
    ]
    run = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    return f"{run.returncode}\n{run.stdout}{run.stderr}"
