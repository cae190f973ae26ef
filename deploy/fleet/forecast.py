"""What a run would do to what runs already, so that nobody learns of a restart when it has happened.

It compares the plan with what deploy/state.py found on the hosts. Another setting or secret restarts processes as well:
`site.yml --check` names the files that would change.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deploy.fleet.plan import Groups, Hostvars, Json, fleet_hosts, given_mb
from deploy.fleet.schema import Known
from deploy.fleet.units import worker_units


def forecast(
    plans: Iterable[Json], hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any], release: str
) -> str:
    """A line for each host of which something would be started, restarted or stopped, and why; who is left alone."""
    lines = []
    for plan in plans:
        known = Known(hostvars[plan["host"]])
        changes = _changes(plan, given_mb(plan, known), known["ansible_facts"].get("deployed") or {}, profile, release)
        lines += [f"{plan['host']}: {line}" for line in changes]
    lines = lines or ["Nothing that runs would be restarted for its release, its size or its place."]
    ours = fleet_hosts(groups)
    lines += [f"{host}: left alone, it is in none of our groups" for host in groups.get("all", []) if host not in ours]
    return "\n".join(lines)


def _changes(
    plan: Json, given: Mapping[str, int], deployed: Mapping[str, Any], profile: Mapping[str, Any], release: str
) -> Iterator[str]:
    running, wanted = deployed.get("units", {}), wanted_units(plan, given, profile)
    reasons: dict[str, list[str]] = {}
    for name, unit in wanted.items():
        if name not in running:
            reason = "started"
        elif deployed.get("release") != release:
            reason = f"restarted, {release} takes the place of {deployed.get('release') or 'no release'}"
        elif unit["options"] != running[name]["options"] or unit["memory_mb"] != running[name]["memory_mb"]:
            reason = f"restarted, its plan changes (memory {running[name]['memory_mb']} -> {unit['memory_mb']} MB)"
        elif running[name]["stale"]:
            reason = "restarted, it is older than its release or its settings"
        else:
            continue
        reasons.setdefault(reason, []).append(name)
    for name in sorted(set(running) - set(wanted)):
        is_worker = name.startswith(f"{profile['name']}-worker@")
        what = (
            "ends its jobs and is removed"
            if is_worker
            else "stays, though no group asks for it any more: stop it yourself"
        )
        reasons.setdefault(what, []).append(name)
    for reason, names in reasons.items():
        ends_s = 0 if reason == "started" else max(_ends_s(name, wanted, profile) for name in names)
        yield f"{', '.join(names)}: {reason}" + (f"; jobs may take up to {ends_s} s to end" if ends_s else "")
    yield from _servers(given, deployed)


def _ends_s(name: str, wanted: Mapping[str, Json], profile: Mapping[str, Any]) -> int:
    """How long a worker's jobs may keep it; 0: it is no worker."""
    lane = name.partition("-worker@")[2].rpartition("-")[0]
    spec = profile["celery"]["lanes"].get(lane)
    return int(wanted.get(name, {}).get("ends_s") or (spec["time_limit"] + 30 if spec else 0))


def _servers(given: Mapping[str, int], deployed: Mapping[str, Any]) -> Iterator[str]:
    for group, key, name in (("db", "database_mb", "PostgreSQL"), ("broker", "broker_mb", "Redis")):
        had, gets = deployed.get(key, 0), given.get(group, 0)
        if had and gets and had != gets:
            yield f"{name}: restarted, its memory goes from {had} to {gets} MB"


def wanted_units(plan: Json, given: Mapping[str, int], profile: Mapping[str, Any]) -> dict[str, Json]:
    """The units that a plan asks for, and what is compared of each."""
    name, shares = profile["name"], plan["shares_mb"]
    found = {
        f"{name}-worker@{unit['name']}": {
            "options": " ".join(unit["options"]),
            "memory_mb": unit["memory_max_mb"],
            "ends_s": unit["stop_timeout_s"],
        }
        for unit in worker_units(plan, profile)
    }
    if "web" in plan:
        units = ["web", *(["push"] if profile["django"]["asgi"] else []), *(one["name"] for one in profile["services"])]
        found |= {f"{name}-{unit}": {"options": "", "memory_mb": given["web"]} for unit in units}
    if "beat" in shares and profile["beat"]["enabled"]:
        found[f"{name}-beat"] = {"options": "", "memory_mb": shares["beat"]}
    return found
