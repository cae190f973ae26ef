"""What the table of kills says of what it has seen, and what a machine is told that lacks a peer."""

import importlib.util
import sys

import pytest

from benchmarks import NotInstalled
from benchmarks.cases import CAREFUL, HEADRACE
from benchmarks.kills import FAULTS, Size, sides, table
from benchmarks.theirs import AGAINST, Peer, Variant, make
from harness import ROOT
from tests.benchmarks.tables import rows

PEERS = [name for name, side in AGAINST.items() if issubclass(side, Peer)]


def test_a_row_says_how_many_have_a_result_and_when_all_had_one() -> None:
    workers, broker = (fault.title for fault in FAULTS)
    kept = {"jobs": 60, "results": 60, "seconds": 23.4}
    lost = {"jobs": 60, "results": 50, "seconds": None}
    shown = table({CAREFUL: {workers: lost, broker: lost}, "django-ox": {workers: kept}, HEADRACE: {}}, Size())
    assert rows(shown) == [
        ["Celery, careful", "50 of 60", "50 of 60"],
        ["django-ox", "60 of 60, 23 s", "has none"],
        ["headrace", "has none", "has none"],
    ]


@pytest.mark.parametrize("name", PEERS)
def test_a_missing_peer_is_one_sentence_that_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NotInstalled, match=r"make \.venv/\.peers` .*\.$"):
        make(name, Variant())
    assert f"\n{name}" in (ROOT / "requirements" / "peers.in").read_text()


def test_the_kills_leave_out_peers_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert [name for name, _ in sides(None)] == [CAREFUL, HEADRACE]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert [name for name, _ in sides(None)] == [CAREFUL, *PEERS, HEADRACE]
    assert [name for name, _ in sides("cookiecutter")] == ["cookiecutter", HEADRACE]


def test_a_python_too_old_for_a_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    with pytest.raises(NotInstalled, match=r"needs Python 3\.12"):
        make("django-ox", Variant())
    with pytest.raises(NotInstalled, match="is not installed here"):
        make("procrastinate", Variant())
