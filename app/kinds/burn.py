"""burn: computes for a given CPU time, on any lane. For load tests and sizing: work of a known cost."""

import hashlib
import time
from typing import Any, Literal

from pydantic import Field

from kinds.base import Kind, Outcome, Params, Progress

CHECK_ROUNDS = 1000
STEP_ROUNDS = 5000
"""Rounds between two calls of the clock and the progress: a few milliseconds."""


class BurnParams(Params):
    lane: Literal["cpu", "io", "quick"] = Field("cpu", title="Lane", description="The lane that runs it.")
    ms: float = Field(100, title="CPU time", description="Milliseconds of one core to use up.", ge=0, le=60_000)
    seed: int = Field(1, title="Seed", description="Makes the check differ from job to job.", ge=0, le=2**53)


def chain(start: bytes, rounds: int) -> bytes:
    """sha256 of sha256 of ... of `start`, `rounds` times."""
    for _ in range(rounds):
        start = hashlib.sha256(start).digest()
    return start


def run(params: BurnParams, progress: Progress) -> Outcome:
    """Hashes until this thread has used `ms` of CPU time; time spent waiting for a core or for the GIL does not count.

    Result: check (hex, the chain's value after CHECK_ROUNDS), rounds (of the whole chain), cpu_ms (used up).
    """
    start = time.thread_time()
    link = check = chain(str(params.seed).encode(), CHECK_ROUNDS)
    rounds = CHECK_ROUNDS
    while (cpu_ms := (time.thread_time() - start) * 1000) < params.ms:
        progress(cpu_ms / params.ms, f"{cpu_ms:.0f} of {params.ms:g} ms")
        link, rounds = chain(link, STEP_ROUNDS), rounds + STEP_ROUNDS
    return Outcome({"check": check.hex(), "rounds": rounds, "cpu_ms": round(cpu_ms, 3)})


def verify(params: dict[str, Any], result: dict[str, Any]) -> bool:
    """Whether a result is the right one for its params: recomputes the check, and compares the CPU time."""
    asked = BurnParams.model_validate(params)
    check = chain(str(asked.seed).encode(), CHECK_ROUNDS).hex()
    return bool(result["check"] == check and result["cpu_ms"] >= round(asked.ms, 3))


KIND = Kind(
    name="burn",
    title="Burn of CPU time",
    summary="Computes for a given CPU time: work of a known cost.",
    lane=None,
    params=BurnParams,
    run=run,
    synthetic=True,
)
