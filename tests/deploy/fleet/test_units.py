"""How a plan is written into units."""

import shlex
from typing import Any

import jinja2
import pytest
from ansible.plugins.filter.core import FilterModule as AnsiblesFilters
from hypothesis import given
from hypothesis import strategies as st

from deploy import worker
from deploy.fleet import units
from deploy.sizing import LanePlan
from harness import ROOT
from tests.deploy.fleet.example import Fleet

TEMPLATES = ROOT / "playbooks/roles/celery_worker/templates/etc/systemd/system"
APP = {"app": "config", "lane_variable": "HEADRACE_LANE"}


def test_worker_units_are_named_after_their_lane_and_numbered(good: Fleet) -> None:
    good.hosts["io1"]["headrace_overrides"] = {"io": {"instances": 2}}
    good.profile["celery"]["lanes"]["quick"]["environment"] = {"TZ": "UTC"}
    found = {unit["name"]: unit for unit in units.worker_units(good.plan("io1"), good.profile)}
    assert {"io-1", "io-2", "quick-1"} <= set(found)
    assert found["io-2"]["environment"] == {}
    assert found["quick-1"]["environment"] == {"TZ": "UTC"}
    assert found["io-1"]["concurrency"] == found["io-2"]["concurrency"]


def test_a_host_without_workers_has_no_units(good: Fleet) -> None:
    assert units.worker_units(good.plan("db1"), good.profile) == []


def rendered(template: str, **variables: Any) -> dict[str, list[str]]:
    """The settings of a unit file, by name."""
    known = jinja2.Environment(trim_blocks=True, undefined=jinja2.ChainableUndefined)
    known.filters |= {"comment": AnsiblesFilters().filters()["comment"], "systemd_quoted": units.systemd_quoted}
    text = known.from_string((TEMPLATES / template).read_text()).render(ansible_managed="", **variables)
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if "=" in line and not line.startswith("#"):
            found.setdefault(line.partition("=")[0], []).append(line.partition("=")[2])
    return found


@pytest.mark.parametrize("host", ["cpu1", "io1"])
def test_a_unit_runs_exactly_the_command_line_of_its_plan(good: Fleet, host: str) -> None:
    planned = good.plan(host)
    plans = {lane["lane"]: LanePlan(**lane) for lane in planned["lanes"]}
    role = {
        "app_profile": {"celery": APP},
        "celery_worker_arguments": ["--include", "more"],
        "celery_worker_watchdog": 0,
    }
    (command,) = rendered("worker@.service.j2", **role)["ExecStart"]
    for unit in units.worker_units(planned, good.profile):
        drop_in = rendered("50-plan.conf.j2", **role, item=unit)
        environment = dict(shlex.split(line.replace("%%", "%"))[0].split("=", 1) for line in drop_in["Environment"])
        run = command.replace("%i", unit["name"]).replace("$WORKER_OPTIONS", environment["WORKER_OPTIONS"])
        queues = good.profile["celery"]["lanes"][unit["lane"]]["queues"]
        wanted = [*worker.arguments(plans[unit["lane"]], unit["name"], queues), "--include", "more"]
        assert run.replace("%H", "%h").split()[1:] == wanted
        assert environment["HEADRACE_LANE"] == unit["lane"]
        assert drop_in["MemoryMax"] == [f"{plans[unit['lane']].memory_max_mb}M"]


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
    assert as_systemd_reads(units.systemd_quoted(text)) == text
    assert shlex.split(units.systemd_quoted(text)) == [text]


@pytest.mark.parametrize("text", ["a\nB=1", "a\rB=1"])
def test_a_value_cannot_begin_another_variable(text: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        units.systemd_quoted(text)
