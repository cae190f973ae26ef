"""What runs on each host is what deploy/sizing.py planned for it: asked of systemd, and of the live workers."""

import json
import re
from typing import Any

import pytest

from tests.clusters import Cluster

SERVERS = {"edge": ["nginx"], "db": ["postgresql@17-main"], "broker": ["redis-server"]}


def test_every_unit_is_active_and_enabled(local: Cluster) -> None:
    def states(name: str) -> dict[str, str]:
        units = [*local.units(name), "nftables.service", "ssh.service"]
        units += [
            f"{unit}.service" for group, found in SERVERS.items() if name in local.groups[group] for unit in found
        ]
        units += ["headrace-workers.target"] if name in local.groups["workers"] else []
        show = local.on(name, f"systemctl is-active {' '.join(units)}; systemctl is-enabled {' '.join(units)}")
        return dict(zip([*units, *(f"{unit} enabled" for unit in units)], show.split(), strict=True))

    for name, found in local.everywhere(states).items():
        assert {state for unit, state in found.items() if "enabled" not in unit} == {"active"}, (name, found)
        enabled = {state for unit, state in found.items() if "enabled" in unit}
        assert enabled <= {"enabled", "enabled-runtime"}, (name, found)


def test_nothing_failed_and_nothing_else_of_ours_runs(local: Cluster) -> None:
    def found(name: str) -> tuple[str, set[str]]:
        failed = local.on(name, "systemctl list-units --failed --no-legend --plain")
        running = local.on(name, "systemctl list-units --no-legend --plain --type=service 'headrace-*'")
        return failed, {line.split()[0] for line in running.splitlines()}

    for name, (failed, running) in local.everywhere(found).items():
        assert failed == "", name
        assert running == set(local.units(name)), name


@pytest.fixture(scope="module")
def live(local: Cluster) -> dict[str, dict[str, Any]]:
    """What the workers say of themselves through Celery's remote control: stats and queues, by node name."""
    web = local.groups["web"][0]
    asked = {
        what: json.loads(local.on(web, f"headrace-run celery -A config inspect {what} --json --timeout 10"))
        for what in ("stats", "active_queues")
    }
    return {node: {**stats, "queues": asked["active_queues"][node]} for node, stats in asked["stats"].items()}


def test_live_workers_are_what_the_plan_says(local: Cluster, live: dict[str, dict[str, Any]]) -> None:
    planned = {
        f"{lane['lane']}-{number}@{name}": (
            lane["pool"],
            lane["concurrency"],
            lane["concurrency"] * lane["prefetch_multiplier"],
            sorted(local.profile["celery"]["lanes"][lane["lane"]]["queues"]),
        )
        for name in local.groups["workers"]
        for lane in local.plan(name)["lanes"]
        for number in range(1, lane["instances"] + 1)
    }
    found = {
        node: (
            said["pool"]["implementation"].split(":")[0].rsplit(".", 1)[-1],
            said["pool"]["max-concurrency"],
            said["prefetch_count"],
            sorted(queue["name"] for queue in said["queues"]),
        )
        for node, said in live.items()
    }
    assert found == planned


def test_the_plans_compared_are_of_hosts_with_one_core_and_with_two(local: Cluster) -> None:
    assert {local.plan(name)["cores"] for name in local.groups["workers"]} == {1, 2}


def test_limits_of_systemd_are_what_the_plan_says(local: Cluster) -> None:
    for name in local.groups["workers"]:
        for lane in local.plan(name)["lanes"]:
            unit = f"headrace-worker@{lane['lane']}-1.service"
            show = local.on(
                name, f"systemctl show {unit} -p MemoryMax,TimeoutStopUSec,CPUWeight,KillMode,Type,OOMPolicy"
            )
            found = dict(line.split("=", 1) for line in show.splitlines())
            assert found["MemoryMax"] == str(lane["memory_max_mb"] * 2**20), (name, unit)
            assert seconds(found["TimeoutStopUSec"]) == lane["stop_timeout_s"] > lane["time_limit"], (name, unit)
            assert found["CPUWeight"] == str(lane["cpu_weight"]), (name, unit)
            assert (found["KillMode"], found["Type"], found["OOMPolicy"]) == ("mixed", "notify", "continue")


def test_workers_are_watched_and_never_given_up(local: Cluster) -> None:
    properties = "WatchdogUSec,WatchdogSignal,StartLimitIntervalUSec,StatusText"
    for name in local.groups["workers"]:
        for unit in (unit for unit in local.units(name) if unit.startswith("headrace-worker@")):
            show = local.on(name, f"systemctl show {unit} -p {properties}")
            found = dict(line.split("=", 1) for line in show.splitlines())
            assert (found["WatchdogUSec"], found["WatchdogSignal"]) == ("1min", "9"), (name, unit)
            assert (found["StartLimitIntervalUSec"], found["StatusText"]) == ("0", "consuming"), (name, unit)


def seconds(text: str) -> int:
    """systemd's way to write a span of time, as in `11min 30s`."""
    units = {"h": 3600, "min": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(h|min|s)", text))


def test_units_are_well_confined(local: Cluster) -> None:
    def exposure(name: str) -> dict[str, float]:
        found = {}
        for unit in local.units(name):
            said = local.on(name, f"systemd-analyze security --no-pager {unit} | tail -n 1")
            found[unit] = float(re.search(r": ([0-9.]+) ", said).group(1))
        return found

    exposures = local.everywhere(exposure)
    assert all(value <= 2.0 for found in exposures.values() for value in found.values()), exposures


def test_one_host_is_the_older_debian(local: Cluster) -> None:
    releases = local.everywhere(lambda name: local.on(name, ". /etc/os-release; echo $VERSION_CODENAME").strip())
    assert releases == {name: machine["machine_release"] for name, machine in local.machines.items()}
    assert set(releases.values()) == {"bookworm", "trixie"}


def test_one_host_at_most_has_built_the_release_for_those_that_are_like_it(local: Cluster) -> None:
    if not local.output:
        pytest.skip("nobody saw it come up: leave out --cluster running")
    app = {name for group in ("edge", "web", "workers", "beat") for name in local.groups[group]}
    script = (
        "ls -d /opt/headrace/tools-* 2>/dev/null; readlink /opt/headrace/current; ls /opt/headrace/releases; "
        "find /opt/headrace/current/ ! -type l -perm /022; find /opt/headrace/current/ ! -user root"
    )
    found = {name: local.on(name, script).split() for name in sorted(app)}
    built = [line for lines in found.values() for line in lines if "/tools-" in line]
    assert len(built) == len(set(built)), found
    ((current, *others),) = {tuple(line for line in lines if "/tools-" not in line) for lines in found.values()}
    assert others == [current.rpartition("/")[2]], "no archive is left, and no file that others may write"
