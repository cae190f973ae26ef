"""Running the playbooks again: nothing changes; what is asked changes, and only that; what cannot work is refused."""

import json
import subprocess
from typing import Any

import pytest

from harness import BIN, ROOT
from harness.waiting import wait_until
from tests.clusters import RECAP, Cluster, changed, sh


def test_second_run_changes_nothing(local: Cluster) -> None:
    output = local.play("playbooks/site.yml")
    assert changed(output) == dict.fromkeys(local.machines, 0), output[-6000:]


def test_dry_run_works_on_bare_hosts(small: Cluster) -> None:
    if not small.dry_run:
        pytest.skip("the hosts are bare no more: leave out --cluster running")
    found = {name: (int(changed), int(failed)) for name, _, changed, _, failed in RECAP.findall(small.dry_run)}
    assert set(found) == set(small.machines)
    assert all(changed > 0 and failed == 0 for changed, failed in found.values()), found


def test_the_end_of_the_run_says_what_to_do_next(small: Cluster) -> None:
    if not small.output:
        pytest.skip("nobody saw it come up: leave out --cluster running")
    for words in (f"open         {small.address}/", "sign in      demo, ", "take down    make cluster ARGS=down"):
        assert words in small.output


def test_dry_run_predicts_nothing_on_three_hosts(small: Cluster) -> None:
    output = small.play("playbooks/site.yml", "--check", "--diff")
    assert changed(output) == dict.fromkeys(small.machines, 0), output[-6000:]


def test_plan_is_followed_up_and_down(local: Cluster) -> None:
    only = ("--limit", "io1", "--tags", "celery_worker")
    more = '{"headrace_overrides": {"quick": {"instances": 2}}}'
    list_units = "systemctl list-units --no-legend --plain 'headrace-worker@quick-*' | cut -d' ' -f1"
    before = local.on("io1", "systemctl show headrace-worker@io-1 -p MainPID")

    local.play("playbooks/site.yml", *only, "-e", more)
    assert local.on("io1", list_units).split() == ["headrace-worker@quick-1.service", "headrace-worker@quick-2.service"]
    assert "enabled" in local.on("io1", "systemctl is-enabled headrace-worker@quick-2.service")

    local.play("playbooks/site.yml", *only)
    assert local.on("io1", list_units).split() == ["headrace-worker@quick-1.service"]
    assert local.on("io1", "ls -d /etc/systemd/system/headrace-worker@quick-2* 2>&1 || true").startswith("ls: cannot")
    assert local.on("io1", "systemctl show headrace-worker@io-1 -p MainPID") == before  # others were not restarted


def test_what_is_older_than_its_settings_is_restarted_by_the_next_run(local: Cluster) -> None:
    """As after a run that ended between a file and its restart, or that replaced the release alone."""
    since = "systemctl show headrace-worker@io-1 -p ExecMainStartTimestampMonotonic"
    before = local.on("io1", since)
    local.on("io1", "touch /etc/headrace/worker.env")
    assert "io1: headrace-worker@io-1" in local.play("playbooks/plan.yml")
    local.play("playbooks/site.yml", "--limit", "io1", "--tags", "celery_worker")
    assert local.on("io1", since) != before
    again = local.play("playbooks/site.yml", "--limit", "io1", "--tags", "celery_worker")
    assert changed(again) == {"io1": 0}
    assert "Nothing that runs would be restarted" in again


WRONG = {  # a variable of the command line, and what is said of it
    "fleet_database_connections": (30, "raise fleet_database_connections"),
    "headrace_lanes": (["cpu", "quick"], "No host serves the queue io: add the lane io"),
    "headrace_secrets": ({}, "The secret database_password is missing"),
    "headrace_address": ("192.0.2.77", "which is on none of its interfaces"),
    "base_ssh_networks": (["192.0.2.0/24"], "which base_ssh_networks does not let in"),
    "headrace_ref": ("v9.9.9", "has no commit, tag or branch v9.9.9"),
    "headrace_overrides": ({"io": {"stop_timeout_s": 60}}, "overrides the lane io, which it does not serve"),
}


def refused(cluster: Cluster, variables: dict[str, Any]) -> str:
    """What a run says that must fail without having changed anything."""
    command = [BIN / "ansible-playbook", "-i", cluster.inventory, "playbooks/site.yml", "-e", json.dumps(variables)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert set(changed(done.stdout).values()) == {0}
    return done.stdout + done.stderr


def test_all_that_cannot_work_is_refused_at_once_before_anything_changes(local: Cluster) -> None:
    said = refused(local, {name: value for name, (value, _) in WRONG.items()})
    assert [sentence for _, sentence in WRONG.values() if sentence not in said] == [], said


def test_a_variable_of_the_wrong_kind_is_refused_before_anything_changes(local: Cluster) -> None:
    assert "must be a list, as in [jobs.example.com]" in refused(local, {"headrace_hostnames": "jobs.example.com"})


def test_everything_is_back_after_a_reboot(local: Cluster, pytestconfig: pytest.Config) -> None:
    boots = local.everywhere(lambda name: local.on(name, "stat -c %Y /proc/1"))
    if pytestconfig.getoption("cluster") == "fresh":
        sh("vagrant", "reload", "--no-provision", HEADRACE_INVENTORY=local.inventory)
    else:
        sh("docker", "restart", *(f"headrace-{name}" for name in local.machines))
    local.forget_connections()

    def all_active(name: str) -> bool:
        wanted = [*local.units(name), "ssh.service", "nftables.service"]
        said = local.host(name).run(f"stat -c %Y /proc/1; systemctl is-active {' '.join(wanted)}")
        boot, *states = said.stdout.split() or [boots[name]]
        return boot != boots[name].strip() and states == ["active"] * len(wanted)

    for name in local.machines:
        wait_until(lambda name=name: all_active(name), 120, f"{name} is back with all of its units")
    ask = "headrace-run celery -A config inspect ping --timeout 10"
    nodes = sum(len([unit for unit in local.units(name) if "worker" in unit]) for name in local.machines)
    wait_until(lambda: f"{nodes} nodes online" in local.host("web1").run(ask).stdout, 60, "every worker answers")
