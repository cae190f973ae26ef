"""A release on an edge, which needs no database: its packages, its static files, and the link that names it."""

from pathlib import Path

import pytest

from tests.clusters import sh
from tests.roles.conftest import RELEASE, Bare

OURS = Path("/usr/local/share/ca-certificates")  # what this machine trusts beyond Debian's list


@pytest.fixture(scope="module")
def surroundings(surroundings: None, bare: Bare) -> None:
    for file in OURS.glob("*.crt"):
        sh("docker", "cp", file, f"{bare.container}:{file}")
    bare.machine.check_output("update-ca-certificates")


def test_the_release_is_current_and_has_its_packages(host: Bare) -> None:
    release = host.machine.file("/opt/headrace/current").linked_to
    assert (
        release == f"/opt/headrace/releases/{host.machine.file(f'{release}/.built-{RELEASE}').content_string.strip()}"
    )
    assert host.machine.check_output(f"{release}/.venv/bin/python -c 'import celery, django; print(1)'") == "1"


def test_its_static_files_are_there(host: Bare) -> None:
    assert host.machine.file("/opt/headrace/current/static/staticfiles.json").exists


def test_a_second_run_changes_nothing(host: Bare) -> None:
    assert host.apply() == 0
