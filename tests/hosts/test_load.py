"""The load test on the cluster: from a host of its own, through the edge, to the audit of the ledger."""

import os
import re
import subprocess
from pathlib import Path

from harness import BIN, ROOT
from tests.clusters import Cluster

PASS = re.compile(r"load: (\d+) submitted, \1 verified, 0 lost, 0 double, 0 wrong: PASS")


def load(cluster: Cluster, token: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [BIN / "ansible-playbook", "-i", cluster.inventory, "playbooks/loadtest.yml", *arguments]
    env = os.environ | {"HEADRACE_TOKEN": token}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=900)


def test_every_job_of_a_smoke_run_comes_back_once_and_right(local: Cluster) -> None:
    token = local.on(local.groups["web"][0], "headrace-manage create_api_token demo").split()[-1]
    done = load(local, token)
    said = PASS.search(done.stdout)
    assert said, done.stdout[-6000:]
    assert done.returncode == 0
    assert int(said.group(1)) > 20
    report = re.search(r"report: (var/load/smoke-\S+/report.html)", done.stdout).group(1)
    assert "<svg" in (ROOT / Path(report)).read_text()
    assert token not in done.stdout
    assert local.on("load1", "ls /run/headrace-load.env 2>&1 || true").startswith("ls: cannot access")
    assert local.on("load1", "systemctl list-units --no-legend 'headrace-load*'") == ""


def test_without_a_token_it_is_one_sentence(local: Cluster) -> None:
    done = load(local, "")
    assert done.returncode == 2
    assert "HEADRACE_TOKEN is not set: make a token on a web host" in done.stdout
