"""Two clocks kept apart: ours, and the ledger's (the server's database), with the offset between them measured.

Every submit brackets one moment of the ledger's clock: `created_at` was written after we sent the request and before
we had the answer. So the offset lies between `created_at` - received and `created_at` - sent, and every answer narrows
it (NTP's midpoint and its uncertainty; Marzullo's intersection). Clocks drift, so bounds widen as they age.
"""

import time
from dataclasses import dataclass

DRIFT = 20e-6  # seconds a second, of two clocks of ordinary machines
RESOLUTION_S = 0.001  # SQLite's clock has milliseconds, and truncates
_BASE = time.time() - time.perf_counter()


def now() -> float:
    """Our clock: seconds since the epoch, but steady, since nobody sets it during a run."""
    return _BASE + time.perf_counter()


@dataclass(frozen=True)
class Offset:
    """What to subtract from a moment of the ledger's to have it on our clock, give or take the uncertainty."""

    seconds: float
    uncertainty: float


class Clock:
    """Measures the offset, answer by answer."""

    def __init__(self) -> None:
        self._low, self._high, self._at = float("-inf"), float("inf"), 0.0

    def bracket(self, sent: float, received: float, server: float) -> None:
        """A moment of the ledger's clock that lay between two of ours."""
        low, high = server - received, server - sent + RESOLUTION_S
        age = DRIFT * abs(received - self._at)
        self._low, self._high, self._at = max(self._low - age, low), min(self._high + age, high), received
        if self._low > self._high:  # somebody set a clock: what was known before is void
            self._low, self._high = low, high

    def offset(self) -> Offset:
        """The offset as far as it is known; without any answer, 0 give or take infinity."""
        if self._high == float("inf"):
            return Offset(0.0, float("inf"))
        return Offset((self._low + self._high) / 2, (self._high - self._low) / 2)
