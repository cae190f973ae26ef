"""The local cluster's network: where it is, and one sentence when it cannot be there."""

import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from deploy import cluster, subnet

WANTED = IPv4Network("172.30.56.0/24")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the network of the cluster is kept; nothing is there yet."""
    monkeypatch.setattr(subnet, "KEPT", tmp_path / "subnet")
    return tmp_path / "subnet"


def docker(monkeypatch: pytest.MonkeyPatch, ours: str, networks: dict[str, str]) -> list[str]:
    """A Docker with these networks, of which one may be ours; the list gets the one that it is told to make."""
    made: list[str] = []

    def run(*argv: str) -> str:
        if argv[2] == "ls":
            return ours if any("label" in word for word in argv) else "\n".join(networks)
        if argv[2] == "inspect":
            return "\n".join(f"{name} {networks[name]}" for name in argv[4:])
        made.append(next(word for word in argv if word.startswith("--subnet=")).removeprefix("--subnet="))
        return ""

    monkeypatch.setattr(cluster, "run", run)
    monkeypatch.setattr(subnet, "ROUTES", Path("/dev/null"))
    return made


@pytest.mark.parametrize("used", ["172.30.56.0/24", "172.30.0.0/16", "172.30.56.128/25"])
def test_a_network_that_overlaps_is_one_sentence_with_its_user_and_the_variable(used: str) -> None:
    with pytest.raises(subnet.SubnetError) as caught:
        subnet.refuse_taken(WANTED, [("Docker's network a", IPv4Network("10.0.0.0/8")), ("b", IPv4Network(used))])
    assert f"172.30.56.0/24 is taken on this machine by b ({used})" in str(caught.value)
    assert "HEADRACE_SUBNET=" in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_neighbour_does_not_overlap() -> None:
    subnet.refuse_taken(WANTED, [("a", IPv4Network("172.30.57.0/24")), ("b", IPv4Network("172.30.55.0/24"))])


def test_routes_count_but_not_those_to_half_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["eth0 00000000 010200C0 0003 0 0 0 00000000", "tun0 00000080 0 0001 0 0 0 00000080"]
    rows += ["docker0 000011AC 00000000 0001 0 0 0 0000FFFF", "br-1 00381EAC 00000000 0001 0 0 0 00FFFFFF"]
    monkeypatch.setattr(subnet, "ROUTES", tmp_path / "route")
    (tmp_path / "route").write_text("Iface Destination ...\n" + "".join(f"{row} 0 0 0\n" for row in rows))
    found = {who: str(network) for who, network in subnet.routed()}
    assert found == {"the route over docker0": "172.17.0.0/16", "the route over br-1": "172.30.56.0/24"}


def test_the_cluster_makes_its_network_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = docker(monkeypatch, "", {"bridge": "172.17.0.0/16", "six": "fd00::/64", "host": ""})
    cluster.make_network(WANTED)
    assert made == ["172.30.56.0/24"]


def test_the_cluster_makes_no_network_that_another_one_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    made = docker(monkeypatch, "", {"bridge": "172.17.0.0/16", "theirs": "172.30.0.0/16"})
    with pytest.raises(subnet.SubnetError, match="by Docker's network theirs"):
        cluster.make_network(WANTED)
    assert made == []


def test_a_cluster_that_runs_stays_where_it_is(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    made = docker(monkeypatch, "ours", {"ours": "172.30.56.0/24"})
    cluster.make_network(WANTED)
    with pytest.raises(cluster.ClusterError, match=r"runs in 172\.30\.56\.0/24, not in 10\.1\.2\.0/24: take it down"):
        cluster.make_network(IPv4Network("10.1.2.0/24"))
    assert (made, kept.read_text()) == ([], "172.30.56.0/24")


def test_the_variable_moves_every_address_and_holds(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    assert subnet.machine_address(11) == "172.30.56.11"
    monkeypatch.setattr(cluster, "STATE", kept.parent)
    monkeypatch.setenv("HEADRACE_SUBNET", "10.1.2.0/24")
    cluster.keep_choices()
    monkeypatch.delenv("HEADRACE_SUBNET")
    found = cluster.machines()
    assert found["edge1"]["machine_ip"] == "10.1.2.11"
    assert "--ip=10.1.2.11" in cluster.container_arguments("edge1", found["edge1"], "0")


@pytest.mark.parametrize("wrong", ["10.1.2.0/23", "10.1.2.3/24", "fd00::/64", "many"])
def test_a_wrong_network_is_one_sentence(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SUBNET", wrong)
    with pytest.raises(subnet.SubnetError, match=f"HEADRACE_SUBNET is '{wrong}', which must be .*\\.$"):
        subnet.subnet()


@pytest.mark.parametrize(
    ("machines", "sentence"),
    [
        ({}, "has no machines: name another inventory in HEADRACE_INVENTORY."),
        ({"a": {"machine_number": 2}}, "a has no machine_cores in "),
        ({"a": {"machine_number": 2, "machine_cores": "two"}}, "a has machine_cores: 'two' in "),
    ],
)
def test_machines_that_cannot_be_made_are_one_sentence(
    machines: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = json.dumps({"_meta": {"hostvars": machines}})
    monkeypatch.setattr(cluster, "run", lambda *_: listed)
    with pytest.raises(cluster.ClusterError) as caught:
        cluster.machines()
    assert sentence in str(caught.value)
