"""From request to result: one job of every kind through the edge, submitted over HTTPS and followed over wss."""

import asyncio
import io
import ssl
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from demo.client import Client, Ended
from deploy.subnet import machine_address
from harness import ROOT
from harness.waiting import answers, wait_until
from tests.clusters import Cluster

SITE_PORT = 8099  # of this machine, in the cluster's network; the inventory allows it


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Pages for fetch and linkcheck, served by this machine."""
    address = machine_address(1)
    command = [sys.executable, "-m", "demo.serve_site", str(SITE_PORT), address]
    with subprocess.Popen(command, cwd=ROOT, env={}) as server:
        wait_until(lambda: answers(SITE_PORT, address), why="the site answers")
        yield f"http://{address}:{SITE_PORT}"
        server.terminate()


def one_of_every_kind(cluster: Cluster, site: str) -> list[Ended]:
    """As the demo's client does it."""
    trust = ssl.create_default_context(cafile=str(cluster.secrets / "edge.crt"))
    token = cluster.on(cluster.groups["web"][0], "headrace-manage create_api_token demo").split()[-1]
    return asyncio.run(Client(cluster.address, token, Console(file=io.StringIO()), trust).run(site))


def test_every_kind_of_job_comes_back_verified(local: Cluster, site: str) -> None:
    jobs = one_of_every_kind(local, site)
    assert [(one.job["kind"], one.finding) for one in jobs if not one.verified] == []
    assert {one.job["kind"] for one in jobs} >= {"mandelbrot", "poster", "fetch", "linkcheck", "digest", "burn", "wait"}
    for one in jobs:
        host = one.job["worker"].split("@")[1]
        assert one.job["lane"] in local.machines[host]["headrace_lanes"]
        assert one.job["pool"] == local.profile["celery"]["lanes"][one.job["lane"]]["pool"]


def test_smoke_task_comes_back_through_the_result_backend(local: Cluster) -> None:
    code = "import django; django.setup(); import worker.tasks; print(worker.tasks.ping.delay().get(timeout=30))"
    said = local.on(local.groups["web"][0], f"headrace-run python -c '{code}'")
    assert said.strip().startswith("quick-1@")


def test_three_hosts_do_it_all(small: Cluster, site: str) -> None:
    jobs = one_of_every_kind(small, site)
    assert [(one.job["kind"], one.finding) for one in jobs if not one.verified] == []


def test_three_hosts_run_what_was_planned(small: Cluster) -> None:
    for name in small.machines:
        running = small.on(name, "systemctl list-units --no-legend --plain --type=service --state=active 'headrace-*'")
        assert {line.split()[0] for line in running.splitlines()} == set(small.units(name)), name
        assert small.on(name, "systemctl list-units --failed --no-legend") == "", name
