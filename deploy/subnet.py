"""The network of the local cluster: which one it is, who else uses it on this machine, and the addresses in it.

HEADRACE_SUBNET names another one; it is kept beside the cluster's state, and holds until the cluster is taken down.
"""

import os
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

DEFAULT = "172.30.56.0/24"
KEPT = Path(__file__).resolve().parents[1] / "var/cluster/subnet"
ROUTES = Path("/proc/net/route")

Used = tuple[str, IPv4Network]
"""Who uses a network, and which."""


class SubnetError(ValueError):
    """The cluster cannot have this network; the message says why, and what to set."""


def subnet() -> IPv4Network:
    """The network of the cluster that runs, or would be made.

    Raises:
        SubnetError: HEADRACE_SUBNET is no network of 256 addresses.
    """
    said = os.environ.get("HEADRACE_SUBNET") or (KEPT.read_text() if KEPT.exists() else DEFAULT)
    try:
        network = IPv4Network(said)
    except ValueError:
        network = None
    if network is None or network.prefixlen != 24:
        raise SubnetError(
            f"HEADRACE_SUBNET is {said!r}, which must be a private network with /24, as in 10.30.56.0/24."
        )
    return network


def machine_address(number: int) -> str:
    """The address of a machine in the cluster's network, by its last part; 1 is this machine."""
    return str(subnet()[int(number)])


def refuse_taken(wanted: IPv4Network, used: Iterable[Used]) -> None:
    """Raises SubnetError when somebody on this machine uses addresses of that network."""
    for who, network in used:
        if wanted.overlaps(network):
            raise SubnetError(
                f"The cluster's network {wanted} is taken on this machine by {who} ({network}): name a free one in the "
                "variable HEADRACE_SUBNET, as in HEADRACE_SUBNET=10.30.56.0/24."
            )


def routed() -> Iterator[Used]:
    """The networks that this machine has a route to. Those that stand for half the world (a VPN's) do not count."""
    for line in ROUTES.read_text().splitlines()[1:]:
        interface, destination, _, _, _, _, _, mask, *_ = line.split()
        address, bits = (int.from_bytes(bytes.fromhex(part), "little") for part in (destination, mask))
        network = IPv4Network((address, bits.bit_count()))
        if network.prefixlen >= 8:
            yield f"the route over {interface}", network
