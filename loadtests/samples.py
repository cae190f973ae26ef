"""What is looked at while a run goes on: the lanes, the server's host, its stores, and the load generator itself.

Times are in seconds. `at` is the moment of a look, in seconds since the epoch on this program's clock (clock.py).
"""

from dataclasses import dataclass

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass


@dataclass(frozen=True)
class Lane:
    """A lane as the server describes it."""

    pool: str
    slots: int
    latency_target_s: float


@dataclass(frozen=True)
class Queue:
    """A lane at one moment: jobs that wait, jobs that run, and how long the oldest has waited."""

    queued: int = 0
    running: int = 0
    oldest: float | None = None


@dataclass(frozen=True)
class LaneSample:
    """One look at all lanes."""

    at: float
    lanes: dict[str, Queue]

    def of(self, lane: str) -> Queue:
        """One lane; empty if the server did not name it."""
        return self.lanes.get(lane, Queue())


@dataclass(frozen=True)
class HostSample:
    """One look at the server's host: cores in use; cores and bytes by what the processes of Headrace do."""

    at: float
    busy: float
    cpu: dict[str, float]
    memory: dict[str, int]


@dataclass(frozen=True)
class StoreRate:
    """Commands or transactions a second, and open connections."""

    rate: float
    connections: float


@dataclass(frozen=True)
class StoreSample:
    """One look at Redis and PostgreSQL."""

    at: float
    redis: StoreRate | None = None
    postgresql: StoreRate | None = None


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class GeneratorLimits:
    """Beyond these (slo.yml) the load generator was too slow, and what it measured is not to be believed."""

    cpu: float  # share of a core, on average
    delay_p99_s: float


@dataclass(frozen=True)
class GeneratorSample:
    """A second of one process: its CPU as a share of a core, and by how much each tick of its event loop was late."""

    at: float
    cpu: float
    delays: list[float]
