"""One variable says how many worker machines the local cluster has."""

import json
import os
import subprocess
from typing import Any

import pytest

from harness import BIN, ROOT

COMMAND = [str(BIN / "ansible-inventory"), "-i", "deploy/inventories/local", "--list"]


def listed(workers: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HEADRACE_CPU_WORKERS": workers}
    return subprocess.run(COMMAND, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def hosts(workers: str) -> dict[str, dict[str, Any]]:
    return json.loads(listed(workers).stdout)["_meta"]["hostvars"]


def test_more_workers_are_like_the_first_at_addresses_of_their_own() -> None:
    found, one = hosts("3"), hosts("1")
    assert set(found) == {*one, "cpu2", "cpu3"}
    for name in ("cpu2", "cpu3"):
        assert found[name]["headrace_lanes"] == found["cpu1"]["headrace_lanes"]
        assert found[name]["machine_cores"] == found["cpu1"]["machine_cores"]
    numbers = [host["machine_number"] for host in found.values()]
    assert len(set(numbers)) == len(numbers)


def test_most_workers_still_have_addresses_of_their_own() -> None:
    numbers = [host["machine_number"] for host in hosts("40").values()]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("wrong", ["0", "41", "many", "-1"])
def test_a_wrong_number_is_one_sentence(wrong: str) -> None:
    said = listed(wrong).stderr
    assert f"HEADRACE_CPU_WORKERS is '{wrong}', which must be a number from 1 to 40." in said.replace("\n", " ")
