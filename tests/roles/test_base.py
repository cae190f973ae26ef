"""What every host has: a firewall that is loaded, ssh with keys only, accounts of the admins."""

import subprocess

import pytest

from deploy.cluster import KEY
from tests.roles.conftest import Bare


@pytest.fixture(scope="module")
def surroundings() -> None:
    """It comes first: the host has nothing, not even lists of packages."""


def ssh(host: Bare, user: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Log in from outside, as the cluster's key may, and ask who one is with sudo."""
    known = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes")
    argv = ["ssh", "-F", "none", *known, *options, f"{user}@{host.ip}", "sudo -n id -un"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)


def test_the_firewall_is_loaded_and_drops_what_no_rule_lets_in(host: Bare) -> None:
    rules = host.machine.check_output("nft list chain inet headrace input")
    assert "policy drop" in rules
    assert "tcp dport { 80, 443 } accept" in rules


@pytest.mark.parametrize(("port", "reached"), [(8080, False), (443, True)])
def test_a_server_is_reached_only_where_a_rule_lets_it(host: Bare, port: int, reached: bool) -> None:
    host.machine.check_output(f"systemd-run --unit=on-{port} python3 -m http.server {port}")
    host.machine.check_output(f"timeout 20 sh -c 'until curl -s {host.ip}:{port}; do sleep 0.1; done'")
    done = subprocess.run(["curl", "--noproxy", "*", "-sm", "2", f"http://{host.ip}:{port}"], check=False)
    assert (done.returncode == 0) is reached


def test_ssh_takes_keys_only(host: Bare) -> None:
    said = host.machine.check_output("sshd -T").splitlines()
    assert {"passwordauthentication no", "kbdinteractiveauthentication no", "allowtcpforwarding no"} <= set(said)
    assert "Permission denied (publickey)." in ssh(host, "ada", "-o", "PubkeyAuthentication=no").stderr


def test_admins_log_in_with_their_key_and_use_sudo(host: Bare) -> None:
    assert ssh(host, "ada", "-i", str(KEY)).stdout == "root\n"


def test_a_second_run_changes_nothing(host: Bare) -> None:
    assert host.apply() == 0


def test_who_is_no_admin_any_more_cannot_sign_in_until_he_is_one_again(host: Bare) -> None:
    host.apply(base_admins=[])
    assert ssh(host, "ada", "-i", str(KEY)).returncode == 255
    assert "1970" in host.machine.check_output("LC_ALL=C chage --list ada")
    host.apply()
    assert ssh(host, "ada", "-i", str(KEY)).stdout == "root\n"
    assert host.apply() == 0


def test_a_firewall_that_is_not_what_its_file_says_is_loaded_again(host: Bare) -> None:
    """As after a run that ended between the file and its handler."""
    host.machine.check_output("touch /etc/nftables.conf")
    assert host.apply() > 0
    assert host.apply() == 0
