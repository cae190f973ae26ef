"""Small statistics: percentiles, and groups."""

import math
from collections.abc import Sequence

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: a value that was really measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(values: Sequence[float], seconds: float) -> dict[str, float]:
    """Count, rate, percentiles and maximum."""
    found = {name: percentile(values, share) for name, share in PERCENTILES.items()}
    return {"count": len(values), "rate": len(values) / seconds if seconds > 0 else 0.0, **found, "max": max(values)}


def named(text: str) -> tuple[str, float] | None:
    """`queue wait p95` as (`queue wait`, 0.95); None: it is no such name."""
    what, _, last = text.rpartition(" ")
    if not what or last not in PERCENTILES:
        return None
    return what, PERCENTILES[last]
