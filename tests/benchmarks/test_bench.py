"""`make bench` on its shortest setting: that it measures what it says, for both sides, and leaves nothing behind.

How fast anything is depends on the machine and its neighbours, so nothing is asserted of that.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import AIMS, BASELINE, CASES, HEADRACE, SIDES, Aim
from benchmarks.figures import KINDS, STAGES, ratios
from benchmarks.report import GROWTH, ROWS, number
from harness import ROOT
from harness.processes import environment, marked
from harness.servers import PostgreSQL
from harness.signals import heed_nothing
from loadtests.facts import percentile

LIMIT_S = 300


@dataclass(frozen=True)
class Ran:
    output: str
    result: dict[str, Any]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """For all files of a run: its name marks the processes. PostgreSQL's user must reach it."""
    made = Path(tempfile.mkdtemp(prefix="headrace-tests-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


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
            for measure in ("rate", "cpu", "cpu_web", "cpu_worker", "cpu_client", "commands", "end_to_end_p50"):
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


def test_ledger_was_filled_between_two_probes(ran: Ran) -> None:
    grown = ran.result["growth"]
    assert (grown["finished_rows"], grown["queued_rows"]) == (1000, 100)
    for name in GROWTH:
        assert grown["empty"][name] >= 0
        assert grown["full"][name] >= 0


def test_every_aim_has_a_verdict(ran: Ran) -> None:
    assert len(ran.result["aims"]) == len(AIMS)
    for verdict, aim in zip(ran.result["aims"], AIMS, strict=True):
        assert (verdict["case"], verdict["measure"]) == (aim.case, aim.measure)
        assert isinstance(verdict["value"], float)
        assert verdict["reached"] is aim.reached(verdict["value"])


def test_table_names_every_job_and_measure(ran: Ran) -> None:
    for title, _ in (*ROWS.values(), *GROWTH.values()):
        assert title.strip() in ran.output
    for case in CASES:
        assert case.title in ran.output
    reached = sum(aim["reached"] for aim in ran.result["aims"])
    assert f"bench: {reached} of {len(AIMS)} aims reached" in ran.output


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
