"""The end of a run: the audit, the numbers, the files, and what the terminal shows."""

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests import ROOT, VAR, LoadError, clock, context, facts, figures, report
from loadtests.api import Api, NotAccepted
from loadtests.audit import audit
from loadtests.context import Run
from loadtests.facts import Facts, Verdict

SHOWN = 20
FAILED, INTERRUPTED = 1, 130


def finish(run: Run) -> Facts:
    """Audit the run, and compute its numbers.

    Raises:
        LoadError: the server's ledger cannot be read.
    """
    run.hide_progress()
    run.ending.set()
    run.ended = run.ended or clock.now()
    try:
        return figures.measure(run, audit(run.desk.ledger.records, Api(run.target), run.desk.page))
    except NotAccepted as error:
        raise LoadError(f"The audit cannot read the server's ledger: {error}.") from error


def line(found: Facts) -> str:
    """The last line of a run."""
    return f"load: {found.audit.submitted} submitted, {found.audit.counts}: {'PASS' if found.passed else 'FAIL'}"


def status(found: Facts) -> int:
    """The exit status of a run."""
    return (INTERRUPTED if found.run.interrupted else 0) if found.passed else FAILED


def tell(found: Facts, options: argparse.Namespace) -> None:
    """Write run.json and the report, and show in the terminal what matters most."""
    folder = Path(options.out) if options.out else VAR / f"{found.run.shape}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    facts.write(folder / "run.json", found)
    if options.jobs:
        facts.write(folder / "jobs.json", list(context.current().desk.ledger.records.values()))
    say(found)
    pictures = report.write(found, folder, pictures=not options.no_pictures)
    where = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    print(f"report: {where / 'report.html'}" + (f" ({pictures})" if pictures else ""))


def say(found: Facts) -> None:
    """Show the times of all stages, the knees, the limits, and the first SHOWN jobs that are not as promised."""
    console = Console(width=None if Console().is_terminal else 120)
    console.print(times(found))
    for lane, sentence in found.knees.items():
        console.print(f"{lane}: {sentence}.", highlight=False)
    if found.verdicts:
        console.print(limits(found.verdicts))
    for reason in found.generator.invalid:
        console.print(f"[red]invalid[/]: the load generator was too slow: {escape(reason)}.", highlight=False)
    for sentence, count in list(found.audit.refused.items())[:SHOWN]:
        console.print(f"refused {count} x: {escape(sentence)}", highlight=False)
    for one in found.audit.exceptions[:SHOWN]:
        console.print(f"[red]{one.verdict}[/] {one.name} {one.id}: {escape(one.why)}", highlight=False)
    if (more := len(found.audit.exceptions) - SHOWN) > 0:
        console.print(f"and {more} more, in the report")


def ms(seconds: float) -> str:
    """A time in milliseconds; from ten seconds on in seconds."""
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 9.9995 else f"{seconds:.1f} s"


def times(found: Facts) -> Table:
    """A row for each lane, kind and stage."""
    rows = Table("lane", "kind", "stage", title=f"{found.run.shape}: what its clients saw")
    for column in ("jobs", "jobs/s", "p50", "p95", "p99", "max"):
        rows.add_column(column, justify="right")
    before = None
    for one in found.table:
        what = one.lane, one.kind
        if before not in (None, what):
            rows.add_section()
        shown = what if what != before else ("", "")
        spans = map(ms, (one.p50, one.p95, one.p99, one.max))
        rows.add_row(*shown, one.stage, str(one.count), f"{one.rate:.1f}", *spans)
        before = what
    return rows


WORDS = {True: "[green]held[/]", False: "[red]missed[/]", None: "not judged"}


def limits(verdicts: list[Verdict]) -> Table:
    """A row for each limit and lane."""
    rows = Table("lane", "measure", "limit", "measured", "verdict", title="Limits (slo.yml)")
    for one in verdicts:
        rows.add_row(*map(escape, (one.lane, one.measure, one.limit, one.measured)), WORDS[one.ok])
    return rows
