"""The sizing policy: what holds for every host and every lane table, and what the command says."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from config import lanes as lane_table
from deploy import sizing
from deploy.sizing import size_host, size_lanes

SCRIPT = Path(sizing.__file__)

pools = st.sampled_from(["prefork", "threads", "solo"])
lane = st.builds(
    lambda pool, weight, wait, base, slot, cap: {
        "pool": pool,
        "weight": weight,
        "wait_ratio": wait,
        "memory_base_mb": base,
        "memory_per_slot_mb": slot,
        "prefetch_multiplier": 1,
        "soft_time_limit": 10,
        "time_limit": 20,
        "max_tasks_per_child": None,
        "max_slots": 1 if pool == "solo" else cap,
    },
    pools,
    st.integers(1, 9),
    st.floats(0, 40),
    st.integers(1, 2_000),
    st.integers(1, 300),
    st.integers(1, 40),
)
tables = st.dictionaries(st.sampled_from("abcdef"), lane, min_size=1, max_size=5)
core_counts = st.integers(1, 80)
memories = st.integers(300, 40_000)


@st.composite
def overrides_for(draw: st.DrawFn, table: dict[str, Any]) -> dict[str, dict[str, int]]:
    chosen = {}
    for name in draw(st.sets(st.sampled_from(sorted(table)))):
        fields = ["instances", "memory_max_mb", "cpu_weight"] + ["concurrency"] * (table[name]["pool"] != "solo")
        chosen[name] = draw(st.dictionaries(st.sampled_from(fields), st.integers(1, 6)))
    return chosen


@st.composite
def hosts(draw: st.DrawFn) -> tuple[dict[str, Any], int, int, dict[str, dict[str, int]]]:
    table = draw(tables)
    return table, draw(core_counts), draw(memories), draw(overrides_for(table))


def plan_or_skip(table: dict[str, Any], cores: int, memory: int, overrides: dict[str, Any]) -> list[Any]:
    try:
        return size_host(table, cores, memory, overrides=overrides)
    except sizing.SizingError:
        assume(False)
        raise


def slots(plans: list[Any]) -> dict[str, int]:
    return {plan.lane: plan.slots for plan in plans}


# Properties


@given(hosts())
def test_the_memory_of_all_units_stays_within_the_host_less_its_reserve(host):
    table, cores, memory, overrides = host
    plans = plan_or_skip(table, cores, memory, overrides)
    assert sum(plan.instances * plan.memory_max_mb for plan in plans) <= memory - max(256, memory // 10)


@given(hosts())
def test_every_lane_has_at_least_one_slot(host):
    plans = plan_or_skip(*host)
    assert {plan.lane for plan in plans} == set(host[0])
    assert all(plan.instances >= 1 and plan.concurrency >= 1 for plan in plans)


@given(hosts(), st.integers(0, 20), st.integers(0, 5_000))
def test_no_lane_shrinks_when_the_host_grows(host, more_cores, more_memory):
    table, cores, memory, overrides = host
    small = slots(plan_or_skip(table, cores, memory, overrides))
    large = slots(size_host(table, cores + more_cores, memory + more_memory, overrides=overrides))
    assert all(large[name] >= small[name] for name in small)


@given(hosts(), st.randoms())
def test_the_order_of_the_lanes_does_not_matter(host, random):
    table, cores, memory, overrides = host
    names = list(table)
    random.shuffle(names)
    shuffled = size_or_error({name: table[name] for name in names}, cores, memory, overrides)
    assert shuffled == size_or_error(table, cores, memory, overrides)


def size_or_error(*args: Any) -> Any:
    table, cores, memory, overrides = args
    try:
        return size_host(table, cores, memory, overrides=overrides)
    except sizing.SizingError as error:
        return str(error)


@given(tables, core_counts)
def test_lanes_that_compute_get_no_more_slots_than_cores_unless_there_are_more_lanes_than_cores(table, cores):
    plans = size_host(table, cores, 1_000_000)
    computing = sum(plan.instances if plan.pool == "threads" else plan.slots for plan in plans)
    assert computing <= max(cores, len(table))


@given(tables, st.integers(5, 80))
def test_no_core_would_serve_another_lane_better(table, cores):
    for lane in table.values():
        lane.update(pool="solo", max_slots=1)
    has = {plan.lane: plan.instances for plan in size_host(table, cores, 1_000_000)}
    assert sum(has.values()) == max(cores, len(table))
    for rich, last in ((name, cores) for name, cores in has.items() if cores > 1):
        for poor, next_to in has.items():
            # weight a core, were the last core of the one the next core of the other
            assert table[rich]["weight"] / (last - 0.5) >= table[poor]["weight"] / (next_to + 0.5)


@given(tables, core_counts, st.integers(1, 8_000))
def test_the_mend_of_a_host_too_small_is_enough_and_not_too_much(table, cores, memory):
    try:
        size_host(table, cores, memory, host="cpu7")
        assume(False)
    except sizing.SizingError as error:
        text = str(error)
    assert text.startswith("cpu7 has ")
    enough = int(re.search(r"give it (\d+) MB", text)[1])
    assert size_host(table, cores, enough)
    with pytest.raises(sizing.SizingError):
        size_host(table, cores, enough - 1)


@given(hosts())
def test_what_memory_cuts_is_said_in_why(host):
    table, cores, memory, overrides = host
    plans = plan_or_skip(table, cores, memory, overrides)
    ample = slots(size_host(table, cores, 10_000_000, overrides=overrides))
    for plan in plans:
        assert ("memory cuts it" in plan.why) == (plan.slots < ample[plan.lane])


@given(hosts())
def test_overrides_hold_and_are_echoed(host):
    for plan in plan_or_skip(*host):
        for field, value in host[3].get(plan.lane, {}).items():
            assert getattr(plan, field) == value
            assert f"{field}={value}" in plan.why


# Our own lanes


def ours(*names: str) -> dict[str, Any]:
    return {name: lane_table.load().lanes[name] for name in names}


def by_lane(plans: list[Any]) -> dict[str, Any]:
    return {plan.lane: plan for plan in plans}


def test_a_host_that_only_computes_runs_one_process_a_core_in_one_unit():
    (plan,) = size_host(ours("cpu"), 4, 8192)
    assert (plan.pool, plan.instances, plan.concurrency) == ("prefork", 1, 4)


def test_a_host_that_only_waits_runs_one_unit_a_core_with_goetz_threads():
    (plan,) = size_host(ours("io"), 2, 8192)
    assert (plan.instances, plan.concurrency) == (2, 21)  # 1 core x (1 + 20) each


def test_a_lower_utilisation_asks_for_fewer_threads():
    (plan,) = size_lanes(ours("io"), 1, 8192, utilisation=0.5)
    assert plan.concurrency == 11  # 10.5, rounded up


def test_a_solo_lane_runs_one_unit_a_core():
    (plan,) = size_host(ours("quick"), 3, 8192)
    assert (plan.instances, plan.concurrency) == (3, 1)


def test_max_slots_caps_threads_and_says_so():
    (plan,) = size_host({"io": {**ours("io")["io"].model_dump(), "wait_ratio": 100}}, 1, 8192)
    assert plan.concurrency == 32
    assert "max_slots caps that at 32" in plan.why


def test_a_tight_host_gives_up_cores_before_threads():
    need = 120 + 220 + 130 + 21 * 4  # one process, and one unit with all its threads
    tight = by_lane(size_lanes(ours("cpu", "io"), 8, need))
    assert (tight["cpu"].slots, tight["io"].slots) == (1, 21)
    tighter = by_lane(size_lanes(ours("cpu", "io"), 8, need - 40))
    assert (tighter["cpu"].slots, tighter["io"].slots) == (1, 11)


def test_a_stop_lets_the_longest_job_end():
    assert all(plan.stop_timeout_s > plan.time_limit for plan in size_host(lane_table.load().lanes, 8, 16384))


def test_only_prefork_children_are_replaced():
    plans = by_lane(size_host(lane_table.load().lanes, 8, 16384))
    assert plans["cpu"].max_memory_per_child_kb == 220 * 1024
    assert plans["io"].max_memory_per_child_kb is None
    assert plans["quick"].max_tasks_per_child is None


def test_an_override_changes_its_lane_only():
    lanes = lane_table.load().lanes
    before = by_lane(size_host(lanes, 8, 16384))
    after = by_lane(size_host(lanes, 8, 16384, overrides={"cpu": {"concurrency": 2}}))
    assert after["cpu"].concurrency == 2
    assert after["cpu"].memory_max_mb == 120 + 2 * 220
    assert (after["io"], after["quick"]) == (before["io"], before["quick"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cores": 0}, "cpu1 has cores=0"),
        ({"cores": True}, "cpu1 has cores=True"),
        ({"cores": 10**9}, "from 1 to 8192"),
        ({"memory_mb": -1}, "cpu1 has memory_mb=-1"),
        ({"reserve_mb": -1}, "cpu1 has reserve_mb=-1"),
        ({"lanes": {}}, "cpu1 serves no lane"),
        ({"lanes": {"a": {"pool": "gevent"}}}, "lane a has pool='gevent'"),
        ({"lanes": {"a": {"pool": "solo", "weight": 0}}}, "lane a has weight=0"),
        ({"overrides": {"gpu": {"concurrency": 1}}}, "overrides the lane gpu, which it does not serve"),
        ({"overrides": {"cpu": {"nice": 1}}}, "lane cpu overrides nice"),
        ({"overrides": {"cpu": {"concurrency": 0}}}, "lane cpu overrides concurrency=0"),
        ({"overrides": {"quick": {"concurrency": 2}}}, "lane quick is solo"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(changes, sentence):
    arguments = {"lanes": lane_table.load().lanes, "cores": 4, "memory_mb": 8192, "host": "cpu1"} | changes
    with pytest.raises(sizing.SizingError) as caught:
        size_host(**arguments)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_utilisation_of_nothing_makes_no_sense():
    with pytest.raises(sizing.SizingError, match=r"cpu1 has utilisation=0, which must be .*\.$"):
        size_lanes(lane_table.load().lanes, 4, 8192, utilisation=0, host="cpu1")


@given(tables, core_counts, st.integers(0, 8_000))
def test_a_budget_too_small_says_what_the_smallest_plan_takes(table, cores, budget):
    smallest = sum(lane["memory_base_mb"] + lane["memory_per_slot_mb"] for lane in table.values())
    assume(budget < smallest)
    with pytest.raises(sizing.TooSmallError, match=f"cpu7 has {budget} MB for its workers.* give it {smallest} MB"):
        size_lanes(table, cores, budget, host="cpu7")
    assert sum(plan.instances * plan.memory_max_mb for plan in size_lanes(table, cores, smallest)) == smallest


# The command


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    # from another folder: it must find the lane table by itself
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd="/", check=False)


def test_the_command_prints_the_plan_as_json():
    run = command("--cores", "8", "--memory-mb", "16384", "--lanes", "cpu,io", "--json")
    assert run.returncode == 0
    plans = json.loads(run.stdout)
    assert [plan["lane"] for plan in plans] == ["cpu", "io"]
    assert all(set(plan) == {field.name for field in dataclasses.fields(sizing.LanePlan)} for plan in plans)


def test_the_command_measures_this_machine_and_prints_a_table():
    run = command()
    assert run.returncode == 0
    assert run.stdout.split()[:4] == ["lane", "pool", "instances", "concurrency"]
    assert all(f"\n{lane}: " in run.stdout for lane in lane_table.load().lanes)


def test_the_command_takes_overrides():
    run = command("--cores", "8", "--memory-mb", "16384", "--override", "cpu.concurrency=3", "--json")
    assert {plan["lane"]: plan["concurrency"] for plan in json.loads(run.stdout)}["cpu"] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cores", "0"],
        ["--cores", "-2"],
        ["--cores", "many"],
        ["--memory-mb", "0"],
        ["--memory-mb", "200"],
        ["--lanes", "cpu,gpu"],
        ["--lanes", ","],
        ["--override", "cpu"],
        ["--wat"],
    ],
)
def test_impossible_input_is_one_sentence_and_exit_2(arguments):
    run = command(*arguments)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert run.stderr.endswith(".\n")
