"""What the controller would deploy."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet import release
from tests.deploy.fleet.example import Fleet


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    """A checkout with one commit."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app/code.py").write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for argv in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["tag", "v1"]):
        subprocess.run([*git, *argv], check=True)
    return {"path": str(tmp_path), "ref": "HEAD", "include": ["app"], "version": "0.1.0"}


def test_a_release_is_named_after_what_is_in_it(source: dict[str, Any]) -> None:
    name = release.release_name({"source": source})
    assert name.startswith("0.1.0-")
    assert name == release.release_name({"source": {**source, "ref": "v1"}})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ref": "v9.9.9"}, "has no commit, tag or branch v9.9.9: fetch it (git fetch --tags), or mend headrace_ref."),
        ({"ref": "--help"}, "has no commit, tag or branch --help"),
        ({"include": ["app", "more"]}, "HEAD does not have more, which is deployed"),
        ({"path": "/"}, "/ is no git checkout that can be deployed from"),
    ],
)
def test_what_cannot_be_deployed_is_one_sentence(change: Any, sentence: str, source: dict[str, Any]) -> None:
    (said,) = release.release_troubles({"source": {**source, **change}})
    assert sentence in said
    assert said.endswith(".")


def test_an_unknown_application_is_one_sentence() -> None:
    assert release.profile_file("headrace").endswith("deploy/apps/headrace.yml")
    with pytest.raises(ValueError, match=r"no app profile deploy/apps/headrcae.yml: mend headrace_app"):
        release.profile_file("headrcae")


def build(fleet: Fleet, host: str) -> str:
    return release.release_build(host, fleet.hosts, fleet.profile)


def test_hosts_of_one_debian_and_architecture_share_a_build(good: Fleet) -> None:
    assert build(good, "web1").startswith("trixie-x86_64-")
    good.facts("io1")["distribution_release"] = "bookworm"
    good.facts("edge1")["architecture"] = "aarch64"
    assert build(good, "web1") == build(good, "cpu1")
    assert len({build(good, host) for host in ("web1", "io1", "edge1")}) == 3


def test_what_is_written_into_the_files_makes_another_build(good: Fleet) -> None:
    before = build(good, "web1")
    good.profile["root"] = "/srv/headrace"
    other_folder = build(good, "web1")
    good.profile["environment"]["build"]["HEADRACE_BASE"] = "/jobs"
    other_environment = build(good, "web1")
    good.hosts["web1"]["python_env_python"] = "/usr/bin/python3.12"
    assert len({before, other_folder, other_environment, build(good, "web1")}) == 4


def test_the_first_host_that_lacks_the_release_builds_it_for_those_that_can_run_it(good: Fleet) -> None:
    hosts = ["edge1", "web1", "cpu1", "io1"]
    for host in hosts:
        good.hosts[host]["app_built"] = {"stat": {"exists": host == "edge1"}}
    good.facts("io1")["distribution_release"] = "bookworm"

    def builder(host: str) -> str:
        return release.release_builder(host, good.hosts, hosts, good.profile)

    assert {host: builder(host) for host in hosts} == {"edge1": "web1", "web1": "web1", "cpu1": "web1", "io1": "io1"}
    for host in hosts:
        good.hosts[host]["app_built"]["stat"]["exists"] = True
    assert {builder(host) for host in hosts} == {""}
