"""What cannot work in an inventory, each as one sentence that names the host, the value and what to change."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.fleet.plan import (
    DATABASE,
    Groups,
    Hostvars,
    Json,
    address_of,
    fleet_hosts,
    given_mb,
    groups_of,
    host_plan,
    mount_of,
)
from deploy.fleet.schema import Known, Wrong, wrong_profile, wrong_variables
from deploy.sizing import SizingError

SUPPORTED = {"Debian": ("13", "12")}
POSTGRESQL = {"12": "15", "13": "17"}
"""The major version that each release of Debian brings."""
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


def preflight(hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing that cannot work; an empty list: nothing keeps the playbook from going on.

    Hosts that this run has not asked (`--limit`) are judged by the inventory alone.
    """
    if wrong := wrong_profile(profile):
        return wrong  # nothing else can be judged without it
    hosts = fleet_hosts(groups)
    known = {host: Known(hostvars[host]) for host in hosts}
    mistaken = {host: wrong_variables(known[host]) for host in hosts}
    found = [*_kinds(mistaken), *_groups(groups, profile)]
    sound = [host for host in hosts if not mistaken[host]]
    if sound == hosts:
        found += _unserved(known, groups, profile)
    asked = [host for host in hosts if "capacity" in (known[host].get("ansible_facts") or {})]
    plans = []
    for host in sound:
        found += _inventory(host, known, groups)
        if host in asked:
            found += _host(host, known, groups, profile)
            try:
                plans.append(host_plan(host, known, groups, profile))
            except SizingError as error:
                found.append(str(error))
    found += _time_limits(plans, profile)
    for plan in plans:
        found += _shares(plan, known[plan["host"]], profile)
    return found + (list(_budget(plans, limits)) if asked == sound == hosts else [])


def _kinds(mistaken: Mapping[str, Wrong]) -> Iterator[str]:
    """What is of another kind than it must be; what is said to many hosts is told once."""
    where: dict[tuple[str, str], list[str]] = {}
    for host, wrong in mistaken.items():
        for name, what in wrong.items():
            where.setdefault((name, what), []).append(host)
    for (name, what), hosts in where.items():
        some = "every host" if len(hosts) == len(mistaken) else ", ".join(hosts)
        yield f"On {some}, {name} {what}."


def _groups(groups: Groups, profile: Mapping[str, Any]) -> Iterator[str]:
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


def _unserved(hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any]) -> Iterator[str]:
    served = {lane for host in groups.get("workers", []) for lane in hostvars[host].get("headrace_lanes") or []}
    for lane, spec in profile["celery"]["lanes"].items():
        if lane not in served and served:
            queues = ", ".join(spec["queues"])
            yield f"No host serves the queue {queues}: add the lane {lane} to headrace_lanes of a host in workers."


def _inventory(host: str, hostvars: Hostvars, groups: Groups) -> Iterator[str]:
    facts, address = hostvars[host], address_of(host, hostvars)
    try:
        ipaddress.ip_address(address)
    except ValueError:
        yield f"{host} has the address {address!r}, which is no IP address: set headrace_address to the one it has."
    if host in groups.get("workers", []) and not facts.get("headrace_lanes"):
        yield f"{host} is in workers but serves no lane: set its headrace_lanes, as in [cpu, quick]."
    units = facts.get("celery_worker_units") or []
    if {unit.get("lane") for unit in units} != set(facts.get("headrace_lanes") or []) and units:
        yield f"{host} has celery_worker_units of other lanes: set headrace_lanes, and leave celery_worker_units alone."
    for path in facts.get("base_extra_ca_certificates") or []:
        if not (path.endswith(".crt") and Path(path).is_file()):
            yield f"The controller has no {path} (a file ending in .crt): mend base_extra_ca_certificates of {host}."
    if facts.get("base_ssh_root") in {False, "no"} and facts.get("ansible_user") == "root":
        yield (
            f"{host} is reached as root, and base_ssh_root: no would lock you out: set ansible_user to one of "
            "base_admins, or base_ssh_root to prohibit-password."
        )


def unsupported_system(facts: Mapping[str, Any], host: str) -> list[str]:
    """One sentence if the host's system, as Ansible's facts have it, is not supported; else none."""
    name, version = facts.get("distribution", "?"), str(facts.get("distribution_major_version", "?"))
    if version in SUPPORTED.get(name, ()):
        return []
    known = " or ".join(f"{name} {version}" for name, versions in SUPPORTED.items() for version in versions)
    return [f"{host} runs {name} {version}, which is not supported: install {known} on it."]


def _host(host: str, hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any]) -> Iterator[str]:
    """What its facts say."""
    facts, mine = hostvars[host]["ansible_facts"], groups_of(host, groups)
    yield from unsupported_system(facts, host)
    yield from _elsewhere(host, hostvars)
    yield from _full(host, facts, mine, profile)
    yield from _locked_out(host, hostvars[host])
    if "edge" in mine and (absent := facts.get("absent")):
        yield (
            f"{host} has no {' and no '.join(absent)}: put the certificate and its key there (docs/deploy.md says how, "
            "with certbot), or remove nginx_tls_certificate."
        )
    for version, start in facts.get("deployed", {}).get("clusters", {}).items():
        wanted = POSTGRESQL.get(str(facts.get("distribution_major_version")), version)
        if "db" in mine and start == "auto" and int(version) < int(wanted):
            yield (
                f"{host} has its database in PostgreSQL {version}, and its Debian brings {wanted}: run there, after a "
                f"dump, apt-get install postgresql-{wanted} && pg_dropcluster --stop {wanted} main && "
                f"pg_upgradecluster {version} main."
            )


def _elsewhere(host: str, hostvars: Hostvars) -> Iterator[str]:
    """An address that is not the host's: its servers could not listen there, and firewalls would let in another."""
    facts, address = hostvars[host]["ansible_facts"], address_of(host, hostvars)
    has = [*facts.get("all_ipv4_addresses", []), *facts.get("all_ipv6_addresses", [])]
    with suppress(ValueError):
        if has and ipaddress.ip_address(address) not in map(ipaddress.ip_address, has):
            yield (
                f"{host} has the address {address}, which is on none of its interfaces ({', '.join(has)}): set "
                "headrace_address to the one of these by which the other hosts reach it."
            )


def _full(host: str, facts: Mapping[str, Any], mine: list[str], profile: Mapping[str, Any]) -> Iterator[str]:
    """Of the file systems that are written to, those that have too little room."""
    needs = {"/var": (512, "packages and logs need")}
    if {"edge", "web", "workers", "beat"} & set(mine):
        needs[profile["root"]] = LEAST_DISK_MB, "a release with its packages needs"
    if "db" in mine:
        needs[DATABASE] = 1024, "a database needs"
    if "broker" in mine:
        needs["/var/lib/redis"] = 512, "the broker's file needs"
    lacking: dict[str, str] = {}
    for path, (need, what) in sorted(needs.items(), key=lambda entry: entry[1]):
        if mount := mount_of(path, facts.get("mounts", [])):
            free = int(mount.get("size_available", need * 2**20)) // 2**20
            if free < need:
                lacking[mount["mount"]] = f"{free} MB free on {mount['mount']}, and {what} {need}: free some."
    yield from (f"{host} has {sentence}" for sentence in lacking.values())


def _locked_out(host: str, known: Mapping[str, Any]) -> Iterator[str]:
    """The controller would not come in again."""
    before = known["ansible_facts"].get("deployed", {}).get("admins", [])
    admins = [one["name"] for one in known.get("base_admins") or []]
    if (user := known.get("ansible_user")) in before and user not in admins:
        yield f"{host} is reached as {user}, who is no longer in base_admins: add {user}, or set another ansible_user."
    networks = [ipaddress.ip_network(one, strict=False) for one in known.get("base_ssh_networks") or []]
    with suppress(ValueError, KeyError):
        came_from = ipaddress.ip_address(known["ansible_facts"]["capacity"]["came_from"])
        if networks and not any(came_from in network for network in networks):
            yield (
                f"{host} is reached from {came_from}, which base_ssh_networks does not let in: add it, or no playbook "
                "reaches the host any more."
            )


def _shares(plan: Json, known: Mapping[str, Any], profile: Mapping[str, Any]) -> Iterator[str]:
    """Groups whose share of a host is too small for what they run."""
    host, given, web = plan["host"], given_mb(plan, known), profile["web"]["memory_mb"]
    least = {"db": (128, "PostgreSQL"), "broker": (64, "Redis's data"), "web": (2 * web, "the web tier")}
    for group, mb in given.items():
        enough, what = least[group]
        if mb < enough:
            yield (
                f"{host} has {mb} MB for {what}, and it should be {enough} at least: give the host more memory, or "
                "move one of its groups elsewhere."
            )
    asked = plan["web"]["workers"] + plan["web"]["push_workers"] if known.get("headrace_web") and "web" in plan else 0
    if asked * web > given.get("web", 0):
        yield (
            f"{host} has {given['web']} MB for the web tier, and the {asked} processes of its headrace_web take "
            f"{asked * web}: ask for fewer, or give the host more memory."
        )
    deployed = known["ansible_facts"].get("deployed") or {}
    holds = deployed.get("broker_holds_mb", 0)
    if given.get("broker", holds) < min(holds, deployed.get("broker_mb", 0)):
        yield (
            f"{host} has {holds} MB in Redis now, and the plan leaves its data {given['broker']}, so that it would "
            "refuse all that is sent: give the host more memory, or move one of its groups elsewhere."
        )


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
    if not isinstance(secrets, Mapping):
        return []  # of which schema.py has a sentence
    return [
        f"The secret {name} is {'missing' if name not in secrets else 'shorter than 16 characters'}: put one into "
        f"headrace_secrets with ansible-vault (docs/deploy.md says how)."
        for name in wanted
        if len(str(secrets.get(name, ""))) < 16
    ]
