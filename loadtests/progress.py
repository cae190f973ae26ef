"""What a run looks like while it runs: a table that redraws itself in a terminal, a line now and then elsewhere."""

import gevent
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtests.context import Run
from loadtests.ledger import Tally
from loadtests.percentiles import percentile

EVERY_S = 0.5
LINE_EVERY_S = 10.0
RECENT_S = 10.0


class Progress:
    """Shows how a run gets on, until it is stopped."""

    def __init__(self, run: Run) -> None:
        self.run, self.console = run, Console()
        self._live = (
            Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        )
        self._greenlet = gevent.spawn(self._draw, self._live) if self._live else gevent.spawn(self._lines)

    def stop(self) -> None:
        self._greenlet.kill()
        if self._live:
            self._live.stop()

    def _draw(self, live: Live) -> None:
        live.start()
        while True:
            live.update(Group(head(self.run), bar(self.run), lanes(self.run)), refresh=True)
            gevent.sleep(EVERY_S)

    def _lines(self) -> None:
        print(f"load: {self.run.name} for {self.run.shape.seconds:.0f} s against {self.run.target.host}", flush=True)
        while True:
            gevent.sleep(LINE_EVERY_S)
            print(line(self.run), flush=True)


def show(run: Run) -> Progress:
    """Start showing."""
    return Progress(run)


def line(run: Run) -> str:
    """All of it in one line."""
    parts = [f"{run.elapsed:.0f} s, {run.stage_name() if not run.ending.is_set() else 'waiting for the last jobs'}"]
    for lane, row in status(run).items():
        parts.append(f"{lane}: {row['submitted']} submitted, {row['open']} open, {row['failed']} failed")
    return "; ".join(parts)


def head(run: Run) -> Text:
    stage = "waiting for the last jobs" if run.ending.is_set() else run.stage_name()
    return Text(f"{run.name} against {run.target.host}: {stage}, {run.elapsed:.0f} of {run.shape.seconds:.0f} s")


def bar(run: Run) -> Padding:
    done = ProgressBar(run.shape.seconds, min(run.elapsed, run.shape.seconds), width=72, complete_style="cyan")
    return Padding(done, (0, 0, 1, 0), expand=False)


def status(run: Run) -> dict[str, dict[str, float]]:
    """For each lane what its clients have seen."""
    return {lane: _status(run, tally) for lane, tally in sorted(run.desk.ledger.tallies.items())}


def _status(run: Run, tally: Tally) -> dict[str, float]:
    since = run.began + run.elapsed - RECENT_S
    recent = [span for at, span in tally.recent if at > since]
    return {
        "submitted": tally.submitted,
        "open": tally.submitted - tally.closed,
        "failed": tally.failed,
        "rate": len(recent) / min(RECENT_S, max(run.elapsed, 1.0)),
        "p50": percentile(recent, 0.5) if recent else 0.0,
        "p95": percentile(recent, 0.95) if recent else 0.0,
    }


def lanes(run: Run) -> Table:
    """One row a lane, over the last seconds."""
    rows = Table("lane", title=f"the last {RECENT_S:.0f} s", title_justify="left")
    for column in ("submitted", "open", "failed", "ended/s", "p50", "p95", "queued"):
        rows.add_column(column, justify="right")
    seen = run.lanes_seen.samples[-1]["lanes"] if run.lanes_seen and run.lanes_seen.samples else {}
    for lane, row in status(run).items():
        times = f"{row['p50'] * 1000:.0f} ms", f"{row['p95'] * 1000:.0f} ms"
        counts = f"{row['submitted']:.0f}", f"{row['open']:.0f}", f"{row['failed']:.0f}", f"{row['rate']:.1f}"
        queued = str(seen.get(lane, {}).get("queued", "-"))
        rows.add_row(lane, *counts, *times, queued, style="red" if row["failed"] else None)
    return rows
