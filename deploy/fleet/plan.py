"""Filters over the inventory: who is where, what each host gets, and what cannot work.

Arithmetic that a template would otherwise hold. How many workers a host runs is deploy/sizing.py's decision; this file
only tells it how much of the host the workers may have, when the host does other things as well.
"""

import ipaddress
import sys
import textwrap
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from ansible.errors import AnsibleFilterError

from deploy.sizing import LanePlan, SizingError, size_lanes

HEAVY = {"db": 4, "broker": 2, "web": 2, "workers": 6}
"""What fills its memory if it may: shares of what the others leave."""
LIGHT_MB = {"edge": 128, "beat": 192}
"""What needs a little, whatever the host."""
SYSTEM_MB = 256
SUPPORTED = {("Debian", "12"), ("Debian", "13")}
LEAST_DISK_MB = 2048
MOST_MEMORY_MB = 2**24
MOST_MARKS = 48  # of a bar in the drawing

Hostvars = Mapping[str, Mapping[str, Any]]
Groups = Mapping[str, list[str]]
Json = dict[str, Any]


def address_of(host: str, hostvars: Hostvars) -> str:
    """Where the others in the cluster reach a host."""
    facts = hostvars[host]
    return str(facts.get("headrace_address") or facts.get("ansible_host") or host)


def fleet_addresses(hosts: Iterable[str], hostvars: Hostvars) -> list[str]:
    """The addresses of hosts, each once, in order."""
    return list(dict.fromkeys(address_of(host, hostvars) for host in hosts))


def groups_of(host: str, groups: Groups) -> list[str]:
    """What a host is, of the groups that matter here."""
    return [name for name in (*HEAVY, *LIGHT_MB) if host in groups.get(name, [])]


# ---- what a host gets -----------------------------------------------------------------------------------------------


def fleet_memory(own_groups: Iterable[str], memory_mb: int) -> dict[str, int]:
    """How a host's memory is divided: MiB for each group that it is in, and for the system.

    The system keeps a tenth and at least 256 MiB, edge and beat get the little they need, and the heavy ones share the
    rest by weight. Where there is too little, who comes later gets less, or nothing.
    """
    mine = list(own_groups)
    wanted = {"system": max(SYSTEM_MB, memory_mb // 10), **{name: LIGHT_MB[name] for name in mine if name in LIGHT_MB}}
    shares: dict[str, int] = {}
    for name, size in wanted.items():
        shares[name] = min(size, memory_mb - sum(shares.values()))
    rest = memory_mb - sum(shares.values())
    heavy = {name: HEAVY[name] for name in mine if name in HEAVY}
    return shares | {name: rest * weight // sum(heavy.values()) for name, weight in heavy.items()}


def capacity_of(host: str, hostvars: Hostvars) -> tuple[int, int]:
    """Cores and MiB: what was measured there, unless the inventory says less."""
    facts = hostvars[host]
    found = facts["ansible_facts"]["capacity"]
    cores = min(int(found["cores"]), int(facts.get("headrace_cores", found["cores"])))
    return cores, min(int(found["memory_mb"]), int(facts.get("headrace_memory_mb", found["memory_mb"])))


def _web(cores: int, memory_mb: int, web: Mapping[str, Any], overrides: Mapping[str, Any]) -> Json:
    """gunicorn's processes: one a core and half as many for push, as long as they all fit, beside one for the rest."""
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
        return []  # preflight has its sentence on that
    cores, memory_mb = capacity_of(host, hostvars)
    mine = groups_of(host, groups)

    def size(memory_mb: int) -> list[LanePlan]:
        reserve = memory_mb - fleet_memory(mine, memory_mb)["workers"]
        lanes, overrides = {name: table[name] for name in wanted}, facts.get("headrace_overrides") or {}
        return size_lanes(lanes, cores, memory_mb, overrides=overrides, reserve_mb=reserve, host=host)

    try:
        return size(memory_mb)
    except SizingError:
        enough, share = _enough(size, memory_mb), fleet_memory(mine, memory_mb)["workers"]
        if enough is None:
            raise
        raise SizingError(
            f"{host} has {memory_mb} MB, of which {share} are its workers', too little for its lanes "
            f"({', '.join(wanted)}): give it {enough} MB, or move a lane or a group to another host."
        ) from None


def _enough(size: Callable[[int], object], memory_mb: int) -> int | None:
    """The least memory that can be planned; None: it is not for want of memory."""

    def fits(memory_mb: int) -> bool:
        try:
            return bool(size(memory_mb))
        except SizingError:
            return False

    more = range(memory_mb, MOST_MEMORY_MB)
    found = bisect_left(more, True, key=fits)
    return more[found] if found < len(more) else None


def host_plan(host: str, hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any]) -> Json:
    """Everything that is sized on one host."""
    mine = groups_of(host, groups)
    cores, memory_mb = capacity_of(host, hostvars)
    memory = fleet_memory(mine, memory_mb)
    plan: Json = {"host": host, "groups": mine, "cores": cores, "memory_mb": memory_mb, "shares_mb": memory}
    if "workers" in mine:
        plan["lanes"] = [asdict(one) for one in _lanes(host, hostvars, groups, profile)]
    if "web" in mine:
        plan["web"] = _web(cores, memory["web"], profile["web"], hostvars[host].get("headrace_web") or {})
    return plan


def fleet_plan(host: str, hostvars: Hostvars, groups: Groups, profile: Mapping[str, Any]) -> Json:
    """`host_plan` for templates: what cannot be planned is one sentence."""
    try:
        return host_plan(host, hostvars, groups, profile)
    except SizingError as error:
        raise AnsibleFilterError(str(error)) from None


def worker_units(plan: Mapping[str, Any], profile: Mapping[str, Any]) -> list[Json]:
    """One entry for each worker unit of a host: its plan, its name (cpu-1) and its queues."""
    return [
        {
            **lane,
            "name": f"{lane['lane']}-{number}",
            "queues": list(profile["celery"]["lanes"][lane["lane"]]["queues"]),
            "environment": profile["celery"]["lanes"][lane["lane"]].get("environment", {}),
        }
        for lane in plan.get("lanes", [])
        for number in range(1, lane["instances"] + 1)
    ]


# ---- what it may reach ----------------------------------------------------------------------------------------------


def fleet_open_ports(rules: Iterable[Mapping[str, Any]], host: str, hostvars: Hostvars, groups: Groups) -> list[Json]:
    """The rules that hold on a host, each with its ports and the addresses it is open to (none: everywhere)."""
    opened = []
    for rule in rules:
        if "group" in rule and host not in groups.get(rule["group"], []):
            continue
        peers = [peer for name in rule.get("from_groups", []) for peer in groups.get(name, [])]
        sources = [*rule.get("from", []), *fleet_addresses(peers, hostvars)]
        if sources or not {"from", "from_groups"} & set(rule):  # an empty list lets nobody in, not everybody
            opened.append({"name": rule["name"], "ports": rule["ports"], **_by_family(sources)})
    return opened


def _by_family(sources: Iterable[str]) -> dict[str, list[str]]:
    networks = [ipaddress.ip_network(source, strict=False) for source in sources]
    return {f"v{number}": sorted({str(net) for net in networks if net.version == number}) for number in (4, 6)}


# ---- what cannot work -----------------------------------------------------------------------------------------------


def fleet_connections(plans: Iterable[Mapping[str, Any]], reserve: int) -> dict[str, int]:
    """Connections to the database and to the broker that the whole plan can hold open at once.

    A thread of gunicorn's and a slot of a worker hold one of each, a push process two (its reader and its poll), a
    sweeper and beat one. A worker unit is counted with two more to the database and four more to the broker: for its
    lease thread, its consumer and its remote control, and a little room.
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
    """One sentence for each thing that cannot work; empty: go ahead.

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


def _host(host: str, hostvars: Hostvars) -> Iterator[str]:
    facts = hostvars[host]["ansible_facts"]
    system = facts.get("distribution", "?"), str(facts.get("distribution_major_version", "?"))
    if system not in SUPPORTED:
        yield f"{host} runs {' '.join(system)}, which is not supported: install Debian 13 or Debian 12 on it."
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
                f"would be handed out twice: set it above {2 * lane['time_limit']}."
            )


def _budget(plans: list[Json], limits: Mapping[str, int]) -> Iterator[str]:
    need = fleet_connections(plans, limits["reserve"])
    for name, variable in (("database", "fleet_database_connections"), ("broker", "fleet_broker_connections")):
        if need[name] > int(limits[name]):  # a string, if it was said with -e
            yield (
                f"The plan needs {need[name]} connections to the {name}, which allows {limits[name]}: raise {variable} "
                "(a connection to PostgreSQL takes about 10 MB), or plan fewer slots."
            )


def missing_secrets(secrets: Mapping[str, Any], wanted: Iterable[str]) -> list[str]:
    """One sentence for each secret that is not there or too short."""
    return [
        f"The secret {name} is {'missing' if name not in secrets else 'shorter than 16 characters'}: put one into "
        f"headrace_secrets with ansible-vault (docs/deploy.md says how)."
        for name in wanted
        if len(str(secrets.get(name, ""))) < 16
    ]


# ---- how it is shown, how it is written -----------------------------------------------------------------------------


Row = tuple[str, str, int, str]
"""What one line of the drawing says: a name, its shape, its slots, a remark."""


def draw_plan(plans: Iterable[Mapping[str, Any]]) -> str:
    """The whole inventory's plan as text: each host, what it runs with a bar of its slots, and why."""
    known = list(plans)
    rows = [row for plan in known for row, _ in _rows(plan)]
    per_mark = max((-(-slots // MOST_MARKS) for _, _, slots, _ in rows), default=1)
    cells = [(len(name), len(shape), -(-slots // per_mark)) for name, shape, slots, _ in rows]
    widths = [max(column) for column in zip(*cells, strict=True)]
    lines = [line for plan in known for line in (_headline(plan), *_drawn(plan, widths, per_mark))]
    return "\n".join([*lines, f"# is {per_mark} slot{'s' if per_mark > 1 else ''}: jobs or requests at the same time"])


def _headline(plan: Mapping[str, Any]) -> str:
    cores = f"{plan['cores']} core{'s' if plan['cores'] != 1 else ''}"
    shares = ", ".join(f"{name} {mb}" for name, mb in plan["shares_mb"].items())
    return f"{plan['host']}: {cores}, {plan['memory_mb']} MB ({shares})"


def _rows(plan: Mapping[str, Any]) -> Iterator[tuple[Row, str]]:
    if web := plan.get("web"):
        slots = web["workers"] * web["threads"]
        yield ("web", f"{web['workers']} x {web['threads']}", slots, f"and {web['push_workers']} for push"), ""
    for lane in plan.get("lanes", []):
        shape = f"{lane['instances']} x {lane['concurrency']}"
        slots = lane["instances"] * lane["concurrency"]
        yield (lane["lane"], shape, slots, f"{lane['pool']}, {lane['memory_max_mb']} MB each"), lane["why"]


def _drawn(plan: Mapping[str, Any], widths: list[int], per_mark: int) -> Iterator[str]:
    for (name, shape, slots, remark), why in _rows(plan):
        marks = "#" * -(-slots // per_mark)
        yield f"  {name:<{widths[0]}}  {shape:<{widths[1]}}  {marks:<{widths[2]}}  {remark}"
        margin = " " * (sum(widths[:2]) + 6)
        yield from textwrap.wrap(why, 110, initial_indent=margin, subsequent_indent=margin)


def systemd_quoted(value: object) -> str:
    """A value for an EnvironmentFile, in double quotes, whatever is in it. In a unit, % must be doubled besides.

    Raises:
        AnsibleFilterError: it has a line break, which would begin another variable.
    """
    text = str(value)
    if "\n" in text or "\r" in text:
        raise AnsibleFilterError("An environment variable may not hold a line break.")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        ours = (
            draw_plan,
            fleet_addresses,
            fleet_connections,
            fleet_memory,
            fleet_open_ports,
            fleet_plan,
            missing_secrets,
            preflight,
            systemd_quoted,
            worker_units,
        )
        return {function.__name__: function for function in ours}
