"""What a host gets: its share of memory, its processes, its address."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from deploy.fleet import plan
from tests.deploy.fleet.example import Fleet
from tests.deploy.rehearsal import FACTS

own_groups = st.lists(st.sampled_from(["edge", "web", "db", "broker", "workers", "beat"]), unique=True)


@given(own_groups, st.integers(0, 100_000))
def test_a_hosts_memory_is_divided_never_exceeded(groups: list[str], memory_mb: int) -> None:
    shares = plan.divide_memory(groups, memory_mb)
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
    planned = one.plan("web1")
    took = (planned["web"]["workers"] + planned["web"]["push_workers"]) * one.profile["web"]["memory_mb"]
    assert took <= max(planned["shares_mb"]["web"], 2 * one.profile["web"]["memory_mb"])
    assert 1 <= planned["web"]["workers"] <= cores


def test_the_inventory_may_say_less_than_was_measured_but_not_more(good: Fleet) -> None:
    good.hosts["web1"].update(headrace_cores=2, headrace_memory_mb=10**6)
    assert plan.capacity_of("web1", good.hosts) == (2, FACTS["capacity"]["memory_mb"])


def test_an_address_is_the_clusters_own_before_ansibles(good: Fleet) -> None:
    good.hosts["db1"]["headrace_address"] = "10.0.0.1"
    good.hosts["192.0.2.99"] = {}
    found = plan.fleet_addresses(["db1", "192.0.2.99", "db1"], good.hosts)
    assert found == ["10.0.0.1", "192.0.2.99"]
    assert all(ipaddress.ip_address(address) for address in found)


@given(st.integers(1, 2**20))
def test_a_database_leaves_some_of_its_file_system_whatever_its_size(total_mb: int) -> None:
    limit = plan.database_limit_mb([{"mount": "/", "size_total": total_mb * 2**20}])
    assert total_mb // 4 <= limit <= -(-total_mb * 3 // 4)


def test_a_databases_limit_is_by_the_file_system_that_it_is_on() -> None:
    sizes = {"/": 20, "/var/lib/postgresql": 100, "/var/lib/post": 1}
    mounts = [{"mount": path, "size_total": gb * 2**30} for path, gb in sizes.items()]
    assert [plan.database_limit_mb(some) for some in (mounts, mounts[:1], [])] == [75 * 1024, 14 * 1024, 0]
