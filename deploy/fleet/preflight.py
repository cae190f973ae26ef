"""What cannot work in an inventory, each as one sentence that names the host, the value and what to change."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deploy.fleet.plan import HEAVY, LIGHT_MB, Groups, Hostvars, Json, address_of, host_plan
from deploy.sizing import SizingError

SUPPORTED = {"Debian": ("13", "12")}
LEAST_DISK_MB = 2048


def connections(plans: Iterable[Mapping[str, Any]], reserve: int) -> dict[str, int]:
    """Connections to the database and to the broker that the whole plan can hold open at the same time.

    A thread of gunicorn's and a slot of a worker hold one of each, a push process two (its reader and its poll), a
    sweeper and beat one. A worker unit holds up to two more to the database and four more to the broker: its lease
    thread, its consumer and its remote control.
    """
    need = {"database": int(reserve), "broker": int(reserve)}
    for plan in plans:
        web = plan.get("web")
        if web:
            threads = web["workers"] * web["threads"] + 2 * web["push_workers"] + 1
            need = {name: count + threads for name, count in need.items()}
        for lane in plan.get("lanes", []):
            need["database"] += lane["instances"] * (lane["concurrency"] + 2)
            need["broker"] += lane["instances"] * (lane["concurrency"] + 4)
        if "beat" in plan["groups"]:
            need = {name: count + 1 for name, count in need.items()}
    return need


def preflight(hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any], limits: Mapping[str, int]) -> list[str]:
    """One sentence for each thing that cannot work; an empty list: nothing keeps the playbook from going on.

    Hosts that this run has not asked (`--limit`) are judged by the inventory alone.
    """
    hosts = sorted({host for name in (*HEAVY, *LIGHT_MB) for host in groups.get(name, [])})
    asked = [host for host in hosts if "capacity" in (hostvars[host].get("ansible_facts") or {})]
    found = [*_inventory(hosts, hostvars, groups, profile), *(s for host in asked for s in _host(host, hostvars))]
    plans = []
    for host in asked:
        try:
            plans.append(host_plan(host, hostvars, groups, profile))
        except SizingError as error:
            found.append(str(error))
    return [*found, *_time_limits(plans, profile), *(_budget(plans, limits) if asked == hosts else [])]


def _inventory(hosts: list[str], hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any]) -> Iterator[str]:
    for name in ("edge", "web", "db", "broker", "workers", "beat"):
        members = groups.get(name, [])
        if not members and (name != "beat" or profile["beat"]["enabled"]):
            yield f"The inventory has no host in the group {name}: put one there (a host may be in several groups)."
        if name in {"db", "broker"} and len(members) > 1:
            yield f"The group {name} has {len(members)} hosts ({', '.join(members)}), but there can be one: keep one."
        if name == "beat" and len(members) > 1 and not profile["beat"].get("redundant"):
            yield (
                f"The group beat has {len(members)} hosts ({', '.join(members)}), and each would send all that this "
                "application schedules: keep one, or set redundant in its profile's beat if they agree on one sender."
            )
    served = {lane for host in groups.get("workers", []) for lane in hostvars[host].get("headrace_lanes") or []}
    for lane, spec in profile["celery"]["lanes"].items():
        if lane not in served and served:
            queues = ", ".join(spec["queues"])
            yield f"No host serves the queue {queues}: add the lane {lane} to headrace_lanes of a host in workers."
    for host in hosts:
        address = address_of(host, hostvars)
        try:
            ipaddress.ip_address(address)
        except ValueError:
            yield f"{host} has the address {address!r}, which is no IP address: set headrace_address to the one it has."
        if host in groups.get("workers", []) and not hostvars[host].get("headrace_lanes"):
            yield f"{host} is in workers but serves no lane: set its headrace_lanes, as in [cpu, quick]."


def unsupported_system(facts: Mapping[str, Any], host: str) -> list[str]:
    """One sentence if the host's system, as Ansible's facts have it, is not supported; else none."""
    name, version = facts.get("distribution", "?"), str(facts.get("distribution_major_version", "?"))
    if version in SUPPORTED.get(name, ()):
        return []
    known = " or ".join(f"{name} {version}" for name, versions in SUPPORTED.items() for version in versions)
    return [f"{host} runs {name} {version}, which is not supported: install {known} on it."]


def _host(host: str, hostvars: Hostvars) -> Iterator[str]:
    facts = hostvars[host]["ansible_facts"]
    yield from unsupported_system(facts, host)
    for mount in facts.get("mounts", []):
        free = int(mount.get("size_available", 0)) // 2**20
        if mount.get("mount") == "/" and free < LEAST_DISK_MB:
            yield f"{host} has {free} MB free on /, and a release with its packages needs {LEAST_DISK_MB}: free some."


def _time_limits(plans: Iterable[Mapping[str, Any]], profile: Mapping[str, Any]) -> Iterator[str]:
    for plan in plans:
        for lane in plan.get("lanes", []):
            if lane["stop_timeout_s"] <= lane["time_limit"]:
                yield (
                    f"{plan['host']} stops the lane {lane['lane']} after {lane['stop_timeout_s']} s, but its jobs may "
                    f"run {lane['time_limit']} s: raise stop_timeout_s in its headrace_overrides, or remove it."
                )
    for name, lane in profile["celery"]["lanes"].items():
        visible = lane.get("visibility_timeout")
        if visible is not None and visible <= lane["time_limit"]:
            yield (
                f"The lane {name} has visibility_timeout={visible}, but its jobs may run {lane['time_limit']} s and "
                f"would be delivered twice: set it above {2 * lane['time_limit']}."
            )


def _budget(plans: list[Json], limits: Mapping[str, int]) -> Iterator[str]:
    need = connections(plans, limits["reserve"])
    for name, variable in (("database", "fleet_database_connections"), ("broker", "fleet_broker_connections")):
        if need[name] > int(limits[name]):  # a string, if it was said with -e
            yield (
                f"The plan needs {need[name]} connections to the {name}, which allows {limits[name]}: raise {variable} "
                "(a connection to PostgreSQL takes about 10 MB), or plan fewer slots."
            )


def missing_secrets(secrets: Mapping[str, Any], wanted: Iterable[str]) -> list[str]:
    """One sentence for each secret that is missing or too short."""
    return [
        f"The secret {name} is {'missing' if name not in secrets else 'shorter than 16 characters'}: put one into "
        f"headrace_secrets with ansible-vault (docs/deploy.md says how)."
        for name in wanted
        if len(str(secrets.get(name, ""))) < 16
    ]
