"""What the controller would deploy: which profile, which release, built by which host, with which secrets."""

import subprocess
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

Hostvars = Mapping[str, Mapping[str, Any]]
APPS = Path(__file__).resolve().parents[1] / "apps"


def profile_file(app: str) -> str:
    """Where the profile of an application is.

    Raises:
        ValueError: there is none.
    """
    if not (APPS / f"{app}.yml").is_file():
        there = ", ".join(sorted(path.stem for path in APPS.glob("*.yml")))
        raise ValueError(f"There is no app profile deploy/apps/{app}.yml: mend headrace_app, which may be {there}.")
    return str(APPS / f"{app}.yml")


def release_name(profile: Mapping[str, Any]) -> str:
    """The release that would be deployed: the version, and a hash of the paths that are deployed.

    Named by their content, so that a commit elsewhere makes no new release.

    Raises:
        ValueError: the checkout on the controller does not have it.
    """
    source = profile["source"]
    path, ref = source["path"], source["ref"]
    git = ["git", "-C", path]
    found = _run(*git, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if found.returncode != 0:
        if why := _run(*git, "rev-parse", "--git-dir").stderr.strip():
            raise ValueError(f"{path} is no git checkout that can be deployed from ({why}): clone the repository.")
        raise ValueError(
            f"{path} has no commit, tag or branch {ref}: fetch it (git fetch --tags), or mend headrace_ref."
        )
    tree = _run(*git, "ls-tree", found.stdout.strip(), *source["include"]).stdout
    missing = [one for one in source["include"] if f"\t{one}\n" not in tree]
    if missing:
        raise ValueError(f"{ref} does not have {', '.join(missing)}, which is deployed: mend headrace_ref.")
    return f"{source['version']}-{sha256(tree.strip().encode()).hexdigest()[:12]}"


def release_build(host: str, hostvars: Hostvars, profile: Mapping[str, Any]) -> str:
    """The name of the build of a release that a host can run; all hosts for which it is the same share it.

    The system with its Python, and what is written into the files: where they are, and what collectstatic was told.
    """
    known = hostvars[host]
    facts, python = known["ansible_facts"], known.get("python_env_python", "")
    told = [
        profile["root"],
        python,
        profile["source"]["requirements"],
        *sorted(profile["environment"]["build"].items()),
    ]
    return f"{facts['distribution_release']}-{facts['architecture']}-{sha256(repr(told).encode()).hexdigest()[:6]}"


def release_builder(host: str, hostvars: Hostvars, hosts: Iterable[str], profile: Mapping[str, Any]) -> str:
    """Which of the hosts builds the release for this one: the first that shares its build and lacks it; or none."""
    build = release_build(host, hostvars, profile)
    lacking = (one for one in hosts if not hostvars[one]["app_built"]["stat"]["exists"])
    return next((one for one in lacking if release_build(one, hostvars, profile) == build), "")


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603


def release_troubles(profile: Mapping[str, Any]) -> list[str]:
    """One sentence if the checkout does not have the release; else none."""
    try:
        release_name(profile)
    except ValueError as error:
        return [str(error)]
    return []


def secret_files(names: Iterable[str], folder: str, dry: bool) -> list[str]:
    """Where each generated secret is kept; in a dry run, which writes nothing, those that are not there yet nowhere."""
    paths = [Path(folder) / name for name in names]
    return ["/dev/null" if dry and not path.exists() else str(path) for path in paths]
