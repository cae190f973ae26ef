"""What the roles write, filled in by Ansible for a host that has an IPv6 address, a port of SSH of its own and settings
with quotes; no host is asked."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import BIN, ROOT
from tests.deploy.rehearsal import SECRETS, inventory, rehearse

ROLE = ROOT / "playbooks/roles/app"
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
DEPLOYED = {
    "capacity": {"cores": 4, "memory_mb": 8192, "ssh_port": 2022},
    "deployed": {"admins": ["ada", "bob"]},
    "mounts": [{"mount": "/", "size_available": 2**35, "size_total": 2**36}],
}


def played(folder: Path, roles: Iterable[str], tasks: Any, *args: str, **given: Any) -> str:
    """What Ansible says to tasks that see what roles know; it runs them here."""
    for name in ("app", "deploy", "CHANGELOG.md"):
        (folder / name).symlink_to(ROOT / name)
    facts = {"import_role": {"name": "fleet", "tasks_from": "facts"}}
    for_ever = [{"tags": ["always"], **task} for task in tasks]
    here = {"hosts": "all", "connection": "local", "gather_facts": False}
    play = {**here, "roles": [{"role": role, "when": False} for role in roles], "tasks": [facts, *for_ever]}
    (folder / "playbooks").mkdir()
    (folder / "playbooks/templates").symlink_to(ROOT / "playbooks/roles/nginx/templates")  # for what they include
    (folder / "playbooks/play.yml").write_text(yaml.safe_dump([play]))
    hosts = inventory()
    hosts["all"]["hosts"]["one"] |= {**GIVEN, **given}
    more = ("--limit", "one", "-e", "fleet_release=x", *args)
    answer = rehearse(folder, str(folder / "playbooks/play.yml"), hosts, *more, facts={"one": DEPLOYED})
    assert answer.startswith("0\n"), answer
    return answer


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of each file, and of what the roles compute."""
    folder = tmp_path_factory.mktemp("templates")
    tasks: list[dict[str, Any]] = []
    for role, template in WRITTEN.items():
        source = ROOT / "playbooks/roles" / role / "templates" / template
        tasks.append({"template": {"src": str(source), "dest": str(folder / role)}})
    said = "".join(f"{name}: {{{{ {name} }}}}\n" for name in SAID)
    tasks.append({"copy": {"content": said, "dest": str(folder / "said")}})
    played(folder, ("app", *WRITTEN), tasks)
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
    assert re.search(r"server_name .*\[2001:db8::1\]", written["nginx"])
    assert "listen_addresses = 'localhost, 2001:db8::1'" in written["postgresql"]
    bare = re.findall(r"^.*(?<!\[)2001:db8::1:\d.*$", "".join(written.values()), re.MULTILINE)
    assert bare == []


@pytest.mark.servers
def test_the_ports_by_which_ansible_comes_stay_open(written: dict[str, str]) -> None:
    assert "tcp dport { 2222, 2022 } accept" in written["base"]


@pytest.mark.servers
def test_static_files_of_the_release_before_stay_reachable(written: dict[str, str]) -> None:
    assert "try_files /current/static/$static_file /previous/static/$static_file =404;" in written["nginx"]


@pytest.mark.servers
def test_a_lease_of_dhcpv6_is_renewed(written: dict[str, str]) -> None:
    assert "ip6 saddr fe80::/10 udp dport 546 accept" in written["base"]


@pytest.mark.servers
def test_a_setting_of_postgresql_is_quoted(written: dict[str, str]) -> None:
    assert r"log_line_prefix = 'it''s 100 \\% ''mine'''" in written["postgresql"].splitlines()
    assert "jit = 'False'" in written["postgresql"].splitlines()


@pytest.mark.servers
def test_the_database_is_told_what_it_may_take_of_its_disk(written: dict[str, str]) -> None:
    assert f"headrace.database_max_mb = {48 * 1024}" in written["postgresql"].splitlines()


@pytest.mark.servers
def test_who_was_an_admin_and_is_none_any_more_is_known(written: dict[str, str]) -> None:
    assert "base_admins_before: ['bob']" in written["said"]


SYSTEMCTL = "#!/bin/sh\necho LoadState=loaded\necho ActiveState=active\n"


@pytest.mark.servers
def test_other_names_of_the_site_make_another_certificate_which_is_no_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    made = {"include_role": {"name": "nginx", "tasks_from": "certificate", "apply": {"tags": ["always"]}}}
    kept = {"copy": {"src": str(tmp_path / "edge.crt"), "dest": str(tmp_path / "{{ number }}.crt")}, "tags": ["always"]}
    (tmp_path / "made.yml").write_text(yaml.safe_dump([{**made, "tags": ["always"]}, kept]))
    again = {"include_tasks": {"file": str(tmp_path / "made.yml"), "apply": {"tags": ["always"]}}}
    names = [["jobs.example.com", "192.0.2.1"], ["jobs.example.com", "192.0.2.1"], ["[2001:db8::1]"]]
    runs = [{**again, "vars": {"headrace_hostnames": one, "number": i}} for i, one in enumerate(names)]
    where = {name: str(tmp_path / "there") for name in ("nginx_tls_certificate", "nginx_tls_key")}
    played(tmp_path, (), runs, fleet_secrets_folder=str(tmp_path), nginx_tls_generated=True, **where)
    first, same, other = (tmp_path / f"{number}.crt" for number in range(3))
    assert first.read_bytes() == same.read_bytes() != other.read_bytes()
    asked = ["openssl", "x509", "-noout", "-ext", "subjectAltName,basicConstraints", "-in"]
    said = [subprocess.run([*asked, one], capture_output=True, text=True, check=True).stdout for one in (first, other)]
    assert "DNS:jobs.example.com, IP Address:192.0.2.1" in said[0]
    assert "IP Address:2001:DB8:0:0:0:0:0:1" in said[1]
    assert all("CA:FALSE" in one and "CA:TRUE" not in one for one in said)


@pytest.mark.servers
@pytest.mark.parametrize(
    ("limit", "migrates", "asks"),
    [
        ("web1,web2,cpu1,edge1", "web1", []),
        ("web2,cpu1", "web2", []),
        ("cpu1,beat1", "", ["cpu1"]),
        ("beat1", "", ["beat1"]),
        ("edge1", "", []),
    ],
)
def test_the_first_web_host_that_a_run_reaches_migrates(
    limit: str, migrates: str, asks: list[str], tmp_path: Path
) -> None:
    places = {"web": ["web1", "web2"], "workers": ["cpu1"], "beat": ["beat1"], "edge": ["edge1"]}
    lines = [line for name, hosts in places.items() for line in (f"[{name}]", *hosts)]
    (tmp_path / "hosts").write_text("\n".join(lines))
    said = "{{ inventory_hostname if app_migrates }}/{{ inventory_hostname if app_asks }}"
    shown = [{"debug": {"msg": "is " + said}}]
    play = {"hosts": "all", "gather_facts": False, "tasks": shown, "vars_files": [str(ROLE / "vars/main.yml")]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    argv = [BIN / "ansible-playbook", "-i", tmp_path / "hosts", tmp_path / "play.yml", "--limit", limit]
    out = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"msg: is (\S*)/(\S*)", out)
    assert [one for one, _ in found if one] == ([migrates] if migrates else [])
    assert [one for _, one in found if one] == asks
