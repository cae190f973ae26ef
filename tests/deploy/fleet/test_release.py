"""What the controller would deploy."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet import release


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
