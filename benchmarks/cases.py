"""What is measured, how long, and what it is held against: data."""

from dataclasses import dataclass
from typing import Any

BASELINE, HEADRACE = "baseline", "headrace"
SIDES = (BASELINE, HEADRACE)
ONE_SOCKET = "one socket"  # Headrace, whose client follows all of its jobs on one WebSocket, where that is measured
CAREFUL, OX = "careful", "django-ox"
TEXT = "Water finds its way: the channel, the gate, the wheel, and the water goes on. " * 4


@dataclass(frozen=True)
class Case:
    """One kind of job. `clients` is how many are in flight at saturation, for each core: with half as many the rate
    falls, with twice as many it does not rise (a client that polls holds its job half a second longer).
    """

    name: str
    title: str
    kind: str
    lane: str
    params: dict[str, Any]
    clients: dict[str, int]
    cpu_ms: float = 0
    one_socket: bool = False

    def body(self, seed: int) -> dict[str, Any]:
        """What the client of either side sends."""
        if self.kind == "digest":
            return {"kind": "digest", "params": {"text": f"{seed} {TEXT}"}}
        return {"kind": self.kind, "params": {**self.params, "lane": self.lane, "seed": seed}}


DIGEST = Case("digest", "digest", "digest", "quick", {}, {BASELINE: 40, HEADRACE: 20}, one_socket=True)
CASES = (
    # Short jobs belong to solo workers, one a core: the lane quick. deploy/sizing.py says why.
    Case("cpu5", "5 ms CPU", "burn", "quick", {"ms": 5}, {BASELINE: 40, HEADRACE: 16}, cpu_ms=5),
    Case("cpu100", "100 ms CPU", "burn", "cpu", {"ms": 100}, {BASELINE: 8, HEADRACE: 5}, cpu_ms=100),
    Case("wait50", "50 ms wait", "wait", "io", {"ms": 50}, {BASELINE: 16, HEADRACE: 40}),
    DIGEST,
)
TITLES = {case.name: case.title for case in CASES} | {
    "batch": "digests in batches",
    "idle": "at rest",
    "growth": "full ledger",
}
BATCH = 1000  # jobs in one request at most, on either side
IDLE_COMMANDS, IDLE_STATEMENTS = 43, 14  # a second, on two cores (five worker units), before issue 11 was worked on


@dataclass(frozen=True)
class Size:
    """How long a run takes. Times in seconds."""

    name: str
    rounds: int
    warm_s: float
    ramp_s: float
    saturated_s: float
    paced_s: float
    idle_s: float
    batch_jobs: int
    finished_rows: int
    queued_rows: int
    growth_s: float

    @property
    def limit_s(self) -> float:
        """The rounds are ended after this, whatever hangs."""
        legs = 3 * len(CASES) * (self.ramp_s + self.saturated_s + self.paced_s + 10)
        return 180 + self.rounds * (legs + self.batch_jobs / 10)


SIZES = {
    "quick": Size("quick", 1, 0.8, 0.5, 2.0, 1.5, 1.0, 150, 1000, 100, 1.0),
    "default": Size("default", 3, 2.5, 1.0, 4.0, 6.0, 10.0, BATCH, 0, 0, 0),
    "full": Size("full", 4, 3.0, 1.0, 5.0, 8.0, 30.0, 3 * BATCH, 1_000_000, 100_000, 6.0),
}


@dataclass(frozen=True)
class Aim:
    """A ratio or a value that design asks for; `at_least` or `at_most`, whichever is given."""

    case: str
    measure: str
    of: str  # "ratio" (Headrace / what is in the baseline's place), "headrace" or "one socket"
    at_least: float | None = None
    at_most: float | None = None

    def reached(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        words = [f">= {self.at_least:g}"] if self.at_least is not None else []
        words += [f"<= {self.at_most:.3g}"] if self.at_most is not None else []
        return " and ".join(words) + ("x" if self.of == "ratio" else "")


OURS = (
    Aim("cpu5", "cpu", HEADRACE, at_most=12),
    Aim("digest", "cpu", HEADRACE, at_most=8),
    Aim("digest", "cpu", ONE_SOCKET, at_most=6.5),
    Aim("cpu100", "efficiency", HEADRACE, at_least=0.95),
    *(Aim(case.name, "commands", HEADRACE, at_most=5) for case in CASES),
    *(Aim(case.name, "statements", HEADRACE, at_most=9) for case in CASES),
    *(Aim(case.name, "cpu_push", HEADRACE, at_most=1.5) for case in CASES),
    *(Aim(case.name, "paced_cpu_push", HEADRACE, at_most=3) for case in CASES),
    *(Aim(case.name, "notify_p99", HEADRACE, at_most=10) for case in CASES),
    Aim("batch", "cpu", HEADRACE, at_most=2),
    Aim("idle", "commands_per_s", HEADRACE, at_most=IDLE_COMMANDS / 2),
    Aim("idle", "statements_per_s", HEADRACE, at_most=IDLE_STATEMENTS / 2),
    Aim("growth", "cpu", "ratio", at_most=1.25),
    Aim("growth", "submit_p50", "ratio", at_most=1.25),
    Aim("growth", "finish_p50", "ratio", at_most=1.25),
)
"""What a job may cost, whatever is in the baseline's place."""
THEIRS = {
    CAREFUL: (
        Aim("cpu5", "rate", "ratio", at_least=1.1),
        Aim("digest", "rate", "ratio", at_least=1.5),
        Aim("wait50", "rate", "ratio", at_least=6),
        Aim("batch", "rate", "ratio", at_least=3),
        *(Aim(case.name, "end_to_end_p50", "ratio", at_most=1 / 20) for case in CASES if case.name != "cpu100"),
        *(Aim(case.name, "end_to_end_p99", "ratio", at_most=1 / 8) for case in CASES if case.name != "cpu100"),
    ),
    OX: (
        Aim("cpu5", "rate", "ratio", at_least=1.1),
        Aim("digest", "rate", "ratio", at_least=1.7),
    ),
}
"""Against the careful baseline, and against the best peer that promises. A job of 50 ms or more cannot be a twentieth
of a poll of 0.5 s; p50 and p99 of `wait50` are held against the aim all the same, and of `cpu100` shown."""
FOLLOWED = (
    Aim("sockets", "opened_per_s", HEADRACE, at_least=150),
    Aim("sockets", "push_kb", HEADRACE, at_most=20),
    Aim("sockets", "edge_kb", HEADRACE, at_most=20),
    Aim("sockets", "told_s", HEADRACE, at_most=0.7),
)
"""What 2,000 followers of one job may cost, on two push processes: sockets.py."""


def aims(against: str) -> tuple[Aim, ...]:
    return (*THEIRS.get(against, ()), *OURS)
