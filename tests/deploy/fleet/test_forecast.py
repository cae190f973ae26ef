"""What a run would do to what runs is said before it does."""

from typing import Any

from deploy.fleet import forecast
from deploy.fleet.plan import given_mb
from tests.deploy.fleet.example import Fleet

RELEASE = "0.1.0-abc"


def said(one: Fleet, *hosts: str, release: str = RELEASE) -> list[str]:
    plans = [one.plan(host) for host in hosts]
    return forecast.forecast(plans, one.hosts, one.groups, one.profile, release).splitlines()


def run(one: Fleet) -> None:
    """Everything runs as it is planned now."""
    for host in sorted(one.hosts):
        plan = one.plan(host)
        given = given_mb(plan, one.hosts[host])
        units: Any = forecast.wanted_units(plan, given, one.profile)
        one.facts(host)["deployed"] = {
            "release": RELEASE,
            "units": {name: {**unit, "stale": False} for name, unit in units.items()},
            "database_mb": given.get("db", 0),
            "broker_mb": given.get("broker", 0),
        }


def test_what_runs_as_it_should_goes_on(good: Fleet) -> None:
    run(good)
    calm, stranger = said(good, *sorted(good.hosts))
    assert calm.startswith("Nothing that runs would be restarted")
    assert stranger == "stranger: left alone, it is in none of our groups"


def test_on_a_bare_host_units_start(good: Fleet) -> None:
    assert "cpu1: headrace-worker@cpu-1, headrace-worker@quick-1: started" in said(good, "cpu1")


def test_another_release_restarts_every_process_of_the_application_and_no_server(good: Fleet) -> None:
    run(good)
    found = said(good, *sorted(good.hosts), release="0.2.0-def")
    assert {line.partition(":")[0] for line in found} == {"cpu1", "io1", "web1", "stranger"}
    units = "headrace-web, headrace-push, headrace-sweeper, headrace-beat"
    assert f"web1: {units}: restarted, 0.2.0-def takes the place of 0.1.0-abc" in found


def test_a_lane_that_moves_to_the_database_is_said_with_what_it_costs(good: Fleet) -> None:
    run(good)
    before = good.plan("db1")["shares_mb"]["db"]
    good.groups["workers"].append("db1")
    good.hosts["db1"]["headrace_lanes"] = ["quick"]
    good.hosts["cpu1"]["headrace_lanes"] = ["cpu"]
    after = good.plan("db1")["shares_mb"]["db"]
    found = said(good, "db1", "cpu1")
    assert f"db1: PostgreSQL: restarted, its memory goes from {before} to {after} MB" in found
    assert "cpu1: headrace-worker@quick-1: ends its jobs and is removed; jobs may take up to 45 s to end" in found


def test_another_width_and_older_settings_restart_what_they_concern(good: Fleet) -> None:
    good.hosts["io1"]["headrace_overrides"] = {"io": {"instances": 1}}
    run(good)
    good.hosts["io1"]["headrace_overrides"] = {"io": {"concurrency": 8, "instances": 1}}
    good.facts("io1")["deployed"]["units"]["headrace-worker@quick-1"]["stale"] = True
    plan, stale, _ = (line.removeprefix("io1: headrace-worker@") for line in said(good, "io1"))
    assert plan == "io-1: restarted, its plan changes (memory 214 -> 162 MB); jobs may take up to 180 s to end"
    assert stale.startswith("quick-1: restarted, it is older than its release or its settings; jobs may take up to 45")


def test_what_no_group_asks_for_any_more_is_named(good: Fleet) -> None:
    run(good)
    good.groups["beat"] = ["io1"]
    assert "web1: headrace-beat: stays, though no group asks for it any more: stop it yourself" in said(good, "web1")
