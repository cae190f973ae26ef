"""Shows a run while it goes on: in a terminal a table that is redrawn, elsewhere a line every ten seconds."""

import gevent
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtests.context import Run
from loadtests.facts import percentile

EVERY_S = 0.5
LINE_EVERY_S = 10.0
RECENT_S = 10.0


class Progress:
    """Shows a run until it is stopped."""

    def __init__(self, run: Run) -> None:
        self.run, self.console = run, Console()
        terminal = self.console.is_terminal
        self._live = Live(console=self.console, auto_refresh=False, transient=True) if terminal else None
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


def line(run: Run) -> str:
    """The state of every lane in one line."""
    parts = [f"{run.elapsed:.0f} s, {run.stage_name() if not run.ending.is_set() else 'waiting for the last jobs'}"]
    for lane, tally in sorted(run.desk.ledger.tallies.items()):
        parts.append(f"{lane}: {tally.submitted} submitted, {tally.open} open, {tally.failed} failed")
    return "; ".join(parts)


def head(run: Run) -> Text:
    stage = "waiting for the last jobs" if run.ending.is_set() else run.stage_name()
    return Text(f"{run.name} against {run.target.host}: {stage}, {run.elapsed:.0f} of {run.shape.seconds:.0f} s")


def bar(run: Run) -> Padding:
    done = ProgressBar(run.shape.seconds, min(run.elapsed, run.shape.seconds), width=72, complete_style="cyan")
    return Padding(done, (0, 0, 1, 0), expand=False)


def lanes(run: Run) -> Table:
    """A row for each lane, over the last RECENT_S."""
    rows = Table("lane", title=f"the last {RECENT_S:.0f} s", title_justify="left")
    for column in ("submitted", "open", "failed", "ended/s", "p50", "p95", "queued"):
        rows.add_column(column, justify="right")
    seen = run.lanes_seen.samples[-1].lanes if run.lanes_seen.samples else {}
    for lane, tally in sorted(run.desk.ledger.tallies.items()):
        recent = [span for at, span in tally.recent if at > run.began + run.elapsed - RECENT_S]
        rate = len(recent) / min(RECENT_S, max(run.elapsed, 1.0))
        times = [f"{percentile(recent, share) * 1000 if recent else 0:.0f} ms" for share in (0.5, 0.95)]
        counts = str(tally.submitted), str(tally.open), str(tally.failed), f"{rate:.1f}"
        queued = str(seen[lane].queued) if lane in seen else "-"
        rows.add_row(lane, *counts, *times, queued, style="red" if tally.failed else None)
    return rows
