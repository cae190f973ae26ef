"""`make bench ARGS=--sockets` on its shortest setting, its table, and what a machine is told that cannot run it.

How fast anything is depends on the machine and its neighbours: what is asserted of a run is counts.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import NotInstalled, sockets
from benchmarks.cases import FOLLOWED, HEADRACE
from benchmarks.figures import AtRest, verdicts
from benchmarks.meters import Reading
from benchmarks.sockets import CASE, FEW, ROWS, Took, table
from harness import ROOT
from harness.processes import environment, marked
from harness.servers import PostgreSQL
from tests.benchmarks.tables import rows

LIMIT_S = 300


@pytest.fixture(scope="module")
def ran(folder: Path) -> dict[str, float]:
    if PostgreSQL.find() is None or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("PostgreSQL or nginx is not installed")
    path = folder / "sockets.json"
    argv = [sys.executable, "-m", "benchmarks", "--sockets", "--quick", "--output", str(path)]
    env = environment(TMPDIR=str(folder))
    run = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{FEW.followers} followers of one job, on two push processes" in run.stdout
    found: dict[str, float] = json.loads(path.read_text())
    return found


def test_every_follower_was_told_and_cost_no_statement(ran: dict[str, float]) -> None:
    assert ran["followers"] == FEW.followers
    for measure in ("opened_per_s", "told_s", "push_kb", "edge_kb", "open_push_cpu", "end_push_cpu"):
        assert ran[measure] > 0, measure
    for measure in ("open_statements", "end_statements", "open_commands", "end_commands"):
        assert ran[measure] < FEW.followers / 2, measure
    assert len(ran["aims"]) == len(FOLLOWED)  # type: ignore[arg-type]


def test_nothing_is_left(ran: dict[str, float], folder: Path) -> None:
    assert marked(folder.name) == {}
    assert [file.name for file in folder.iterdir()] == ["sockets.json"]


def test_the_table_has_each_measure_and_the_aims() -> None:
    """Two followers, of whom one was told after 0.4 s; half a second at rest has one statement."""
    opening = Reading(0.01, {"push": 0.004, "edge": 0.002, "client": 0.006}, {"publish": 1}, 7)
    ending = Reading(2.0, {"push": 0.002, "edge": 0.001, "client": 0.001}, {"publish": 1}, 9)
    took = Took(AtRest(statements=2), opening, ending, {"push": 30, "edge": 90}, [0.2, 0.4])
    found = took.figures()
    assert set(ROWS) < set(found)
    shown = rows(table({**found, "aims": verdicts(FOLLOWED, {CASE: {HEADRACE: found}})}))
    assert shown[0] == ["opened, 1/s", "200", ">= 150: reached"]
    assert [cells[1] for cells in shown if cells[0] == "CPU of push for each, ms"] == ["2", "1"]
    assert ["memory of push for each, kB", "15", "<= 20: reached"] in shown
    assert ["memory of nginx for each, kB", "45", "<= 20: missed"] in shown
    assert ["from the end to the last being told, s", "0.4", "<= 0.7: reached"] in shown
    assert [cells[1] for cells in shown if cells[0] == "SQL statements for all"] == ["6.98", "5"]
    assert len(shown) == len(ROWS)


def test_a_missing_nginx_is_one_sentence_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(NotInstalled, match=r"^There is no nginx here: apt-get install .*nginx-light\.$"):
        sockets.sockets(FEW, print)


def test_its_nginx_is_set_up_as_the_role_has_it(tmp_path: Path) -> None:
    """Of TLS and of the way to push: with other directives it would measure something else."""
    ours, theirs = sockets.config(tmp_path, 1, 2, 100), (sockets.ROLE / "nginx.conf.j2").read_text()
    asked = [line.strip() for line in ours.splitlines() if re.match(r" +(ssl_(?!cert)|proxy_b|limit_conn_zone)", line)]
    assert len(asked) == 8
    for directive in asked:
        assert directive in theirs


def test_without_openssl_there_is_no_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(NotInstalled, match=r"apt-get install openssl\.$"):
        sockets.certificate(tmp_path)


def test_too_few_open_files_are_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    with pytest.raises(NotInstalled, match=r"2,000 followers need 4,540 open files .* 4,096 are allowed"):
        sockets.raise_limit(2000)
    sockets.raise_limit(1000)
    assert given == [(2540, 4096)]
