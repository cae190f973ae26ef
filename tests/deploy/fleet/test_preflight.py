"""One sentence for each thing that cannot work."""

from pathlib import Path
from typing import Any

import pytest

from deploy.fleet import preflight
from tests.deploy.fleet.example import Fleet
from tests.deploy.rehearsal import SECRETS, inventory, rehearse


def no_queue(one: Fleet) -> None:
    one.hosts["io1"]["headrace_lanes"] = ["quick"]


def few_database_connections(one: Fleet) -> None:
    one.limits["database"] = 60


def few_broker_connections(one: Fleet) -> None:
    one.limits["broker"] = "60"  # a string, as with -e


def early_stop(one: Fleet) -> None:
    one.hosts["cpu1"]["headrace_overrides"] = {"cpu": {"stop_timeout_s": 660}}


def early_redelivery(one: Fleet) -> None:
    one.profile["celery"]["lanes"]["cpu"]["visibility_timeout"] = 660


def two_beats(one: Fleet) -> None:
    one.groups["beat"] = ["web1", "cpu1"]


def small_memory(one: Fleet) -> None:
    one.hosts["cpu1"]["headrace_memory_mb"] = 512


def small_disk(one: Fleet) -> None:
    one.facts("db1")["mounts"] = [{"mount": "/", "size_available": 700 * 2**20}]


def small_file_system(one: Fleet) -> None:
    one.facts("web1")["mounts"] += [{"mount": "/opt", "size_available": 150 * 2**20}]


def other_address(one: Fleet) -> None:
    one.facts("db1")["all_ipv4_addresses"] = ["10.0.0.5"]


def small_web(one: Fleet) -> None:
    one.hosts["web1"]["headrace_memory_mb"] = 512
    one.groups["beat"] = ["io1"]


def many_web_processes(one: Fleet) -> None:
    one.hosts["web1"].update(headrace_memory_mb=2048, headrace_web={"workers": 12, "threads": 1})


def small_broker(one: Fleet) -> None:
    one.hosts["broker1"]["redis_maxmemory_mb"] = 32


def broker_holds_more(one: Fleet) -> None:
    one.hosts["broker1"]["headrace_memory_mb"] = 1024
    one.facts("broker1")["deployed"] = {"broker_holds_mb": 700, "broker_mb": 1000}


def root_locked_out(one: Fleet) -> None:
    one.hosts["db1"].update(ansible_user="root", base_ssh_root="no")


def controller_locked_out(one: Fleet) -> None:
    one.hosts["db1"]["base_ssh_networks"] = ["192.0.2.0/24"]
    one.facts("db1")["capacity"]["came_from"] = "198.51.100.7"


def own_account_removed(one: Fleet) -> None:
    one.hosts["db1"].update(ansible_user="ada", base_admins=[{"name": "bob", "keys": ["ssh-ed25519 A"]}])
    one.facts("db1")["deployed"] = {"admins": ["ada", "bob"]}


def no_certificate(one: Fleet) -> None:
    one.facts("edge1")["absent"] = ["/etc/x.crt", "/etc/x.key"]


def no_authority(one: Fleet) -> None:
    one.hosts["db1"]["base_extra_ca_certificates"] = ["/nowhere/ca.crt"]


def older_database(one: Fleet) -> None:
    one.facts("db1")["deployed"] = {"clusters": {"15": "auto"}}


def other_lane_units(one: Fleet) -> None:
    one.hosts["cpu1"]["celery_worker_units"] = [{"lane": "cpu"}]


def text_for_a_list(one: Fleet) -> None:
    for host in one.hosts.values():
        host["headrace_hostnames"] = "jobs.example.com"


def text_for_lanes(one: Fleet) -> None:
    one.hosts["io1"]["headrace_lanes"] = "cpu"


def wrong_profile(one: Fleet) -> None:
    one.profile["services"][0]["watchdog"] = 30


def other_system(one: Fleet) -> None:
    one.facts("db1").update(distribution="Ubuntu", distribution_major_version="24")


def old_system(one: Fleet) -> None:
    one.facts("web1").update(distribution_major_version=11)


def no_address(one: Fleet) -> None:
    one.hosts["web1"]["ansible_host"] = "web1.example"


def no_lanes(one: Fleet) -> None:
    one.groups["workers"].append("db1")


def no_lanes_anywhere(one: Fleet) -> None:
    one.groups["workers"] = ["cpu1"]
    del one.hosts["cpu1"]["headrace_lanes"]


def unknown_lane(one: Fleet) -> None:
    one.hosts["cpu1"]["headrace_lanes"].append("gpu")


def no_group(one: Fleet) -> None:
    del one.groups["broker"]


def empty_group(one: Fleet) -> None:
    one.groups["edge"] = []


def wrong_override(one: Fleet) -> None:
    one.hosts["io1"]["headrace_overrides"] = {"io": {"concurency": 4}}


MISTAKES = [
    (no_queue, ["queue io:", "add the lane io to headrace_lanes", "workers"]),
    (few_database_connections, ["connections to the database, which allows 60", "raise fleet_database_connections"]),
    (few_broker_connections, ["connections to the broker, which allows 60", "raise fleet_broker_connections"]),
    (early_stop, ["cpu1", "lane cpu", "660 s", "raise stop_timeout_s in its headrace_overrides"]),
    (early_redelivery, ["lane cpu", "visibility_timeout=660", "set it above 1320"]),
    (two_beats, ["beat", "web1, cpu1", "each would send", "keep one", "redundant"]),
    (small_memory, ["cpu1", "512 MB", "give it", "or move a lane or a group to another host"]),
    (small_disk, ["db1", "700 MB free on /", "a database needs 1024", "free some"]),
    (small_file_system, ["web1", "150 MB free on /opt", "2048", "free some"]),
    (other_address, ["db1", "none of its interfaces (10.0.0.5)", "set headrace_address"]),
    (small_web, ["web1", "MB for the web tier", "320 at least", "more memory"]),
    (many_web_processes, ["web1", "processes of its headrace_web take", "ask for fewer"]),
    (small_broker, ["broker1", "32 MB for Redis's data", "64 at least"]),
    (broker_holds_more, ["broker1", "700 MB in Redis now", "460", "give the host more memory"]),
    (root_locked_out, ["db1", "reached as root", "base_ssh_root", "set ansible_user"]),
    (controller_locked_out, ["db1", "reached from 198.51.100.7", "base_ssh_networks", "add it"]),
    (own_account_removed, ["db1", "reached as ada", "no longer in base_admins", "add ada"]),
    (no_certificate, ["edge1 has no /etc/x.crt and no /etc/x.key", "certbot"]),
    (no_authority, ["/nowhere/ca.crt", "mend base_extra_ca_certificates of db1"]),
    (older_database, ["db1", "PostgreSQL 15", "brings 17", "pg_upgradecluster 15 main"]),
    (other_lane_units, ["cpu1", "celery_worker_units", "leave celery_worker_units alone"]),
    (text_for_a_list, ["On every host, headrace_hostnames is 'jobs.example.com'", "a list, as in [jobs.example.com]"]),
    (text_for_lanes, ["On io1, headrace_lanes is 'cpu'", "must be a list, as in [cpu]"]),
    (wrong_profile, ["In the app profile, services.0.watchdog is unknown"]),
    (other_system, ["db1", "Ubuntu 24", "install Debian 13 or Debian 12"]),
    (old_system, ["web1", "Debian 11", "install Debian 13 or Debian 12"]),
    (no_address, ["web1", "'web1.example'", "set headrace_address"]),
    (no_lanes, ["db1", "serves no lane", "set its headrace_lanes"]),
    (no_lanes_anywhere, ["cpu1", "serves no lane", "set its headrace_lanes"]),
    (unknown_lane, ["cpu1", "lane gpu", "none of cpu, io, quick", "mend its headrace_lanes"]),
    (no_group, ["no host in the group broker", "put one there"]),
    (empty_group, ["no host in the group edge", "put one there"]),
    (wrong_override, ["io1", "concurency", "concurrency"]),
]


def test_good_inventory_has_no_troubles(good: Fleet) -> None:
    assert good.preflight() == []


@pytest.mark.parametrize(("mistake", "words"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_mistake_is_one_sentence_with_host_value_and_mend(mistake: Any, words: list[str], good: Fleet) -> None:
    mistake(good)
    (sentence,) = good.preflight()
    assert [word for word in words if word not in sentence] == []
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_all_mistakes_are_told_in_one_go(good: Fleet) -> None:
    for mistake in (two_beats, small_disk, unknown_lane, early_redelivery):
        mistake(good)
    assert len(good.preflight()) == 4


@pytest.mark.parametrize("other_groups", [[], ["db"], ["db", "broker", "edge"]])
def test_what_the_sentence_on_memory_asks_for_is_enough(other_groups: list[str], good: Fleet) -> None:
    small_memory(good)
    good.groups.update({name: ["cpu1"] for name in other_groups})
    enough = int(good.preflight()[0].split("give it ")[1].split(" MB")[0])
    good.hosts["cpu1"]["headrace_memory_mb"] = enough
    assert good.preflight() == []
    good.hosts["cpu1"]["headrace_memory_mb"] = enough - 1
    assert len(good.preflight()) == 1


def test_an_application_without_beat_needs_no_host_for_it(good: Fleet) -> None:
    good.groups["beat"] = []
    assert len(good.preflight()) == 1
    good.profile["beat"]["enabled"] = False
    assert good.preflight() == []


def test_a_redundant_beat_may_be_on_several_hosts_and_each_takes_its_share(good: Fleet) -> None:
    def connections() -> dict[str, int]:
        return preflight.connections([good.plan(host) for host in sorted(good.hosts)], 15)

    one = connections()
    two_beats(good)
    good.profile["beat"]["redundant"] = True
    assert good.preflight() == []
    assert connections() == {name: count + 1 for name, count in one.items()}
    assert good.plan("cpu1")["shares_mb"]["beat"] == good.plan("web1")["shares_mb"]["beat"]


def test_each_mistake_is_told_and_nothing_is_computed_of_it(good: Fleet) -> None:
    good.hosts["cpu1"].update(headrace_lanes="cpu", headrace_cores="four", headrace_overrides=[1])
    good.hosts["web1"].update(headrace_web={"memory_mb": 240}, base_ssh_networks=[], headrace_memory_mb=True)
    good.limits["database"] = "many"
    small_disk(good)
    found = good.preflight()
    assert len(found) == 7, found
    assert [one for one in found if not one.startswith(("On cpu1, ", "On web1, ", "db1 "))] == []


def test_a_full_broker_is_no_trouble_while_its_memory_stays(good: Fleet) -> None:
    broker_holds_more(good)
    good.facts("broker1")["deployed"]["broker_mb"] = 460
    assert good.preflight() == []


def test_a_host_of_no_group_is_not_judged(good: Fleet) -> None:
    good.hosts["stranger"] = {"headrace_lanes": "cpu", "ansible_facts": {"capacity": {}, "distribution": "Ubuntu"}}
    assert good.preflight() == []


def test_an_old_cluster_that_starts_no_more_is_no_trouble(good: Fleet) -> None:
    good.facts("db1")["deployed"] = {"clusters": {"15": "manual", "17": "auto"}}
    assert good.preflight() == []


def test_hosts_beyond_the_limit_are_judged_by_the_inventory_alone(good: Fleet) -> None:
    few_database_connections(good)
    del good.hosts["io1"]["ansible_facts"]
    assert good.preflight() == []
    no_lanes_anywhere(good)
    assert len(good.preflight()) == 1


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        ({}, ["database_password is missing", "headrace_secrets"]),
        ({"database_password": "short"}, ["database_password is shorter than 16", "headrace_secrets"]),
        ({"database_password": None}, ["database_password is shorter than 16", "headrace_secrets"]),
    ],
)
def test_a_missing_or_short_secret_is_one_sentence_that_does_not_show_it(secrets: Any, words: list[str]) -> None:
    (sentence,) = preflight.missing_secrets(secrets, ["database_password"])
    assert [word for word in words if word not in sentence] == []
    assert "short:" not in sentence


def test_good_secrets_have_no_sentence() -> None:
    assert preflight.missing_secrets(SECRETS, list(SECRETS)) == []


def test_the_connections_of_a_plan_grow_with_every_slot(good: Fleet) -> None:
    plans = [good.plan(host) for host in sorted(good.hosts)]
    need = preflight.connections(plans, "15")
    for lane in (lane for plan in plans for lane in plan.get("lanes", [])):
        lane["concurrency"] += 1
        more = preflight.connections(plans, 15)
        assert {name: more[name] - need[name] for name in need} == dict.fromkeys(need, lane["instances"])
        need = more


@pytest.mark.servers
@pytest.mark.parametrize(("playbook", "args"), [("plan.yml", ()), ("site.yml", ()), ("site.yml", ("--check",))])
def test_every_playbook_stops_before_it_changes_anything(playbook: str, args: tuple[str, ...], tmp_path: Path) -> None:
    hosts = inventory()
    hosts["all"]["hosts"]["one"]["headrace_lanes"] = ["cpu", "quick"]
    hosts["all"]["hosts"]["spare"]["headrace_lanes"] = "cpu"
    hosts["all"]["vars"]["headrace_secrets"] = SECRETS | {"secret_key": "short"}
    hosts["all"]["vars"]["headrace_ref"] = "v9.9.9"
    facts = {"one": {"distribution": "Ubuntu", "distribution_major_version": "24"}}
    said = rehearse(tmp_path, playbook, hosts, *args, facts=facts)
    assert said.startswith("2\n"), said
    for sentence in ("one runs Ubuntu 24", "No host serves the queue io", "The secret secret_key is shorter", "v9.9.9"):
        assert sentence in said
    assert said.count("\nPLAY [") == 1


@pytest.mark.servers
def test_an_inventory_without_any_of_our_groups_is_refused(tmp_path: Path) -> None:
    hosts = inventory()
    hosts["all"]["children"] = {"webs": {"hosts": {"one": {}}}}
    said = rehearse(tmp_path, "site.yml", hosts)
    assert said.startswith("2\n"), said
    assert "The inventory has no host in the group web: put one there" in said


@pytest.mark.servers
def test_what_names_what_only_a_role_knows_is_left_to_the_role(tmp_path: Path) -> None:
    hosts = inventory()
    hosts["all"]["vars"] |= {"redis_maxmemory_mb": "{{ (fleet_host.shares_mb.broker * 0.5) | int }}"}
    assert rehearse(tmp_path, "site.yml", hosts).startswith("0\n")
    hosts["all"]["vars"] |= {"base_ssh_networks": ["{{ nobody }}"], "headrace_ref": "{{ nobody }}"}
    said = rehearse(tmp_path, "site.yml", hosts)
    assert said.startswith("2\n"), said
    assert "On every host, headrace_ref cannot be filled in: 'nobody' is undefined." in said


@pytest.mark.servers
def test_a_mistake_in_a_text_that_ansible_fills_in_is_found(tmp_path: Path) -> None:
    hosts = inventory()
    hosts["all"]["vars"] |= {"site": "jobs.example.com", "headrace_hostnames": "{{ site }}", "headrace_app": "headrace"}
    said = rehearse(tmp_path, "site.yml", hosts, "-e", "base_ssh_root=yes")
    assert said.startswith("2\n"), said
    assert "On every host, headrace_hostnames is 'jobs.example.com', which must be a list" in said
    assert "On every host, base_ssh_root is 'yes', which must be 'prohibit-password' or 'no'." in said
