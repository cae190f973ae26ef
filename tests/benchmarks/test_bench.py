"""`make bench` on its shortest setting: that it measures what it says, for both sides, and leaves nothing behind.

How fast anything is depends on the machine and its neighbours, so nothing is asserted of that.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import BASELINE, CAREFUL, CASES, HEADRACE, ONE_SOCKET, OX, SIDES, Aim, aims
from benchmarks.figures import KINDS, STAGES, AtRest, Legs, batch_figures, case_figures, ratios, verdicts
from benchmarks.meters import Reading
from benchmarks.report import GROWTH, REST, ROWS, number, show
from harness import ROOT
from harness.processes import environment, marked
from harness.servers import PostgreSQL
from harness.signals import heed_nothing
from loadtests.facts import percentile
from tests.benchmarks.tables import console, rows

LIMIT_S = 600
MEASURED = (
    "rate",
    "cpu",
    "cpu_web",
    "cpu_worker",
    "cpu_client",
    "paced_cpu",
    "commands",
    "statements",
    "end_to_end_p50",
)


@dataclass(frozen=True)
class Ran:
    output: str
    result: dict[str, Any]


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    if PostgreSQL.find() is None:
        pytest.skip("PostgreSQL is not installed")
    path = folder / "bench.json"
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(path)]
    env = environment(TMPDIR=str(folder))
    run = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert run.returncode == 0, run.stdout + run.stderr
    return Ran(run.stdout, json.loads(path.read_text()))


def test_every_case_has_figures_of_both_sides(ran: Ran) -> None:
    assert set(ran.result["cases"]) == {case.name for case in CASES}
    for name, found in ran.result["cases"].items():
        for side in SIDES:
            for measure in MEASURED:
                assert found[side][measure] > 0, (name, side, measure)
            assert found["paced_jobs"][side] > 0
            assert len(found["rates"][side]) == 1
        assert found["ratio"]["rate"] == pytest.approx(found[HEADRACE]["rate"] / found[BASELINE]["rate"])


def test_cpu_is_the_sum_of_the_kinds_without_the_client(ran: Ran) -> None:
    for found in ran.result["cases"].values():
        for side in SIDES:
            kinds = sum(found[side][f"cpu_{kind}"] or 0 for kind in KINDS)
            assert found[side]["cpu"] == pytest.approx(kinds)
        assert found[BASELINE]["cpu_push"] is None, "the baseline has no push process"


def test_our_stages_add_up(ran: Ran) -> None:
    """Each stage is known, and none is longer than the whole."""
    for found in ran.result["cases"].values():
        ours = found[HEADRACE]
        for stage in STAGES:
            assert 0 <= ours[f"{stage}_p50"] <= ours[f"{stage}_p99"] <= ours["end_to_end_p99"]
    waits = ran.result["cases"]["wait50"][HEADRACE]
    assert waits["run_p50"] >= 50


def test_a_client_that_polls_waits_for_its_poll(ran: Ran) -> None:
    assert ran.result["cases"]["digest"][BASELINE]["end_to_end_p50"] >= 500


def test_batches_are_submitted_in_every_way_of_a_side(ran: Ran) -> None:
    """Of the baseline's two the better one stands in the table."""
    rates = ran.result["batch"]["rates"]
    assert {side: set(ways) for side, ways in rates.items()} == {BASELINE: {"delay", "group"}, HEADRACE: {"batch"}}
    for side in SIDES:
        found = ran.result["batch"][side]
        assert found["rate"] == max(rates[side].values()) > 0
        assert found["cpu"] > 0
    assert ran.result["batch"][HEADRACE]["statements"] > ran.result["batch"][BASELINE]["statements"]


def test_what_is_sent_at_rest_is_known_of_each_side(ran: Ran) -> None:
    """Ours renews leases and looks for lost jobs; the baseline has nothing to ask its database."""
    rest = ran.result["idle"]
    assert rest[HEADRACE]["commands_per_s"] > 0
    assert rest[HEADRACE]["statements_per_s"] > rest[BASELINE]["statements_per_s"]


def test_ledger_was_filled_between_two_probes(ran: Ran) -> None:
    grown = ran.result["growth"]
    assert (grown["finished_rows"], grown["queued_rows"]) == (1000, 100)
    for name in GROWTH:
        assert grown["empty"][name] >= 0
        assert grown["full"][name] >= 0


def test_every_aim_has_a_verdict(ran: Ran) -> None:
    measured = ONE_SOCKET in ran.result["cases"]["digest"]
    wanted = [aim for aim in aims(CAREFUL) if aim.of != ONE_SOCKET or measured]
    for verdict, aim in zip(ran.result["aims"], wanted, strict=True):
        assert (verdict["case"], verdict["measure"]) == (aim.case, aim.measure)
        assert isinstance(verdict["value"], float)
        assert verdict["reached"] is aim.reached(verdict["value"])


def test_table_names_every_job_and_measure(ran: Ran) -> None:
    for title, _ in (*ROWS.values(), *REST.values(), *GROWTH.values()):
        assert title.strip() in ran.output
    for case in CASES:
        assert case.title in ran.output
    reached = sum(aim["reached"] for aim in ran.result["aims"])
    assert f"bench: {reached} of {len(ran.result['aims'])} aims reached" in ran.output


def test_nothing_is_left(ran: Ran, folder: Path) -> None:
    assert marked(folder.name) == {}
    assert [file.name for file in folder.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile_is_the_nearest_rank(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_ratio_only_of_what_both_know() -> None:
    assert ratios({"a": 2, "b": None, "d": 0}, {"a": 3, "b": 1, "c": 1, "d": 1}) == {"a": 1.5}


def test_aim_says_what_it_asks() -> None:
    assert str(Aim("x", "rate", "ratio", at_least=2)) == ">= 2x"
    assert str(Aim("x", "cpu", "headrace", at_most=12)) == "<= 12"
    assert Aim("x", "rate", "ratio", at_least=2).reached(2)
    assert not Aim("x", "cpu", "headrace", at_most=12).reached(12.1)


def test_a_job_is_not_charged_what_is_sent_at_rest() -> None:
    """A leg of 2 s in which 10 jobs ended, beside 5 commands and 2 statements a second at rest."""
    before = Reading(100.0, {"web": 1.0, "machine": 50.0}, {"get": 7}, 1000)
    after = Reading(102.0, {"web": 1.5, "machine": 51.5}, {"get": 40, "lpush": 7}, 1094)
    legs = Legs()
    legs.took(10, after - before, AtRest(commands=5, statements=2))
    assert (legs.commands, legs.statements, legs.rates) == ([3], [9], [5])
    assert legs.cpu["web"] == [50]
    assert legs.neighbours == [0.5]
    assert (after - before).per_second() == (20, 47)


def _at(rate: float, cpu: float) -> Legs:
    return Legs(rates=[rate], cpu={"web": [cpu]})


def test_batches_are_held_against_the_best_way_of_the_other_side() -> None:
    legs = {BASELINE: {"delay": _at(100, 7), "group": _at(150, 6)}, HEADRACE: {"batch": _at(450, 3)}}
    found = batch_figures(legs)
    assert (found[BASELINE]["rate"], found[BASELINE]["cpu"]) == (150, 6)
    assert (found["ratio"]["rate"], found["ratio"]["cpu"]) == (3, 0.5)


def test_an_aim_at_what_was_not_measured_has_no_verdict() -> None:
    found = {"digest": case_figures({BASELINE: _at(1, 1), HEADRACE: _at(2, 5)})}
    wanted = [Aim("digest", "cpu", HEADRACE, at_most=5), Aim("digest", "cpu", ONE_SOCKET, at_most=5), *aims(OX)[:1]]
    [verdict] = verdicts(wanted, found)
    assert (verdict["of"], verdict["value"], verdict["reached"]) == (HEADRACE, 5, True)


def test_aims_at_a_ratio_depend_on_what_stands_beside() -> None:
    """What a job may cost is the same beside any; a peer that promises is not asked to lose by as much."""
    ours = set(aims("cookiecutter"))
    assert {aim.of for aim in ours if aim.case != "growth"} == {HEADRACE, ONE_SOCKET}
    assert ours < set(aims(CAREFUL))
    assert [str(aim) for aim in aims(OX) if aim not in ours] == [">= 1.1x", ">= 1.7x"]


def test_one_socket_has_a_column_where_it_was_measured() -> None:
    legs = {BASELINE: _at(10, 1), HEADRACE: _at(20, 9), ONE_SOCKET: _at(30, 6)}
    digest = case_figures(legs)
    cases = {"digest": digest, "cpu5": case_figures({BASELINE: _at(1, 1), HEADRACE: _at(1, 1)})}
    wanted = [Aim("digest", "cpu", HEADRACE, at_most=8), Aim("digest", "cpu", ONE_SOCKET, at_most=6.5)]
    idle = {side: {"commands_per_s": 1.0, "statements_per_s": 2.0} for side in SIDES}
    result = {"cases": cases, "batch": digest, "idle": idle, "growth": None, "seconds": 1, "against": CAREFUL}
    printed = console()
    show({**result, "aims": verdicts(wanted, cases)}, printed)
    table = rows(printed)
    assert ["digest", "rate at saturation, jobs/s", "10", "20", "30", "2x", ""] in table
    assert ["", "CPU per job, ms", "1", "9", "6", "9x", "<= 8: missed; one socket <= 6.5: reached"] in table
    assert ["5 ms CPU", "rate at saturation, jobs/s", "1", "1", "-", "1x", ""] in table


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (1234.5, "1,234"), (0.01234, "0.0123"), (52.35, "52.4")])
def test_numbers_have_three_digits_that_matter(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.servers
def test_interrupted_bench_ends_its_processes(folder: Path, tmp_path: Path) -> None:
    """SIGTERM in the middle: everything it started is gone when it is, though it inherited ignored signals."""
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path / "bench.json")]
    env = environment(TMPDIR=str(folder))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(argv, cwd=ROOT, env=env, preexec_fn=heed_nothing, **pipes)  # noqa: PLW1509 - locks nothing
    assert "units are up" in run.stdout.readline()
    assert all(name in str(marked(folder.name)) for name in ("redis", "postgres", "gunicorn", "celery"))
    run.terminate()
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert marked(folder.name) == {}
