"""What the roles write, filled in by Ansible for a host that has an IPv6 address, a port of SSH of its own and settings
with quotes; no host is asked."""

import re
import sys
from typing import Any

import pytest
import yaml

from harness import ROOT
from tests.deploy.rehearsal import SECRETS, inventory, rehearse

WRITTEN = {
    "base": "etc/nftables.conf.j2",
    "nginx": "etc/nginx/nginx.conf.j2",
    "postgresql": "etc/postgresql/conf.d/headrace.conf.j2",
    "web": "etc/systemd/system/web.service.j2",
}
SAID = ("fleet_database_url", "fleet_broker_url", "fleet_hostnames", "nginx_alt_names", "base_admins_before")
GIVEN = {
    "ansible_port": 2222,
    "ansible_python_interpreter": sys.executable,
    "base_admins": [{"name": "ada", "keys": ["ssh-ed25519 A"]}],
    "headrace_address": "2001:db8::1",
    "postgresql_settings": {"log_line_prefix": "it's 100 \\% 'mine'", "jit": False},
}
DEPLOYED = {"capacity": {"cores": 4, "memory_mb": 8192, "ssh_port": 2022}, "deployed": {"admins": ["ada", "bob"]}}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of each file, and of what the roles compute."""
    folder = tmp_path_factory.mktemp("templates")
    for name in ("app", "deploy", "CHANGELOG.md"):
        (folder / name).symlink_to(ROOT / name)
    tasks: list[dict[str, Any]] = [{"import_role": {"name": "fleet", "tasks_from": "facts"}}]
    for role, template in WRITTEN.items():
        source = ROOT / "playbooks/roles" / role / "templates" / template
        tasks.append({"template": {"src": str(source), "dest": str(folder / role)}, "tags": ["always"]})
    said = "".join(f"{name}: {{{{ {name} }}}}\n" for name in SAID)
    tasks.append({"copy": {"content": said, "dest": str(folder / "said")}, "tags": ["always"]})
    roles = [{"role": role, "when": False} for role in ("app", *WRITTEN)]
    play = {"hosts": "one", "connection": "local", "gather_facts": False, "roles": roles, "tasks": tasks}
    (folder / "playbooks").mkdir()
    (folder / "playbooks/templates").symlink_to(ROOT / "playbooks/roles/nginx/templates")  # for what they include
    (folder / "playbooks/write.yml").write_text(yaml.safe_dump([play]))
    hosts = inventory()
    hosts["all"]["hosts"]["one"] |= GIVEN
    answer = rehearse(
        folder, str(folder / "playbooks/write.yml"), hosts, "-e", "fleet_release=x", facts={"one": DEPLOYED}
    )
    assert answer.startswith("0\n"), answer
    return {name: (folder / name).read_text() for name in ("said", *WRITTEN)}


@pytest.mark.servers
def test_an_ipv6_address_stands_in_brackets_wherever_a_port_follows(written: dict[str, str]) -> None:
    password = SECRETS["database_password"]
    assert f"postgresql://headrace:{password}@[2001:db8::1]:5432/headrace" in written["said"]
    assert f"redis://headrace:{password}@[2001:db8::1]:6379" in written["said"]
    assert "fleet_hostnames: ['[2001:db8::1]']" in written["said"]
    assert "nginx_alt_names: IP:2001:db8::1\n" in written["said"]
    assert "--bind [2001:db8::1]:8000 " in written["web"]
    assert "server [2001:db8::1]:8000 " in written["nginx"]
    assert "server_name [2001:db8::1];" in written["nginx"]
    assert "listen_addresses = 'localhost, 2001:db8::1'" in written["postgresql"]
    bare = re.findall(r"^.*(?<!\[)2001:db8::1:\d.*$", "".join(written.values()), re.MULTILINE)
    assert bare == []


@pytest.mark.servers
def test_the_ports_by_which_ansible_comes_stay_open(written: dict[str, str]) -> None:
    assert "tcp dport { 2222, 2022 } accept" in written["base"]


@pytest.mark.servers
def test_a_lease_of_dhcpv6_is_renewed(written: dict[str, str]) -> None:
    assert "ip6 saddr fe80::/10 udp dport 546 accept" in written["base"]


@pytest.mark.servers
def test_a_setting_of_postgresql_is_quoted(written: dict[str, str]) -> None:
    assert r"log_line_prefix = 'it''s 100 \\% ''mine'''" in written["postgresql"].splitlines()
    assert "jit = 'False'" in written["postgresql"].splitlines()


@pytest.mark.servers
def test_who_was_an_admin_and_is_none_any_more_is_known(written: dict[str, str]) -> None:
    assert "base_admins_before: ['bob']" in written["said"]
