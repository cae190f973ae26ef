"""Real hosts for the tests: clusters from the inventories, brought up from nothing by the commands that people use."""

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml

from deploy.fleet import plan, units
from deploy.subnet import machine_address
from harness import APP, BIN, ROOT

STATE = ROOT / "var/cluster"
FRESH_S = 2400  # beside three other processes of tests
SUBNET = {name: value for name, value in os.environ.items() if name == "HEADRACE_SUBNET"}
RECAP = re.compile(r"^(\w+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.M)
Json = dict[str, Any]


def sh(*argv: str | Path, seconds: float = FRESH_S, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the README; its output is in the failure if it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "DJANGO_"))}
    done = subprocess.run(
        list(map(str, argv)),
        cwd=ROOT,
        env=env | SUBNET | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done


def changed(output: str) -> dict[str, int]:
    """How many tasks of a playbook's run have changed something, by host."""
    return {name: int(count) for name, _, count, _, _ in RECAP.findall(output)}


class Cluster:
    """The hosts of one inventory, and what they should be."""

    def __init__(self, inventory: str) -> None:
        self.inventory = f"deploy/inventories/{inventory}"
        self.secrets = ROOT / "var/secrets" / inventory
        self.output = ""  # of the command that brought it up
        self.dry_run = ""  # of a dry run over its bare hosts
        self._hosts: dict[str, Any] = {}

    # what it should be

    @cached_property
    def listed(self) -> Json:
        return json.loads(sh(BIN / "ansible-inventory", "-i", self.inventory, "--list").stdout)

    @cached_property
    def machines(self) -> dict[str, Json]:
        return self.listed["_meta"]["hostvars"]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        names = ("edge", "web", "db", "broker", "workers", "beat")
        found = {name: list(self.listed.get(name, {}).get("hosts", [])) for name in names}
        return {**found, "all": sorted(self.machines)}

    @cached_property
    def profile(self) -> Json:
        text = (ROOT / "deploy/apps/headrace.yml").read_text()
        profile = yaml.safe_load(text)["app_profile"]
        profile["celery"]["lanes"] = yaml.safe_load((APP / "config/lanes.yml").read_text())["lanes"]
        return profile

    def plan(self, name: str) -> Json:
        """deploy/sizing.py's plan of a host, from what the inventory says that the machine is."""
        here = len(os.sched_getaffinity(0))
        facts = {
            one: {
                **machine,
                "ansible_host": self.ip(one),
                "ansible_facts": {
                    "capacity": {
                        "cores": min(machine["machine_cores"], here),
                        "memory_mb": machine["machine_memory_mb"],
                    }
                },
            }
            for one, machine in self.machines.items()
        }
        return plan.host_plan(name, facts, self.groups, self.profile)

    def units(self, name: str) -> list[str]:
        """Every unit of ours that a host should run."""
        mine = [group for group, hosts in self.groups.items() if name in hosts]
        found = [f"worker@{one['name']}" for one in units.worker_units(self.plan(name), self.profile)]
        found += ["web", "push", "sweeper"] if "web" in mine else []
        found += ["beat"] if "beat" in mine else []
        return [f"headrace-{unit}.service" for unit in found]

    # what it is

    def ip(self, name: str) -> str:
        return machine_address(self.machines[name]["machine_number"])

    def host(self, name: str) -> Any:
        """A host as testinfra sees it, as root."""
        if name not in self._hosts:
            config = STATE / "ssh_config"
            self._hosts[name] = testinfra.get_host(f"ssh://{name}?ssh_config={config}&sudo=True&controlpersist=60")
        return self._hosts[name]

    def forget_connections(self) -> None:
        """After a reboot the old ones lead nowhere."""
        self._hosts = {}

    def on(self, name: str, command: str, code: int = 0) -> str:
        """The output of a command there."""
        done = self.host(name).run(command)
        assert done.rc == code, f"{name}: {command}: {done.rc}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def everywhere(self, work: Any) -> dict[str, Any]:
        """Do it for every host side by side."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            return dict(zip(self.machines, pool.map(work, self.machines), strict=True))

    def play(self, *arguments: str, seconds: float = FRESH_S) -> str:
        """Run a playbook over it."""
        return sh(BIN / "ansible-playbook", "-i", self.inventory, *arguments, seconds=seconds).stdout

    @property
    def address(self) -> str:
        return f"https://{self.ip(self.groups['edge'][0])}"


class Clusters:
    """At most one cluster is up at a time."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.up: Cluster | None = None
        self._down: tuple[str | Path, ...] = ()

    def get(
        self, inventory: str, up: tuple[str | Path, ...], down: tuple[str | Path, ...], **environment: str
    ) -> Cluster:
        """The cluster of an inventory, brought up by one command and taken down by another."""
        if self.up and self.up.inventory.endswith(inventory):
            return self.up
        cluster = Cluster(inventory)
        if self.mode == "running":
            if not (STATE / "README").exists() or f"({cluster.inventory})" not in (STATE / "README").read_text():
                pytest.skip(f"the cluster {inventory} does not run: bring it up, or leave out --cluster running")
        else:
            self.take_down()
            self._down = down
            cluster.output = sh(*up, HEADRACE_INVENTORY=cluster.inventory, **environment).stdout
        self.up = cluster
        return cluster

    def take_down(self) -> None:
        """Nothing of it may stay."""
        if self._down:
            sh(*self._down, HEADRACE_INVENTORY=self.up.inventory if self.up else "deploy/inventories/local")
            mine = ("--quiet", "--filter=label=headrace.cluster")
            left = sh("docker", "ps", "--all", *mine).stdout + sh("docker", "network", "ls", *mine).stdout
            assert left == "", f"{self._down} has left containers or networks: {left}"
        self.up, self._down = None, ()


def missing(*more: str) -> str:
    """What keeps containers (and more) from being brought up here; empty: nothing. In CI the tests that ask fail."""
    done = subprocess.run(["deploy/prepare", *more], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    why = (done.stderr or done.stdout).strip().splitlines()[-1]
    assert os.environ.get("CI") != "true", why
    return why
