"""A role can be tried alone: one bare host gets it, by the command that its README gives, and nothing else.

`make test ARGS='tests/roles -k redis'` takes less than two minutes. The host is a container of the local cluster's
image. Its label is not the cluster's, so that each may come and go while the other runs.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra

from deploy.cluster import HOST_ARGS, KEY
from harness import BIN
from harness.waiting import wait_until
from tests.clusters import changed, missing, sh
from tests.deploy.rehearsal import ROLES as GROUPS
from tests.deploy.rehearsal import SECRETS

RELEASE = "trixie"
NAME = "bare"  # in the inventory
GROUP_OF = {"app": "edge", "base": "edge", "nginx": "edge", "postgresql": "db", "redis": "broker"}
SITE = "edge.test"


class Bare:
    """One host, and the role that it gets.

    Attributes:
        machine: the host as testinfra sees it, as root.
        ip: its address.
        certificates: the folder of the certificate that the role nginx makes.
    """

    def __init__(self, role: str, folder: Path) -> None:
        self.role, self.container = role, f"headrace-role-{role}"
        self.inventory, self.certificates = folder / "hosts.json", folder / "secrets"
        self.machine: Any = testinfra.get_host(f"docker://{self.container}")
        self.ip = ""

    def start(self) -> None:
        """Bring it up as a provider hands machines out, and write its inventory."""
        sh("deploy/images/machine/build", RELEASE)
        self.remove()  # of a run that was killed
        options = ["--detach", f"--name={self.container}", "--label=headrace.role", f"--hostname={NAME}", *HOST_ARGS]
        sh("docker", "run", *options, f"headrace-machine:{RELEASE}")
        wait_until(lambda: self.machine.run("systemctl is-system-running").stdout == "running\n", 60, "systemd is up")
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        self.ip = sh("docker", "inspect", f"--format={form}", self.container).stdout.strip()
        self.inventory.write_text(json.dumps({"all": self._inventory()}))

    def _inventory(self) -> dict[str, Any]:
        """The host, in the group of its role; another, which no run asks, is everything else, at the same address."""
        variables = {
            "base_admins": [{"name": "ada", "keys": [KEY.with_suffix(".pub").read_text()]}],
            "fleet_secrets_folder": str(self.certificates),
            "headrace_address": self.ip,
            "headrace_hostnames": [SITE],
            "headrace_secrets": SECRETS,
        }
        bare = {"ansible_connection": "community.docker.docker", "ansible_host": self.container}
        other = {"headrace_lanes": ["cpu", "io", "quick"]}
        where = {group: NAME if group == GROUP_OF[self.role] else "other" for group in GROUPS}
        return {
            "hosts": {NAME: bare, "other": other},
            "vars": variables,
            "children": {group: {"hosts": {name: {}}} for group, name in where.items()},
        }

    def apply(self, **variables: Any) -> int:
        """Apply the role, with other inputs perhaps; how many tasks have changed something."""
        command = ("playbooks/site.yml", "--tags", self.role, "--limit", NAME, "-e", json.dumps(variables))
        try:
            done = sh(BIN / "ansible-playbook", "-i", self.inventory, *command, ANSIBLE_PIPELINING="1")
        except AssertionError as error:
            units = f"-u '{self.role}*' -u nftables -u ssh"
            error.add_note(self.machine.run(f"journalctl --no-pager -n 20 -o cat {units}").stdout)
            raise
        return changed(done.stdout)[NAME]

    def remove(self) -> None:
        """Leave nothing of it."""
        sh("docker", "rm", "--force", "--volumes", self.container)


@pytest.fixture(scope="module")
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    """A bare host for the role that the test file is named after."""
    if why := missing():
        pytest.skip(why)
    role = request.path.stem.removeprefix("test_")
    host = Bare(role, tmp_path_factory.mktemp(role))
    host.start()
    yield host
    host.remove()


@pytest.fixture(scope="module")
def surroundings(bare: Bare) -> None:
    """What must be there before the role is applied; a test file may replace it."""
    bare.machine.check_output("apt-get update")  # which base would have done: the image has no lists of packages


@pytest.fixture(scope="module")
def host(bare: Bare, surroundings: None) -> Bare:
    """The host with its role."""
    assert bare.apply() > 0
    return bare
