"""The report: its charts, its page, and the file that it is drawn from."""

import xml.etree.ElementTree as ET

import pytest

from loadtests import HERE, charts, facts, report, samples

NASTY = "<b>&\"'"
SUMMARY = facts.Summary.of([1.0, 2.0])
FACTS = facts.Facts(
    run=facts.Head(NASTY, NASTY, "open", NASTY, "2030", 100.0, 9.0, True, 1, [NASTY], facts.ClockOffset(0.0, None)),
    audit=facts.Audited.of([facts.Finding("lost", NASTY, NASTY, NASTY)], {NASTY: 1}, 0),
    verdicts=[facts.Verdict(NASTY, NASTY, NASTY, NASTY, ok) for ok in (True, False, None)],
    table=[facts.Row.of([1.0], lane="io", kind=NASTY, stage=stage) for stage in facts.STAGES],
    breakdown={"io": dict.fromkeys(facts.STAGES, SUMMARY)},
    ways=[facts.Way.of([1.0], way=NASTY)] * 2,
    stages=[facts.ShapeStage(NASTY, at, at + 4.0, {"io": facts.LaneStage(1.0, 1.0, 1.0)}) for at in (0.0, 4.0)],
    ceilings={"io": facts.Ceiling(NASTY, 1, None, None, 1.0, 1.0, False, None, None, facts.Plan(2, NASTY))},
    knees={"io": NASTY},
    over_time=facts.OverTime(1.0, {"io": facts.Bins([1.0, 2.0], [1.0, 0.0], [1.0, None], [2.0, None])}),
    lanes={"io": samples.Lane(NASTY, 1, 1.0)},
    lane_samples=[samples.LaneSample(101.0 + at, {"io": samples.Queue(at)}) for at in range(3)],
    host=facts.Host(True, 2, [samples.HostSample(101.0 + at, 1.0, {NASTY: 1.0}, {NASTY: 9}) for at in range(3)]),
    stores=facts.Stores({"redis": NASTY}, []),
    generator=facts.Generators(
        [facts.Generator(NASTY, 0.1, 0.1, 0.1, [(101.0, 0.1, 0.1), (102.0, 0.1, 0.1)])],
        [NASTY],
        samples.GeneratorLimits(1.0, 1.0),
    ),
    passed=False,
)


def test_every_value_is_escaped_in_the_page():
    page = report.page(FACTS)
    assert NASTY not in page
    assert "<b>&" not in page
    assert page.count("&lt;b&gt;&amp;") > 30


def test_what_a_run_leaves_can_be_read_and_drawn_again(tmp_path):
    facts.write(tmp_path / "run.json", FACTS)
    assert facts.read(tmp_path / "run.json") == FACTS


def test_a_chart_is_well_formed_and_has_gaps_where_nothing_is_known():
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, None), (3.0, 3.0), (4.0, 4.0)]
    chart = charts.chart([charts.Series("a < b", points, "red")], 4, str, [(2, "x & y")])
    drawing = report.TEMPLATES.get_template("chart.svg").module.svg(chart)
    lines = [one for one in ET.fromstring(drawing).iter("path") if one.get("class") == "line"]
    assert len(lines) == 2


@pytest.mark.parametrize(("most", "top"), [(0, 1), (3, 3), (7, 8), (0.23, 0.25), (980, 1000)])
def test_an_axis_ends_at_a_round_value_above_all_others(most, top):
    found, step = charts.scale(most)
    assert found == pytest.approx(top) or found >= most
    assert found >= most
    assert round(found / step) == pytest.approx(found / step)


def test_nothing_of_the_report_comes_from_elsewhere():
    """It must work offline: no address in what it is made of, but the server's own."""
    for name in ("report.py", "report.html", "report.css", "drawings.py", "charts.py", "chart.svg"):
        assert "://" not in (HERE / name).read_text(), name
