"""An inventory that can work, for the tests to spoil."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.fleet import plan, preflight
from harness import APP, ROOT
from tests.deploy.rehearsal import FACTS

LIMITS = {"database": 200, "broker": 4000, "reserve": 15}
ALONE = {name: [f"{name}1"] for name in ("edge", "web", "db", "broker")}
GROUPS = {**ALONE, "workers": ["cpu1", "io1"], "beat": ["web1"]}
LANES = {"cpu1": ["cpu", "quick"], "io1": ["io", "quick"]}


@cache
def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def profile() -> dict[str, Any]:
    """The app profile, with the lanes that its template would look up."""
    raw: dict[str, Any] = copy.deepcopy(_read(ROOT / "deploy/apps/headrace.yml")["app_profile"])
    raw["celery"]["lanes"] = copy.deepcopy(_read(APP / "config/lanes.yml")["lanes"])
    return raw


class Fleet:
    """A good inventory of six hosts; tests break one thing of it."""

    def __init__(self) -> None:
        self.groups = copy.deepcopy(GROUPS)
        self.limits: dict[str, Any] = dict(LIMITS)
        names = sorted({host for hosts in GROUPS.values() for host in hosts})
        self.groups["all"] = [*names, "stranger"]
        self.hosts: dict[str, dict[str, Any]] = {
            name: {"ansible_host": f"192.0.2.{number}", "ansible_facts": copy.deepcopy(FACTS)}
            for number, name in enumerate(names, 1)
        }
        for name, lanes in LANES.items():
            self.hosts[name]["headrace_lanes"] = list(lanes)
        self.profile = profile()
        self.profile["beat"]["redundant"] = False

    def facts(self, host: str) -> dict[str, Any]:
        return self.hosts[host]["ansible_facts"]

    def preflight(self) -> list[str]:
        return preflight.preflight(self.hosts, self.groups, self.profile, self.limits)

    def plan(self, host: str) -> dict[str, Any]:
        return plan.host_plan(host, self.hosts, self.groups, self.profile)
