"""Our clock, and its offset to the clock of the server's ledger (its database), measured from the answers to submits.

The server writes `created_at` after we send the request and before we receive the answer. So the offset lies between
`created_at` - received and `created_at` - sent, and each answer narrows these bounds (Marzullo's algorithm); the offset
is taken as their midpoint, as NTP does. Clocks drift, so the bounds widen with time.
"""

import time
from dataclasses import dataclass

DRIFT = 20e-6  # seconds a second, between the clocks of two ordinary machines
RESOLUTION_S = 0.001  # SQLite's clock has milliseconds, and truncates
_BASE = time.time() - time.perf_counter()


def now() -> float:
    """Our clock: seconds since the epoch, steady even if somebody sets the system's clock during a run."""
    return _BASE + time.perf_counter()


@dataclass(frozen=True)
class Offset:
    """The ledger's clock minus ours, in seconds, plus or minus the uncertainty."""

    seconds: float
    uncertainty: float


class Clock:
    """Measures the offset, answer by answer."""

    def __init__(self) -> None:
        self._low, self._high, self._at = float("-inf"), float("inf"), 0.0

    def bracket(self, sent: float, received: float, server: float) -> None:
        """Learn from a moment of the ledger's clock that lay between two of ours."""
        low, high = server - received, server - sent + RESOLUTION_S
        age = DRIFT * abs(received - self._at)
        self._low, self._high, self._at = max(self._low - age, low), min(self._high + age, high), received
        if self._low > self._high:  # somebody set a clock: the bounds from before are wrong
            self._low, self._high = low, high

    def offset(self) -> Offset:
        """The offset; before the first answer it is 0, and its uncertainty infinite."""
        if self._high == float("inf"):
            return Offset(0.0, float("inf"))
        return Offset((self._low + self._high) / 2, (self._high - self._low) / 2)
