"""The inventory's filters: who gets what, who may reach whom, and one sentence for each thing that cannot work."""

import copy
import importlib.util
import ipaddress
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from harness.servers import APP, ROOT
from tests.deploy.rehearsal import FACTS, SECRETS, inventory, rehearse


def load_filters() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fleet_filters", ROOT / "playbooks/filter_plugins/fleet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fleet = load_filters()

LIMITS = {"database": 200, "broker": 4000, "reserve": 15}
GROUPS = {
    "edge": ["edge1"],
    "web": ["web1"],
    "db": ["db1"],
    "broker": ["broker1"],
    "workers": ["cpu1", "io1"],
    "beat": ["web1"],
}
LANES = {"cpu1": ["cpu", "quick"], "io1": ["io", "quick"]}


class Fleet:
    """A good inventory of six hosts; tests break one thing of it."""

    def __init__(self) -> None:
        self.groups = copy.deepcopy(GROUPS)
        self.limits: dict[str, Any] = dict(LIMITS)
        names = sorted({host for hosts in GROUPS.values() for host in hosts})
        self.hosts: dict[str, dict[str, Any]] = {
            name: {"ansible_host": f"192.0.2.{number}", "ansible_facts": copy.deepcopy(FACTS)}
            for number, name in enumerate(names, 1)
        }
        for name, lanes in LANES.items():
            self.hosts[name]["headrace_lanes"] = list(lanes)
        self.profile = {
            "celery": {"lanes": yaml.safe_load((APP / "config/lanes.yml").read_text())["lanes"]},
            "web": {"memory_mb": 160, "threads": 8},
            "beat": {"enabled": True},
        }

    def facts(self, host: str) -> dict[str, Any]:
        return self.hosts[host]["ansible_facts"]

    def preflight(self) -> list[str]:
        return fleet.preflight(self.hosts, self.groups, self.profile, self.limits)

    def plan(self, host: str) -> dict[str, Any]:
        return fleet.host_plan(host, self.hosts, self.groups, self.profile)


@pytest.fixture
def good() -> Fleet:
    return Fleet()


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
    (small_disk, ["db1", "700 MB free on /", "2048", "free some"]),
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
        return fleet.fleet_connections([good.plan(host) for host in sorted(good.hosts)], 15)

    one = connections()
    two_beats(good)
    good.profile["beat"]["redundant"] = True
    assert good.preflight() == []
    assert connections() == {name: count + 1 for name, count in one.items()}
    assert good.plan("cpu1")["shares_mb"]["beat"] == good.plan("web1")["shares_mb"]["beat"]


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
    (sentence,) = fleet.missing_secrets(secrets, ["database_password"])
    assert [word for word in words if word not in sentence] == []
    assert "short:" not in sentence


def test_good_secrets_have_no_sentence() -> None:
    assert fleet.missing_secrets(SECRETS, list(SECRETS)) == []


# ---- what a host gets -----------------------------------------------------------------------------------------------

own_groups = st.lists(st.sampled_from(["edge", "web", "db", "broker", "workers", "beat"]), unique=True)


@given(own_groups, st.integers(0, 100_000))
def test_a_hosts_memory_is_divided_never_exceeded(groups: list[str], memory_mb: int) -> None:
    shares = fleet.fleet_memory(groups, memory_mb)
    assert set(shares) == {"system", *groups}
    assert min(shares.values()) >= 0
    assert sum(shares.values()) <= memory_mb


@given(st.integers(1, 64), st.integers(400, 64_000), own_groups)
def test_gunicorns_processes_fit_into_the_webs_share(cores: int, memory_mb: int, groups: list[str]) -> None:
    one = Fleet()
    for name in groups:
        one.groups[name] = ["web1"]
    one.hosts["web1"].update(headrace_cores=cores, headrace_memory_mb=memory_mb, headrace_lanes=[])
    one.facts("web1")["capacity"] = {"cores": cores, "memory_mb": memory_mb}
    plan = one.plan("web1")
    took = (plan["web"]["workers"] + plan["web"]["push_workers"]) * one.profile["web"]["memory_mb"]
    assert took <= max(plan["shares_mb"]["web"], 2 * one.profile["web"]["memory_mb"])
    assert 1 <= plan["web"]["workers"] <= cores


def test_the_inventory_may_say_less_than_was_measured_but_not_more(good: Fleet) -> None:
    good.hosts["web1"].update(headrace_cores=2, headrace_memory_mb=10**6)
    assert fleet.capacity_of("web1", good.hosts) == (2, FACTS["capacity"]["memory_mb"])


def test_worker_units_are_named_after_their_lane_and_numbered(good: Fleet) -> None:
    good.hosts["io1"]["headrace_overrides"] = {"io": {"instances": 2}}
    good.profile["celery"]["lanes"]["quick"]["environment"] = {"TZ": "UTC"}
    units = {unit["name"]: unit for unit in fleet.worker_units(good.plan("io1"), good.profile)}
    assert {"io-1", "io-2", "quick-1"} <= set(units)
    assert units["io-2"]["queues"] == ["io"]
    assert units["io-2"]["environment"] == {}
    assert units["quick-1"]["environment"] == {"TZ": "UTC"}
    assert units["io-1"]["concurrency"] == units["io-2"]["concurrency"]


def test_a_host_without_workers_has_no_units(good: Fleet) -> None:
    assert fleet.worker_units(good.plan("db1"), good.profile) == []


def test_the_connections_of_a_plan_grow_with_every_slot(good: Fleet) -> None:
    plans = [good.plan(host) for host in sorted(good.hosts)]
    need = fleet.fleet_connections(plans, "15")
    for lane in (lane for plan in plans for lane in plan.get("lanes", [])):
        lane["concurrency"] += 1
        more = fleet.fleet_connections(plans, 15)
        assert {name: more[name] - need[name] for name in need} == dict.fromkeys(need, lane["instances"])
        need = more


def test_what_cannot_be_planned_is_one_sentence_to_ansible(good: Fleet) -> None:
    unknown_lane(good)
    with pytest.raises(AnsibleFilterError, match="serves the lane gpu"):
        fleet.fleet_plan("cpu1", good.hosts, good.groups, good.profile)


# ---- what it may reach ----------------------------------------------------------------------------------------------


def opened(one: Fleet, host: str, rule: dict[str, Any]) -> list[dict[str, Any]]:
    return fleet.fleet_open_ports([{"name": "x", "ports": [1], **rule}], host, one.hosts, one.groups)


def test_a_rule_holds_on_the_hosts_of_its_group(good: Fleet) -> None:
    assert opened(good, "db1", {"group": "db"}) == [{"name": "x", "ports": [1], "v4": [], "v6": []}]
    assert opened(good, "web1", {"group": "db"}) == []


def test_a_rule_lets_in_networks_and_the_hosts_of_groups(good: Fleet) -> None:
    good.hosts["io1"]["headrace_address"] = "2001:db8::7"
    (rule,) = opened(good, "db1", {"from_groups": ["workers", "nobody"], "from": ["198.51.100.7/24"]})
    assert rule["v4"] == sorted(["198.51.100.0/24", f"{good.hosts['cpu1']['ansible_host']}/32"])
    assert rule["v6"] == ["2001:db8::7/128"]


@pytest.mark.parametrize("rule", [{"from": []}, {"from_groups": []}, {"from_groups": ["nobody"]}])
def test_a_rule_for_nobody_opens_nothing(rule: dict[str, Any], good: Fleet) -> None:
    assert opened(good, "db1", rule) == []


def test_an_address_is_the_clusters_own_before_ansibles(good: Fleet) -> None:
    good.hosts["db1"]["headrace_address"] = "10.0.0.1"
    good.hosts["192.0.2.99"] = {}
    found = fleet.fleet_addresses(["db1", "192.0.2.99", "db1"], good.hosts)
    assert found == ["10.0.0.1", "192.0.2.99"]
    assert all(ipaddress.ip_address(address) for address in found)


# ---- how it is shown, how it is written -----------------------------------------------------------------------------


def test_the_drawing_has_aligned_bars_of_the_slots_of_every_lane(good: Fleet) -> None:
    good.hosts["io1"]["headrace_overrides"] = {"io": {"instances": 12}}
    drawing = fleet.draw_plan(good.plan(host) for host in sorted(good.hosts))
    lines = drawing.splitlines()
    bars = [line for line in lines[:-1] if "#" in line]
    assert len({line.index("#") for line in bars}) == 1
    assert [line.split()[0] for line in bars] == ["cpu", "quick", "io", "quick", "web"]
    assert max(line.count("#") for line in bars) <= fleet.MOST_MARKS
    assert "6 slots" in lines[-1]  # 12 units of 21 threads
    assert "db1: 4 cores, 8192 MB (system 819, db 7373)" in lines


def test_the_drawing_can_be_printed_as_it_is(good: Fleet) -> None:
    """YAML prints a text as it is only without spaces at the ends of lines."""
    lines = fleet.draw_plan([good.plan("cpu1"), good.plan("db1")]).splitlines()
    assert [line for line in lines if line != line.rstrip() or len(line) > 110] == []


def test_plan_yml_prints_the_drawing(tmp_path: Path) -> None:
    said = rehearse(tmp_path, "plan.yml", inventory(), "--tags", "all")
    assert said.startswith("0\n"), said
    assert "        one: 4 cores, 8192 MB (system 819, edge 128, beat 192, db " in said
    assert "          quick  1 x 1   #" in said


def test_site_yml_stops_before_it_changes_anything(tmp_path: Path) -> None:
    hosts = inventory()
    hosts["all"]["hosts"]["one"]["headrace_lanes"] = ["cpu", "quick"]
    hosts["all"]["vars"]["headrace_secrets"] = SECRETS | {"secret_key": "short"}
    facts = {"one": {"distribution": "Ubuntu", "distribution_major_version": "24"}}
    said = rehearse(tmp_path, "site.yml", hosts, facts=facts)
    assert said.startswith("2\n"), said
    for sentence in ("one runs Ubuntu 24", "No host serves the queue io", "The secret secret_key is shorter"):
        assert sentence in said


any_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"))
awkward_line = st.text(" a\"'\\$`%#;=")


def as_systemd_reads(quoted: str) -> str:
    """A value in double quotes, by the rules of systemd.exec(5), EnvironmentFile=: a backslash escapes these four."""
    assert (quoted[0], quoted[-1]) == ('"', '"')
    text, rest = "", quoted[1:-1]
    while rest:
        escaped = rest[0] == "\\" and rest[1:2] in {'"', "\\", "$", "`"}
        assert escaped or rest[0] != '"'  # it would end the value
        text, rest = (text + rest[1], rest[2:]) if escaped else (text + rest[0], rest[1:])
    return text


@given(any_line | awkward_line)
def test_systemd_reads_what_was_meant(text: str) -> None:
    assert as_systemd_reads(fleet.systemd_quoted(text)) == text
    assert shlex.split(fleet.systemd_quoted(text)) == [text]


@pytest.mark.parametrize("text", ["a\nB=1", "a\rB=1"])
def test_a_value_cannot_begin_another_variable(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="line break"):
        fleet.systemd_quoted(text)


def test_ansible_finds_every_filter_that_the_playbooks_use() -> None:
    assert {"draw_plan", "fleet_plan", "preflight", "systemd_quoted", "worker_units"} <= set(
        fleet.FilterModule().filters()
    )
