"""What may be reached: the ports that a host opens, and to whom."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from deploy.fleet.plan import Groups, Hostvars, Json, fleet_addresses


def fleet_open_ports(rules: Iterable[Mapping[str, Any]], host: str, hostvars: Hostvars, groups: Groups) -> list[Json]:
    """The rules that hold on a host, each with its ports and the networks that it lets in (none: all)."""
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
