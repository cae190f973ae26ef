"""wait: waits for a given time, on any lane. For load tests and sizing: a job that costs a slot, but no core."""

import hashlib
import time
from typing import Any, Literal

from pydantic import Field

from kinds.base import Kind, Outcome, Params, Progress

STEP_S = 0.05
"""Seconds between two calls of the progress, and so the longest time until a cancel is noticed."""


class WaitParams(Params):
    lane: Literal["cpu", "io", "quick"] = Field("io", title="Lane", description="The lane that runs it.")
    ms: float = Field(500, title="Time", description="Milliseconds to wait.", ge=0, le=600_000)
    seed: int = Field(1, title="Seed", description="Makes the check differ from job to job.", ge=0, le=2**53)


def check_of(seed: int) -> str:
    """sha256 (hex) of "wait:" and the seed."""
    return hashlib.sha256(f"wait:{seed}".encode()).hexdigest()


def run(params: WaitParams, progress: Progress) -> Outcome:
    """Waits in small steps. Result: check (hex, see `check_of`), waited_ms."""
    start = time.monotonic()
    while (waited := time.monotonic() - start) < params.ms / 1000:
        progress(waited * 1000 / params.ms, f"{waited * 1000:.0f} of {params.ms:g} ms")
        time.sleep(min(STEP_S, params.ms / 1000 - waited))
    return Outcome({"check": check_of(params.seed), "waited_ms": round(waited * 1000, 3)})


def verify(params: dict[str, Any], result: dict[str, Any]) -> bool:
    """Whether a result is the right one for its params: the check, and that it waited long enough."""
    asked = WaitParams.model_validate(params)
    return bool(result["check"] == check_of(asked.seed) and result["waited_ms"] >= round(asked.ms, 3))


KIND = Kind(
    name="wait",
    title="Wait",
    summary="Waits for a given time: a job that costs a slot, but no core.",
    lane=None,
    params=WaitParams,
    run=run,
    synthetic=True,
)
