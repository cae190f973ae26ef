"""What the pages and the inventories that we hand out say is what the code does."""

import importlib.util
import json
import subprocess
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
import yaml

from servers import BIN, ROOT

pytest.importorskip("ansible", reason="Ansible is not installed here: requirements/deploy.txt has it.")

INVENTORIES = ROOT / "deploy/inventories"
LIMITS = {"database": 200, "broker": 4000, "reserve": 15}
MAJOR = {"trixie": "13", "bookworm": "12"}

Json = dict[str, Any]


def load_fleet() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fleet", ROOT / "playbooks/filter_plugins/fleet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fleet = load_fleet()


def profile() -> Json:
    """The app profile, with the lanes that its template would look up."""
    raw: Json = yaml.safe_load((ROOT / "deploy/apps/headrace.yml").read_text())["app_profile"]
    raw["celery"]["lanes"] = yaml.safe_load((ROOT / "app/config/lanes.yml").read_text())["lanes"]
    return raw


def inventory(name: str) -> Json:
    """What Ansible reads in it."""
    argv = [str(BIN / "ansible-inventory"), "-i", str(INVENTORIES / name), "--list"]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr, run.stderr
    return json.loads(run.stdout)


def groups_of(listed: Json) -> dict[str, list[str]]:
    return {name: group.get("hosts", []) for name, group in listed.items() if name != "_meta"}


def facts(cores: int, memory_mb: int, release: str = "trixie") -> Json:
    """What a host of that size would answer."""
    return {
        "capacity": {"cores": cores, "memory_mb": memory_mb},
        "distribution": "Debian",
        "distribution_major_version": MAJOR[release],
    }


def machines(listed: Json) -> dict[str, Json]:
    """The hosts of an inventory for the local cluster, as they are once its machines are up."""
    return {
        name: {
            **host,
            "ansible_host": host["machine_ip"],
            "ansible_facts": facts(host["machine_cores"], host["machine_memory_mb"], host["machine_release"]),
        }
        for name, host in listed["_meta"]["hostvars"].items()
    }


def plans(hostvars: Mapping[str, Json], groups: dict[str, list[str]]) -> dict[str, Json]:
    return {host: fleet.host_plan(host, hostvars, groups, profile()) for host in sorted(hostvars)}


# Three machines


def test_three_machines_hold_every_group_and_preflight_lets_them_pass() -> None:
    listed = inventory("small")
    hostvars, groups = machines(listed), groups_of(listed)
    assert sorted(hostvars) == ["s1", "s2", "s3"]
    where = {name: groups[name] for name in ("edge", "web", "beat", "db", "broker", "workers")}
    assert where == {
        "edge": ["s1"],
        "web": ["s1"],
        "beat": ["s1"],
        "db": ["s2"],
        "broker": ["s2"],
        "workers": ["s3"],
    }
    assert fleet.preflight(hostvars, groups, profile(), LIMITS) == []


def test_three_machines_have_a_place_for_every_lane_and_memory_for_every_group() -> None:
    listed = inventory("small")
    planned = plans(machines(listed), groups_of(listed))
    assert {lane["lane"] for lane in planned["s3"]["lanes"]} == {"cpu", "io", "quick"}
    assert planned["s1"]["web"]["workers"] >= 1
    for plan in planned.values():
        assert sum(plan["shares_mb"].values()) <= plan["memory_mb"]


def test_three_machines_are_reached_like_the_others_of_the_local_cluster() -> None:
    small, local = (inventory(name)["_meta"]["hostvars"] for name in ("small", "local"))
    way = ("ansible_user", "ansible_ssh_private_key_file", "headrace_generate_secrets")
    assert {key: small["s1"][key] for key in way} == {key: local["edge1"][key] for key in way}
    assert {host["machine_release"] for host in small.values()} == {"trixie", "bookworm"}
    assert not {host["machine_ip"] for host in small.values()} & {host["machine_ip"] for host in local.values()}


# The inventory to copy

EXAMPLE = INVENTORIES / "production.example"


def wanted_secrets() -> list[str]:
    """As playbooks/roles/fleet/vars/main.yml lists them."""
    return ["database_password", "broker_password", "broker_admin_password", *profile()["secrets"]]


def of_a_size(listed: Json, cores: int, memory_mb: int) -> dict[str, Json]:
    """The hosts of an inventory as they would be if each were of that size."""
    hosts = listed["_meta"]["hostvars"]
    return {name: {**host, "ansible_facts": facts(cores, memory_mb)} for name, host in hosts.items()}


def troubles(listed: Json, hostvars: Mapping[str, Json], secrets: Mapping[str, str]) -> list[str]:
    """What preflight would say before a run."""
    found = fleet.preflight(hostvars, groups_of(listed), profile(), LIMITS)
    return found + fleet.missing_secrets(secrets, wanted_secrets())


@pytest.mark.parametrize(("cores", "memory_mb"), [(1, 1024), (2, 4096), (4, 8192)])
def test_the_example_lacks_nothing_but_its_secrets(cores: int, memory_mb: int) -> None:
    listed = inventory("production.example")
    given = listed["_meta"]["hostvars"]["web1"].get("headrace_secrets", {})
    found = troubles(listed, of_a_size(listed, cores, memory_mb), given)
    assert len(found) == len(wanted_secrets())
    assert all(sentence.startswith("The secret ") and "is missing" in sentence for sentence in found), found


def test_the_example_names_every_secret_and_holds_none() -> None:
    named = yaml.safe_load((EXAMPLE / "group_vars/all/vault.yml.example").read_text())["headrace_secrets"]
    assert sorted(named) == sorted(wanted_secrets())
    assert not any(named.values())


def test_the_example_uses_addresses_of_nobody() -> None:
    addresses = [host["ansible_host"] for host in inventory("production.example")["_meta"]["hostvars"].values()]
    assert all(address.startswith("192.0.2.") for address in addresses)
    assert len(set(addresses)) == len(addresses)
