"""How a plan is shown."""

from pathlib import Path

import pytest

from deploy.fleet import drawing
from tests.deploy.fleet.example import Fleet
from tests.deploy.rehearsal import inventory, rehearse


def test_the_drawing_has_aligned_bars_of_the_slots_of_every_lane(good: Fleet) -> None:
    good.hosts["io1"]["headrace_overrides"] = {"io": {"instances": 12}}
    lines = drawing.draw_plan(good.plan(host) for host in sorted(good.hosts)).splitlines()
    bars = [line for line in lines[:-1] if "#" in line]
    assert len({line.index("#") for line in bars}) == 1
    assert [line.split()[0] for line in bars] == ["cpu", "quick", "io", "quick", "web"]
    assert max(line.count("#") for line in bars) <= drawing.MOST_MARKS
    assert "6 slots" in lines[-1]  # 12 units of 21 threads
    assert "db1: 4 cores, 8192 MB (system 819, db 7373)" in lines


def test_the_drawing_can_be_printed_as_it_is(good: Fleet) -> None:
    """YAML prints a text as it is only without spaces at the ends of lines."""
    lines = drawing.draw_plan([good.plan("cpu1"), good.plan("db1")]).splitlines()
    assert [line for line in lines if line != line.rstrip() or len(line) > 110] == []


@pytest.mark.servers
def test_plan_yml_prints_the_drawing(tmp_path: Path) -> None:
    said = rehearse(tmp_path, "plan.yml", inventory(), "--tags", "all")
    assert said.startswith("0\n"), said
    assert "        one: 4 cores, 8192 MB (system 819, edge 128, beat 192, db " in said
    assert "          quick  1 x 1   #" in said
