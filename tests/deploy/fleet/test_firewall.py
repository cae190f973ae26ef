"""What may be reached, and by whom."""

from typing import Any

import pytest

from deploy.fleet import firewall
from tests.deploy.fleet.example import Fleet


def opened(one: Fleet, host: str, rule: dict[str, Any]) -> list[dict[str, Any]]:
    return firewall.fleet_open_ports([{"name": "x", "ports": [1], **rule}], host, one.hosts, one.groups)


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
