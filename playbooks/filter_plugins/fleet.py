"""The playbooks' filters: a door to the package deploy, where they are written, explained and tested.

The checkout is installed (editable) in its .venv; a system's own ansible-playbook cannot import it, and says so.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ansible.errors import AnsibleFilterError

HOMES = {
    "database_limit_mb": "deploy.fleet.plan",
    "draw_plan": "deploy.fleet.drawing",
    "fleet_addresses": "deploy.fleet.plan",
    "fleet_hosts": "deploy.fleet.plan",
    "fleet_open_ports": "deploy.fleet.firewall",
    "forecast": "deploy.fleet.forecast",
    "host_plan": "deploy.fleet.plan",
    "in_url": "deploy.fleet.plan",
    "machine_address": "deploy.subnet",
    "missing_secrets": "deploy.fleet.preflight",
    "preflight": "deploy.fleet.preflight",
    "profile_file": "deploy.fleet.release",
    "release_build": "deploy.fleet.release",
    "release_builder": "deploy.fleet.release",
    "release_name": "deploy.fleet.release",
    "release_troubles": "deploy.fleet.release",
    "secret_files": "deploy.fleet.release",
    "systemd_quoted": "deploy.fleet.units",
    "worker_units": "deploy.fleet.units",
}
ELSEWHERE = (
    "Use .venv/bin/ansible-playbook, which `make .venv/.deploy` makes: this one cannot import Headrace ({error})."
)


def door(name: str) -> Callable[..., Any]:
    """The filter of that name; what it refuses (a ValueError), it refuses in one sentence."""

    def call(*arguments: Any) -> Any:
        try:
            function = getattr(import_module(HOMES[name]), name)
        except ImportError as error:
            raise AnsibleFilterError(ELSEWHERE.format(error=error)) from None
        try:
            return function(*arguments)
        except ValueError as error:
            raise AnsibleFilterError(str(error)) from None

    return call


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {name: door(name) for name in HOMES}
