"""The hosts of an inventory, as the drills handle them: as root over ssh, and by their power switch."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.subnet import subnet
from harness import BIN, ROOT, HarnessError
from harness.waiting import wait_until

# Of ssh's shared connections. Not in the checkout: its path may be too long for a Unix socket, which has 107 bytes
SOCKETS = tempfile.TemporaryDirectory(prefix="headrace-ssh-")
BOOT_S = 180
FACTS = {
    "address": "ansible_host | default(inventory_hostname)",
    "user": "ansible_user | default('root')",
    "port": "ansible_port | default(22)",
    "key": "ansible_ssh_private_key_file | default('')",
    "arguments": "ansible_ssh_common_args | default('')",
    "inside": "headrace_address | default(ansible_host) | default(inventory_hostname)",
    "groups": "group_names",
    "lanes": "headrace_lanes | default([])",
}


class DrillError(HarnessError):
    """A drill cannot be held; the message says why, and how to mend it."""


@dataclass
class Host:
    """One host; `inside` is its address among the others."""

    name: str
    address: str
    user: str
    port: int
    key: str
    arguments: str
    inside: str
    groups: list[str]
    lanes: list[str]
    container: bool = field(init=False)

    def __post_init__(self) -> None:
        label = ("docker", "inspect", '--format={{index .Config.Labels "headrace.cluster"}}', f"headrace-{self.name}")
        try:
            done = subprocess.run(label, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            self.container = False
        else:
            self.container = done.returncode == 0 and self.address in map(str, subnet())

    def _ssh(self) -> list[str]:
        options = ["BatchMode=yes", "ConnectTimeout=5", "ServerAliveInterval=5", "ServerAliveCountMax=2"]
        options += ["LogLevel=ERROR", "ControlMaster=auto", "ControlPersist=120", f"ControlPath={SOCKETS.name}/%C"]
        key = ["-i", self.key] if self.key else []
        chosen = [part for option in options for part in ("-o", option)]
        return ["ssh", *chosen, *self.arguments.split(), *key, "-p", str(self.port), f"{self.user}@{self.address}"]

    def attempt(self, script: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell script there as root. It goes through stdin: nothing of it is in an argument list."""
        shell = "sh -s" if self.user == "root" else "sudo -n sh -s"
        command = [*self._ssh(), shell]
        return subprocess.run(command, input=script, capture_output=True, text=True, timeout=seconds, check=False)

    def sh(self, script: str, seconds: float = 60) -> str:
        """The output of a script that must succeed.

        Raises:
            DrillError: it did not.
        """
        done = self.attempt("set -e\n" + script, seconds)
        if done.returncode != 0:
            raise DrillError(
                f"{self.name}: {script.splitlines()[0][:80]}: {(done.stderr or done.stdout).strip()[-400:]}"
            )
        return done.stdout.strip()

    def undo_later(self, seconds: float, script: str) -> None:
        """Should we die in the middle, the host mends itself."""
        self.forget_undo()
        timer = f"systemd-run --quiet --collect --unit=headrace-drill-undo --on-active={seconds:.0f}"
        self.sh(f"{timer} sh -c '{script}'")

    def forget_undo(self) -> None:
        self.attempt("systemctl stop headrace-drill-undo.timer; systemctl reset-failed headrace-drill-undo.service")

    # power

    def cut_power(self) -> None:
        """At once: nothing is written, no connection closed. A container stays off; another machine boots again."""
        if self.container:
            subprocess.run(["docker", "kill", f"headrace-{self.name}"], capture_output=True, check=True)
        else:
            self.attempt("systemctl reboot --force --force", seconds=20)

    def restore_power(self) -> None:
        """It runs again, and answers over ssh."""
        if self.container:
            subprocess.run(["docker", "start", f"headrace-{self.name}"], capture_output=True, check=True)
        for socket in Path(SOCKETS.name).iterdir():
            socket.unlink(missing_ok=True)  # connections from before its death lead nowhere
        wait_until(lambda: self.attempt("true", 30).returncode == 0, BOOT_S, f"{self.name} is back")

    # units

    def units(self, pattern: str = "headrace-*", state: str = "active") -> set[str]:
        """The services of ours there in a state."""
        listed = self.attempt(f"systemctl list-units --no-legend --plain --type=service --state={state} '{pattern}'")
        return {line.split()[0] for line in listed.stdout.splitlines() if line and "drill" not in line}

    def signal(self, unit: str, name: str) -> None:
        """A signal to every process of a unit."""
        self.sh(f"systemctl kill --kill-whom=all --signal={name} '{unit}'")

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.sh(f"systemctl show --property={name} --value '{unit}'")


def read(inventory: str) -> dict[str, Host]:
    """The hosts of an inventory by name, with their variables as Ansible sees them.

    Raises:
        DrillError: Ansible cannot read it.
    """
    asked = ", ".join(f"'{name}': {value}" for name, value in FACTS.items())
    module = ("-m", "ansible.builtin.debug", "-a", f"msg={{{{ {{{asked}}} }}}}")
    command = [str(BIN / "ansible"), "all", "-i", inventory, *module]
    env = os.environ | {"ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    env["LC_ALL"] = "C.UTF-8"  # Ansible refuses a locale that is not UTF-8
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    try:
        found: Mapping[str, Any] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]
        return {name: Host(name=name, **said["msg"]) for name, said in found.items()}
    except (ValueError, LookupError, TypeError) as error:
        raise DrillError(f"The inventory {inventory} cannot be read: {(done.stderr or done.stdout)[-400:]}") from error


def secrets_of(inventory: str) -> Path:
    """Where a generated inventory's secrets are."""
    return ROOT / "var/secrets" / Path(inventory).name
