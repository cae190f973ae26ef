"""The drills that every change must pass, on the local cluster: at least one of each layer. `make drills` holds all."""

import fcntl
import re
import subprocess
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import IO, Any

import pytest

from drills import drill as drills
from drills.__main__ import COLUMNS, cells
from drills.catalogue import BY_NAME, DRILLS, EVERY_TIME
from drills.drill import Drill, Row, hold, judge, recovery
from drills.scene import Scene, enter
from harness import ROOT
from tests.clusters import Cluster
from tests.fleets import place


@pytest.fixture(scope="session")
def scene(local: Cluster, at_work: IO[str]) -> Iterator[Scene]:
    """The local cluster, as soon as nothing else is tested on this machine: recovery is measured in seconds."""
    fcntl.flock(at_work, fcntl.LOCK_EX)
    yield enter(local.inventory)
    local.forget_connections()


@pytest.mark.parametrize("name", EVERY_TIME)
def test_nothing_is_lost(name: str, scene: Scene) -> None:
    row = hold(BY_NAME[name], scene, ROOT / "var/drills/tests" / name)
    assert row.passed, row


def test_drills_come_last_and_wait_for_everybody_who_still_tests() -> None:
    def where(path: str, *fixtures: str) -> int:
        return place(SimpleNamespace(fixturenames=fixtures, path=ROOT / "tests" / path))

    drill = where("drills/test_drills.py", "clusters", "local", "scene")
    assert where("drills/test_drills.py") == 0
    assert where("hosts/test_again.py", "clusters", "small") < where("hosts/test_again.py", "clusters", "local") < drill
    taken = subprocess.run(["flock", "--exclusive", "--nonblock", ROOT / "var/tests.lock", "true"], check=False)
    assert taken.returncode == 1, "this process tests, and somebody could hold drills"


def test_every_layer_is_drilled_every_time() -> None:
    assert {BY_NAME[name].layer for name in EVERY_TIME} == {drill.layer for drill in DRILLS}
    assert len(BY_NAME) == len(DRILLS)


def test_the_page_shows_every_drill_and_marks_those_of_every_time() -> None:
    page = (ROOT / "docs/reliability.md").read_text()
    shown = re.findall(r"^\| ([a-z-]+)( \*)? \|.* pass \|$", page, re.M)
    assert [name for name, _ in shown] == [drill.name for drill in DRILLS]
    assert {name for name, star in shown if star} == set(EVERY_TIME)


# The judge, on findings made up

NOW = time.time()
FINE = {"submitted": 50, "lost": 0, "double": 0, "wrong": 0, "exceptions": [], "refused": {}, "failed": 0}


class Findings:
    """A load that has ended."""

    def __init__(self, jobs: list[dict[str, Any]], **audit: Any) -> None:
        self.jobs, self.audit = jobs, FINE | audit

    def found(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return {"audit": self.audit}, self.jobs


def job(due: float, waited: float, attempt: int = 1) -> dict[str, Any]:
    return {"due_at": NOW + due, "told_at": NOW + due + waited, "attempt": attempt, "params": {}}


def test_recovery_is_when_the_last_client_that_waited_for_the_fault_had_its_job() -> None:
    assert recovery([job(-5, 0.2), job(-1, 9), job(2, 4), job(30, 0.5)], NOW) == pytest.approx(8)
    assert recovery([job(-5, 0.2), job(1, 0.5)], NOW) == 0
    assert recovery([job(0, 5), job(1, 1) | {"told_at": None}, job(20, 1)], NOW) == pytest.approx(21)
    assert recovery([job(0, 5) | {"params": {"ms": 4000}}], NOW) == 0


@pytest.mark.parametrize(
    ("jobs", "audit", "complaint"),
    [
        ([job(0, 40)], {}, "full flow after 40.0 s; the limit is 30 s"),
        ([job(0, 1, attempt=3)], {}, "a job took 3 attempts; the limit is 2"),
        ([job(0, 1, attempt=2)], {}, "1 jobs ran again, and nothing that ran them died"),
        ([job(0, 1)], {"refused": {"away": 1}, "failed": 2}, "3 requests failed; the limit is 0"),
        ([job(0, 1)], {"submitted": 3}, "only 3 jobs were submitted"),
        ([job(0, 1)], {"lost": 1, "exceptions": [{"verdict": "lost", "id": "x", "why": "gone"}]}, "lost x: gone"),
    ],
)
def test_what_is_not_as_promised_is_a_complaint(jobs: list[Any], audit: dict[str, Any], complaint: str) -> None:
    row = Row("some", "worker")
    drill = Drill("some", "worker", "", drills.nothing, kills="again" not in complaint)
    judge(row, drill, Findings(jobs, **audit), NOW)
    assert [complaint in said for said in row.complaints] == [True], row
    assert not row.passed


def test_a_row_has_a_cell_for_each_column() -> None:
    assert len(cells(Row("some", "worker"))) == len(COLUMNS)


def test_what_is_as_promised_passes() -> None:
    row = Row("some", "worker")
    judge(row, Drill("some", "worker", "", drills.nothing, kills=True), Findings([job(0, 5, attempt=2)]), NOW)
    assert row.passed, row
