"""Two clocks kept apart: ours, and the ledger's (the server's database), with the offset between them measured.

Every submit brackets one moment of the ledger's clock: `created_at` was written after we sent the request and before
we had the answer. So the offset lies between `created_at` - received and `created_at` - sent, and every answer narrows
it (NTP's midpoint and its uncertainty; Marzullo's intersection). Clocks drift, so only the last WINDOW answers count.
"""

import time
from collections import deque
from dataclasses import dataclass

WINDOW = 500
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
        self._bounds: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._offset: Offset | None = None

    def __len__(self) -> int:
        return len(self._bounds)

    def bracket(self, sent: float, received: float, server: float) -> None:
        """A moment of the ledger's clock that lay between two of ours."""
        self._bounds.append((server - received, server - sent + RESOLUTION_S))
        self._offset = None

    def offset(self) -> Offset:
        """The offset as far as it is known; without any answer, 0 give or take infinity."""
        if self._offset is None:
            self._offset = self._measured()
        return self._offset

    def _measured(self) -> Offset:
        if not self._bounds:
            return Offset(0.0, float("inf"))
        low = max(low for low, _ in self._bounds)
        high = min(high for _, high in self._bounds)
        if low > high:  # it moved meanwhile: the tightest single answer says most
            low, high = min(self._bounds, key=lambda bound: bound[1] - bound[0])
        return Offset((low + high) / 2, (high - low) / 2)
