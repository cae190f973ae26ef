"""What the pages and the inventories that we hand out say is what the code does."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.environment import Environment
from deploy import sizing
from deploy.fleet.drawing import draw_plan
from deploy.fleet.plan import HEAVY, LIGHT_MB, host_plan
from deploy.fleet.preflight import connections, missing_secrets, preflight
from deploy.subnet import machine_address
from harness import BIN, ROOT
from tests.deploy.fleet.example import LIMITS, profile

INVENTORIES = ROOT / "deploy/inventories"
MAJOR = {"trixie": "13", "bookworm": "12"}

Json = dict[str, Any]


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
            **{
                variable: value for variable, value in host.items() if "{{" not in str(value)
            },  # only Ansible knows them
            "ansible_host": machine_address(host["machine_number"]),
            "ansible_facts": facts(host["machine_cores"], host["machine_memory_mb"], host["machine_release"]),
        }
        for name, host in listed["_meta"]["hostvars"].items()
    }


def plans(hostvars: Mapping[str, Json], groups: dict[str, list[str]]) -> dict[str, Json]:
    return {host: host_plan(host, hostvars, groups, profile()) for host in sorted(hostvars)}


# Three machines


def test_three_machines_hold_every_group_and_preflight_lets_them_pass() -> None:
    listed = inventory("small")
    hostvars, groups = machines(listed), groups_of(listed)
    assert sorted(hostvars) == ["s1", "s2", "s3"]
    where = [(name, *groups[name]) for name in ("edge", "web", "db", "broker", "workers")]
    assert where == [("edge", "s1"), ("web", "s1"), ("db", "s2"), ("broker", "s2"), ("workers", "s3")]
    assert groups["beat"] == ["s1", "s3"]
    assert preflight(hostvars, groups, profile(), LIMITS) == []


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
    assert not {host["machine_number"] for host in small.values()} & {host["machine_number"] for host in local.values()}


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
    found = preflight(hostvars, groups_of(listed), profile(), LIMITS)
    return found + missing_secrets(secrets, wanted_secrets())


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


# docs/deploy.md

PAGES = ["README.md", "docs/architecture.md", "docs/deploy.md", "docs/reliability.md", "docs/sizing.md"]
CODE = [ROOT / "playbooks", ROOT / "deploy/apps", ROOT / "deploy/fleet", ROOT / "deploy/sizing.py"]
BY_ANSIBLE = {"ansible_host", "ansible_ssh_private_key_file", "ansible_user"}


def page(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)


def rows(name: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = page(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@cache
def code() -> str:
    """Everything that could read a variable or say a sentence, with no more than one space in a row."""
    files = [path for root in CODE for path in ([root] if root.is_file() else sorted(root.rglob("*")))]
    text = " ".join(path.read_text() for path in files if path.is_file() and path.suffix != ".pyc")
    return " ".join(text.split())


def documented() -> dict[str, str]:
    """Variable -> its default, from the table."""
    table = rows("docs/deploy.md", "What each variable does")
    return {cells[0].strip("`"): cells[1] for cells in table}


def test_every_variable_of_the_table_is_read_somewhere() -> None:
    assert len(documented()) > 20
    unread = [name for name in documented() if not re.search(rf"\b{name}\b", code())]
    assert set(unread) <= BY_ANSIBLE


def test_every_variable_of_the_example_is_in_the_table() -> None:
    hostvars = inventory("production.example")["_meta"]["hostvars"].values()
    assert {name for host in hostvars for name in host} - set(documented()) == set()


def test_the_defaults_in_the_table_are_those_of_the_roles() -> None:
    defaults: Json = {}
    for path in ROOT.glob("playbooks/roles/*/defaults/main.yml"):
        defaults |= yaml.safe_load(path.read_text()) or {}
    shown = {name: yaml.safe_load(cell.strip("`")) for name, cell in documented().items() if cell.startswith("`")}
    plain = {name: value for name, value in defaults.items() if name in shown and "{{" not in str(value)}
    assert len(plain) > 10
    assert {name: shown[name] for name in plain} == plain


SET_BY_THE_PLAYBOOKS = {"secret_key", "database_url", "broker_url", "allowed_hosts", "static_root", "lane"}


def test_the_table_of_settings_has_every_setting_with_its_default() -> None:
    table = rows("docs/deploy.md", "Settings of the application")
    shown = {cells[0].strip("`").removeprefix("HEADRACE_").lower(): cells[1].strip("`") for cells in table}
    fields = Environment.model_fields
    assert set(shown) == set(fields) - SET_BY_THE_PLAYBOOKS | {"fetch_allow"}
    for name in shown.keys() & fields.keys():
        default = fields[name].default
        if isinstance(default, str | int | float):
            assert shown[name] == str(int(default) if isinstance(default, bool) else default), name


def test_the_hosts_of_the_commands_are_in_the_example_or_named_by_the_reader() -> None:
    there = set(inventory("production.example")["_meta"]["hostvars"])
    asked = re.findall(r"\bssh (?:-t )?([$\w@]+)", "".join(blocks("docs/deploy.md", "sh")))
    assert len(asked) > 5
    assert [host for host in asked if host not in there | {"$WEB", "$EDGE", "debian@$host"}] == []


def test_the_sentences_of_the_troubleshooting_table_are_said_somewhere() -> None:
    said = code().replace('" f"', "").replace('" "', "")  # a sentence over two lines
    fragments = [part for cells in rows("docs/deploy.md", "Troubleshooting") for part in cells[0].split("`")[1::2]]
    assert len(fragments) > 10
    assert [part for part in fragments if part not in said] == []


@pytest.mark.servers
def test_the_three_machines_of_the_page_are_planned_as_it_shows(tmp_path: Path) -> None:
    (written,) = [block for block in blocks("docs/deploy.md", "yaml") if "hosts:\n    s1:" in block]
    (tmp_path / "hosts.yml").write_text(written)
    listed = inventory(str(tmp_path))
    in_small = {name: hosts for name, hosts in groups_of(inventory("small")).items() if hosts}
    assert {name: hosts for name, hosts in groups_of(listed).items() if hosts} == in_small
    hostvars = of_a_size(listed, 2, 2048)
    assert troubles(listed, hostvars, dict.fromkeys(wanted_secrets(), "x" * 60)) == []
    shown = blocks("docs/deploy.md", "text")[0]
    assert shown.rstrip() == draw_plan(plans(hostvars, groups_of(listed)).values())


def test_the_command_of_the_page_makes_a_vault_with_every_secret(tmp_path: Path) -> None:
    (command,) = [block for block in blocks("docs/deploy.md", "sh") if "ansible-vault encrypt" in block]
    comment = (EXAMPLE / "group_vars/all/vault.yml.example").read_text().replace("#   ", "")
    assert command.strip() in comment
    vault, password = tmp_path / "vault.yml", tmp_path / "password"
    password.write_text("only for a test")
    here = command.replace(".venv/bin", str(BIN)).replace(
        "deploy/inventories/production/group_vars/all/vault.yml", str(vault)
    )
    env = {**os.environ, "ANSIBLE_VAULT_PASSWORD_FILE": str(password)}
    subprocess.run(["bash", "-euc", here], env=env, cwd=ROOT, check=True, capture_output=True)
    assert vault.read_text().startswith("$ANSIBLE_VAULT;")
    shown = subprocess.run(
        [str(BIN / "ansible-vault"), "view", str(vault)], env=env, cwd=ROOT, check=True, capture_output=True, text=True
    )
    secrets = yaml.safe_load(shown.stdout)["headrace_secrets"]
    assert sorted(secrets) == sorted(wanted_secrets())
    assert all(len(secret) >= 50 for secret in secrets.values())


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_links_to_exists(name: str) -> None:
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", page(name)):
        linked = (ROOT / name).parent / target if target else ROOT / name
        assert linked.exists(), f"{name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}


# docs/sizing.md

SIZING = "$ .venv/bin/python deploy/sizing.py "


def examples(name: str) -> list[tuple[str, str]]:
    """The arguments of each sizing command that a page shows, and what it shows below."""
    shown = [block.split("\n", 1) for block in blocks(name, "console")]
    return [(command.removeprefix(SIZING), below) for command, below in shown]


@pytest.mark.parametrize(("arguments", "below"), examples("docs/sizing.md"))
def test_the_sizing_command_prints_what_the_page_shows(arguments: str, below: str) -> None:
    argv = [sys.executable, "deploy/sizing.py", *shlex.split(arguments)]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stdout + run.stderr == below
    assert run.returncode == (2 if run.stderr else 0)


def test_every_sizing_command_of_the_pages_is_run() -> None:
    mentioned = sum(page(name).count(SIZING.removeprefix("$ ") + "-") for name in PAGES)
    assert mentioned == len(examples("docs/sizing.md")) > 5


@pytest.mark.servers
def test_the_inventories_of_the_sizing_page_are_planned_as_it_shows(tmp_path: Path) -> None:
    written, shown = blocks("docs/sizing.md", "yaml"), blocks("docs/sizing.md", "text")
    assert len(written) == len(shown) == 2
    for number, (hosts, plan) in enumerate(zip(written, shown, strict=True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "hosts.yml").write_text(hosts)
        listed = inventory(str(folder))
        drawn = draw_plan(plans(of_a_size(listed, 4, 8192), groups_of(listed)).values())
        assert plan.rstrip() == drawn


def test_the_memory_of_groups_is_divided_as_the_sizing_page_says() -> None:
    section = page("docs/sizing.md").split("## A host with several groups")[1].split("\n## ")[0]
    table = {name: int(number) for name, number in re.findall(r"^\| `(\w+)` \| (\d+) \|", section, re.MULTILINE)}
    assert table == LIGHT_MB | HEAVY


def test_the_sizing_page_lists_what_may_be_overridden() -> None:
    (item,) = re.findall(r"^- `headrace_overrides` may set.*?\.", page("docs/sizing.md"), re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", item)) - {"headrace_overrides"} == sizing.OVERRIDABLE


def test_the_connections_of_three_machines_are_those_of_the_sizing_page() -> None:
    listed = inventory("small")
    planned = plans(of_a_size(listed, 2, 2048), groups_of(listed))
    need = connections(planned.values(), LIMITS["reserve"])
    text = " ".join(page("docs/sizing.md").split())
    assert f"need {need['database']} connections to PostgreSQL and {need['broker']} to Redis" in text
