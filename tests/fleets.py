"""Fixtures: the clusters of the host tests and of the drills, each brought up once.

`--cluster running` uses the one that is up (`vagrant up`, `make cluster`) and leaves it. Without Docker and Vagrant the
tests skip and say what is missing; in CI that is a failure.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import BIN
from tests.clusters import Cluster, Clusters, missing, sh

DRILLS = Path(__file__).with_name("drills")
SAID = "journalctl --no-pager -n 15 -o cat -u 'headrace-*' -u redis-server -u nginx"


@pytest.fixture(scope="session")
def clusters(pytestconfig: pytest.Config) -> Iterator[Clusters]:
    mode = pytestconfig.getoption("cluster")
    if mode == "fresh" and (why := missing("vagrant")):
        pytest.skip(why)
    found = Clusters(mode)
    pytestconfig.stash[CLUSTERS] = found
    yield found
    found.take_down()


@pytest.fixture(scope="session")
def local(clusters: Clusters) -> Cluster:
    """The local cluster, a host for each thing, and a second one for the cpu lane, so that one may die; by Vagrant."""
    return clusters.get("local", ("vagrant", "up"), ("vagrant", "destroy", "--force"), HEADRACE_CPU_WORKERS="2")


@pytest.fixture(scope="session")
def small(clusters: Clusters) -> Cluster:
    """Three hosts for everything; with nothing but Docker. While they are bare, a dry run looks at them."""
    command = (BIN / "python", "deploy/cluster.py")
    cluster = clusters.get("small", (*command, "bare"), (*command, "down"))
    if clusters.mode == "fresh":
        cluster.dry_run = cluster.play("playbooks/site.yml", "--check", "--diff")
        cluster.output = sh(*command, "up", HEADRACE_INVENTORY=cluster.inventory).stdout
    return cluster


CLUSTERS = pytest.StashKey[Clusters]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test that fails shows what the hosts' units said last."""
    outcome: Any = yield
    report = outcome.get_result()
    clusters = item.config.stash.get(CLUSTERS, None)
    if report.when == "call" and report.failed and clusters and clusters.up and place(item):
        for name in clusters.up.machines:
            report.sections.append((f"journal of {name}", clusters.up.host(name).run(SAID).stdout))


def place(item: pytest.Item) -> int:
    """The small cluster, then tests of hosts that are well, then drills; 0: it needs no cluster."""
    fixtures = getattr(item, "fixturenames", ())
    if "clusters" not in fixtures:
        return 0
    return 1 if "small" in fixtures else 3 if DRILLS in item.path.parents else 2
