"""What a person types first, on a machine that has its own ideas."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy import compose
from harness import BIN, ROOT

VAGRANT = """
module Vagrant
  def self.require_version(*); end
  def self.configure(_)
    puts MACHINES.keys.join(",")
  end
end
load ARGV[0]
"""
MAKE = """#!/bin/sh
echo "make $*" >> calls
mkdir -p .venv/bin
printf '#!/bin/sh\\necho "{\\\\"one\\\\": {}}"\\n' > .venv/bin/python
chmod +x .venv/bin/python
"""


def vagrant(folder: Path) -> subprocess.CompletedProcess[str]:
    """Read the Vagrantfile in a fresh clone, as Vagrant does for each of its commands."""
    shutil.copy(ROOT / "Vagrantfile", folder)
    (folder / "as_vagrant.rb").write_text(VAGRANT)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    argv = ["ruby", "as_vagrant.rb", str(folder / "Vagrantfile")]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not shutil.which("ruby"), reason="Ruby comes with Vagrant, which is not here")
@pytest.mark.parametrize(
    ("make", "status", "said"), [(MAKE, 0, "one\n"), ("#!/bin/sh\nexit 2\n", 1, "")], ids=["made", "missing"]
)
def test_vagrant_makes_what_it_needs(make: str, status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "make").write_text(make)
    (tmp_path / "make").chmod(0o755)
    done = vagrant(tmp_path)
    assert (done.returncode, done.stdout) == (status, said), done.stderr
    assert status == 0 or "which `make .venv/.deploy` could not make: see above." in done.stderr
    assert status or (tmp_path / "calls").read_text() == f"make --silent --directory {tmp_path} .venv/.deploy\n"


def test_what_is_set_for_a_persons_own_pip_does_not_reach_ours() -> None:
    theirs = {"PIP_USER": "yes", "PIP_TARGET": "/elsewhere", "PIP_PREFIX": "/elsewhere", "PYTHONPATH": "/elsewhere"}
    shown = f"include {ROOT / 'Makefile'}\nshow:\n\t@env\n"
    argv = ["make", "--silent", "-f", "-", "show"]
    done = subprocess.run(argv, input=shown, env={**os.environ, **theirs}, capture_output=True, text=True, check=True)
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert found["PIP_USER"] == "no"
    assert found.keys() & theirs.keys() == {"PIP_USER"}


@pytest.mark.parametrize(
    ("offered", "options", "turned_on"), [("0", [], True), ("1", [], False), ("0", ["--fetch", "http://site/"], False)]
)
def test_the_load_test_that_compose_names_has_the_kinds_that_it_needs(
    offered: str, options: list[str], turned_on: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[tuple[str, ...]] = []
    answers = {"create_api_token": "token", "printenv": offered, "{{.Service}}": "web\nworker-cpu\nworker-cpu"}

    def read(*argv: str) -> str:
        return next(answer for word, answer in answers.items() if word in argv)

    def run(*argv: str) -> int:
        ran.append(argv)
        return 0

    monkeypatch.setattr(compose, "read", read)
    monkeypatch.setattr(compose, "run", run)
    monkeypatch.setattr(compose, "ROOT", tmp_path)
    monkeypatch.setenv("SYNTHETIC_KINDS", offered)
    monkeypatch.setenv("HEADRACE_TOKEN", "")
    assert compose.load(["--shape", "smoke", *options]) == 0
    *before, load = ran
    assert load[-2 - len(options) :] == ("--shape", "smoke", *options)
    assert before == ([("docker", "compose", "up", "--detach", "--wait", "--scale=worker-cpu=2")] if turned_on else [])
    assert os.environ["SYNTHETIC_KINDS"] == ("1" if turned_on else offered)


def test_what_a_master_tells_its_workers_names_no_file_of_its_own() -> None:
    argv = [BIN / "python", "-c", LOCUST]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {"shapes", "slo", "plan", "ca"} <= told.keys()
    assert [name for name, value in told.items() if str(ROOT) in str(value)] == []


LOCUST = """
import argparse, json
from loadtests import locustfile
parser = argparse.ArgumentParser()
locustfile.options(parser)
print(json.dumps(vars(parser.parse_args([]))))
"""
