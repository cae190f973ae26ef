"""What a host gets, of those in an inventory: addresses, memory for each group, gunicorn's processes, lanes.

How many workers a host runs is deploy/sizing.py's decision; this file says how much memory they may take, when the host
is in other groups as well.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploy.sizing import LanePlan, SizingError, TooSmallError, least_memory_mb, size_lanes, system_mb

HEAVY = {"db": 4, "broker": 2, "web": 2, "workers": 6}
"""Weights of the groups that split the memory which the system and the groups below leave."""
LIGHT_MB = {"edge": 128, "beat": 192}
"""MiB of the groups that get the same on every host."""
OURS = (*HEAVY, *LIGHT_MB, "loadgen")
"""The groups that the playbooks know. Hosts of an inventory that are in none of them are left alone."""

DATABASE = "/var/lib/postgresql"
"""Where the database is on its host."""

Hostvars = Mapping[str, Mapping[str, Any]]
Groups = Mapping[str, list[str]]
Json = dict[str, Any]


def address_of(host: str, hostvars: Hostvars) -> str:
    """Where the other hosts reach a host."""
    facts = hostvars[host]
    return str(facts.get("headrace_address") or facts.get("ansible_host") or host)


def fleet_addresses(hosts: Iterable[str], hostvars: Hostvars) -> list[str]:
    """The addresses of hosts, in order, without repetitions."""
    return list(dict.fromkeys(address_of(host, hostvars) for host in hosts))


def fleet_hosts(groups: Groups) -> list[str]:
    """The hosts of our groups, in the inventory's order."""
    ours = dict.fromkeys(host for name in OURS for host in groups.get(name, []))
    return list(dict.fromkeys([*(host for host in groups.get("all", []) if host in ours), *ours]))


def in_url(address: str) -> str:
    """An address as URLs, binds and Host headers have it: one of IPv6 in brackets."""
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def groups_of(host: str, groups: Groups) -> list[str]:
    """The groups of a host, of those whose members get memory."""
    return [name for name in (*HEAVY, *LIGHT_MB) if host in groups.get(name, [])]


def divide_memory(own_groups: Iterable[str], memory_mb: int) -> dict[str, int]:
    """How a host's memory is divided: MiB for each group that it is in, and for the system.

    First the system, then the light groups; the heavy ones split the rest by weight. Where memory runs out, those that
    come later get less, or nothing.
    """
    mine = list(own_groups)
    wanted = {"system": system_mb(memory_mb), **{name: LIGHT_MB[name] for name in mine if name in LIGHT_MB}}
    shares: dict[str, int] = {}
    for name, size in wanted.items():
        shares[name] = min(size, memory_mb - sum(shares.values()))
    rest = memory_mb - sum(shares.values())
    heavy = {name: HEAVY[name] for name in mine if name in HEAVY}
    return shares | {name: rest * weight // sum(heavy.values()) for name, weight in heavy.items()}


def given_mb(plan: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, int]:
    """MiB that the servers of a planned host may use: shares of the plan, or what the inventory sets instead."""
    shares = plan["shares_mb"]
    wanted = {
        "db": ("postgresql_memory_mb", 1.0),
        "broker": ("redis_maxmemory_mb", 0.6),  # of data; playbooks/roles/redis says why
        "web": ("web_memory_max_mb", 1.0),
    }
    return {
        group: int(known.get(name, int(shares[group] * part)))
        for group, (name, part) in wanted.items()
        if group in shares
    }


def capacity_of(host: str, hostvars: Hostvars) -> tuple[int, int]:
    """Cores and MiB: what was measured there, unless the inventory says less."""
    facts = hostvars[host]
    found = facts["ansible_facts"]["capacity"]
    cores = min(int(found["cores"]), int(facts.get("headrace_cores", found["cores"])))
    return cores, min(int(found["memory_mb"]), int(facts.get("headrace_memory_mb", found["memory_mb"])))


def mount_of(path: str, mounts: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of Ansible's mounts, the file system that a path is on; None: it is not known, as in a container."""
    holding = [one for one in mounts if Path(path).is_relative_to(one.get("mount", "?"))]
    return max(holding, key=lambda one: len(one["mount"]), default=None)


def database_limit_mb(mounts: Iterable[Mapping[str, Any]]) -> int:
    """MiB that the database may take of its file system, whatever is there now; 0: that is not known.

    The rest is for the write-ahead log, the system, logs, and what open jobs still store: a quarter, and at least
    6 GiB, or three quarters of a small one.
    """
    mount = mount_of(DATABASE, mounts) or {}
    total = int(mount.get("size_total", 0)) // 2**20
    return total - min(total * 3 // 4, max(total // 4, 6144))


def _web(cores: int, memory_mb: int, web: Mapping[str, Any], overrides: Mapping[str, Any]) -> Json:
    """gunicorn's processes: one a core and half as many for push, or as many as fit beside one for the sweeper."""
    most = memory_mb // int(web["memory_mb"]) - 1
    push = max(1, min(cores // 2, most // 3))
    plan = {"workers": max(1, min(cores, most - push)), "threads": int(web["threads"]), "push_workers": push}
    return {key: int(overrides.get(key, value)) for key, value in plan.items()}


def _lanes(host: str, hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any]) -> list[LanePlan]:
    table, facts = profile["celery"]["lanes"], hostvars[host]
    wanted = facts.get("headrace_lanes") or []
    if unknown := [name for name in wanted if name not in table]:
        has = ", ".join(table)
        raise SizingError(f"{host} serves the lane {unknown[0]}, which is none of {has}: mend its headrace_lanes.")
    if not wanted:
        return []  # preflight has a sentence on that
    cores, memory_mb = capacity_of(host, hostvars)

    def budget(memory_mb: int) -> int:
        return divide_memory(groups_of(host, groups), memory_mb)["workers"]

    lanes, overrides = {name: table[name] for name in wanted}, facts.get("headrace_overrides") or {}
    try:
        return size_lanes(lanes, cores, budget(memory_mb), overrides=overrides, host=host)
    except TooSmallError as error:
        raise SizingError(
            f"{host} has {memory_mb} MB, of which {budget(memory_mb)} are its workers', too little for its lanes "
            f"({', '.join(wanted)}): give it {least_memory_mb(budget, error.need_mb)} MB, or move a lane or a group to "
            "another host."
        ) from None


def host_plan(host: str, hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any]) -> Json:
    """Everything that is sized on one host.

    Raises:
        SizingError: its inventory asks for what its memory, or the lane table, does not have.
    """
    mine = groups_of(host, groups)
    cores, memory_mb = capacity_of(host, hostvars)
    memory = divide_memory(mine, memory_mb)
    plan: Json = {"host": host, "groups": mine, "cores": cores, "memory_mb": memory_mb, "shares_mb": memory}
    if "workers" in mine:
        plan["lanes"] = [asdict(one) for one in _lanes(host, hostvars, groups, profile)]
    if "web" in mine:
        plan["web"] = _web(cores, memory["web"], profile["web"], hostvars[host].get("headrace_web") or {})
    return plan
