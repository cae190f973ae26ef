"""What is made of py-spy's stacks."""

from pathlib import Path

import pytest

from benchmarks import BenchError, profiling
from benchmarks.profiling import Profile, collect, tables
from harness import APP
from tests.benchmarks.tables import rows

LIB = "/somewhere/.venv/lib/python3.13/site-packages"
SUBMIT, TOKEN = f"submit_job ({APP}/jobs/api.py:1)", f"find ({APP}/jobs/tokens.py:20)"
QUERY = f"execute ({LIB}/psycopg/cursor.py:90)"
STACKS = f"""\
thread (0x7F12): "gthread";{SUBMIT};{TOKEN};{QUERY} 6
thread (0x7F12): "gthread";{SUBMIT};{TOKEN};{TOKEN} 1
{SUBMIT};dumps (/usr/lib/python3.13/json/__init__.py:180) 2
run ({LIB}/gunicorn/arbiter.py:200) 1
"""


def test_a_function_has_the_share_of_all_that_it_calls_and_counts_once() -> None:
    profile = Profile()
    profile.read(STACKS)
    assert profile.functions() == [("jobs/api.py submit_job", 0.9), ("jobs/tokens.py find", 0.7)]
    assert profile.packages() == [("psycopg", 0.6), ("Python", 0.2), ("ours", 0.1), ("gunicorn", 0.1)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(profiling, "VAR", tmp_path)
    return tmp_path


def test_units_of_one_kind_are_one_profile(folder: Path) -> None:
    files = {name: folder / f"{name}.txt" for name in ("web", "worker-quick-1", "worker-quick-2")}
    for file in files.values():
        file.write_text(STACKS)
    found = collect(files, "")
    assert {kind: one.samples for kind, one in found.items()} == {"web": 10, "worker": 20}
    assert sorted(file.name for file in folder.iterdir()) == ["profile-web.txt", "profile-worker.txt"]
    assert f"{SUBMIT};{TOKEN};{QUERY} 12\n" in (folder / "profile-worker.txt").read_text()
    web, worker = tables(found)
    assert rows(web)[0] == ["90%", "jobs/api.py submit_job", "60%", "psycopg"]
    assert (web.title, worker.title) == (
        "of web's time (10 samples of 50 a second)",
        "of worker's time (20 samples of 50 a second)",
    )


def test_where_nobody_may_look_that_is_one_sentence(folder: Path) -> None:
    with pytest.raises(BenchError, match="may not look at other processes"):
        collect({}, "Error: Permission denied (os error 13)")
