"""What a run waits for is said while it waits, and what it did at its end."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.executor.stats import AggregateStats
from ansible.playbook.handler import Handler
from ansible.plugins.loader import callback_loader

from harness import ROOT
from harness.waiting import wait_until
from tests.deploy.rehearsal import inventory, rehearse

FACTS = {"fleet_release": "0.1.0-abc", "fleet_site": "https://jobs.example.com/", "fleet_next": "sign in"}


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The callback, whose lines are kept in `said`, as a playbook begins."""
    callback_loader.add_directory(str(ROOT / "playbooks/callback_plugins"))
    one = callback_loader.get("progress")
    monkeypatch.setattr(one, "_display", SimpleNamespace(display=(said := []).append))
    one.said = said
    yield one
    one.over.set()


def host(name: str) -> Any:
    return SimpleNamespace(get_name=lambda: name)


def done(name: str, task: Any, **result: Any) -> Any:
    return SimpleNamespace(host=host(name), task=task, result=result)


def task(name: str, **variables: Any) -> Any:
    return SimpleNamespace(get_name=lambda: name, action="command", vars=variables)


def handler(name: str) -> Any:
    one = Handler()
    one.name = name
    return one


def stats(**counts: dict[str, int]) -> AggregateStats:
    one = AggregateStats()
    for name, hosts in {"processed": {"cpu1": 1, "web1": 1}, **counts}.items():
        getattr(one, name).update(hosts)
    return one


def test_the_hosts_that_are_waited_for_are_named_with_what_may_keep_them(
    progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(type(progress)._watch.__globals__, "PATIENCE_S", 0.5)
    progress.v2_playbook_on_start(SimpleNamespace(_file_name="site.yml"))
    progress.v2_playbook_on_task_start(task("Workers are restarted", waits="each ends its jobs"), is_conditional=False)
    for name in ("cpu1", "io1"):
        progress.v2_runner_on_start(host(name), None)
    progress.v2_runner_on_ok(done("io1", None))
    wait_until(lambda: progress.said, 10, "it says what it waits for")
    assert progress.said[0].startswith("waiting for cpu1 since ")
    assert progress.said[0].endswith(" s: Workers are restarted (each ends its jobs)")


def test_a_run_is_summed_up(progress: Any) -> None:
    progress.v2_playbook_on_start(SimpleNamespace(_file_name="site.yml"))
    progress.v2_runner_on_ok(done("web1", None, ansible_facts=FACTS))
    progress.v2_runner_on_ok(done("web1", handler("Web units are restarted"), changed=True))
    progress.v2_playbook_on_stats(stats(changed={"web1": 3}))
    first, restarted, following = progress.said[0].splitlines()
    assert first.startswith("https://jobs.example.com/ 0.1.0-abc: web1 of 2 hosts changed, in ")
    assert restarted == "  Web units are restarted: web1"
    assert following == "  next: sign in"


def test_a_run_that_failed_says_what_to_do(progress: Any) -> None:
    progress.v2_playbook_on_start(SimpleNamespace(_file_name="site.yml"))
    progress.v2_runner_on_ok(done("web1", None, ansible_facts=FACTS))
    progress.v2_playbook_on_stats(stats(dark={"cpu1": 1}, failures={"web1": 1}))
    assert "not reached: cpu1: run this again once they answer" in progress.said[0]
    assert "ended early on web1: mend what it says above, and run this again" in progress.said[0]


def test_what_programs_read_is_left_alone(progress: Any) -> None:
    before = threading.active_count()
    progress.v2_playbook_on_start(SimpleNamespace(_file_name="__adhoc_playbook__"))
    progress.v2_playbook_on_stats(stats())
    assert progress.said == []
    assert threading.active_count() == before


@pytest.mark.servers
def test_ansible_finds_it_once(tmp_path: Path) -> None:
    said = rehearse(tmp_path, "site.yml", inventory(), "--check")
    assert said.count("none of 1 host would change, in ") == 1, said
