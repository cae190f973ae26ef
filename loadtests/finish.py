"""The end of a run: audit, figures, verdicts, the report, and what the terminal says of them."""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests import ROOT, VAR, LoadError, clock, context, figures, report, slo
from loadtests.api import Api, NotAccepted
from loadtests.audit import Audit, audit
from loadtests.context import Run
from loadtests.ledger import by_lane, followed

Json = dict[str, Any]
SHOWN = 20
FAILED, INTERRUPTED = 1, 130


def finish(run: Run) -> Json:
    """Audit and judge: the whole document, with the last line of the run and its exit status."""
    if run.progress:
        run.progress.stop()
    run.ending.set()
    run.ended = run.ended or clock.now()
    found = _audited(run)
    facts = measured(run, found)
    passed = found.passed and facts["held"] and not facts["generator"]["invalid"]
    status = (INTERRUPTED if run.interrupted else 0) if passed else FAILED
    return facts | {"passed": passed, "line": found.line(passed), "status": status}


def tell(facts: Json, options: argparse.Namespace) -> None:
    """In the terminal, in run.json, and in the report."""
    folder = keep(facts, options.out)
    if options.jobs:
        records = context.current().desk.ledger.records.values()
        (folder / "jobs.json").write_text(json.dumps([asdict(record) for record in records]))
    say(facts)
    pictures = report.write(facts, folder, pictures=not options.no_pictures)
    where = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    print(f"report: {where / 'report.html'}" + (f" ({pictures})" if pictures else ""))


def _audited(run: Run) -> Audit:
    try:
        return audit(run.desk.ledger.records, Api(run.target), run.desk.page)
    except NotAccepted as error:
        raise LoadError(f"The audit cannot read the server's ledger: {error}.") from error


def measured(run: Run, found: Audit) -> Json:
    """The whole document."""
    records = list(run.desk.ledger.records.values())
    stages = figures.by_stage(run, records, run.lanes_seen.samples)
    ceilings = figures.ceilings(run, records, stages)
    generators = run.generators | {run.generator.name: run.generator.samples}
    refused = sum(run.desk.ledger.refused.values())
    efficiency = {lane: one["efficiency"] for lane, one in ceilings.items()}
    verdicts = slo.judge(run.limits, slo.Measured(run.name, run.lanes, by_lane(followed(records)), efficiency, refused))
    return {
        "run": figures.head(run),
        "audit": figures.audited(found, run.desk.ledger.refused, run.desk.ledger.failed),
        "verdicts": figures.verdicts(verdicts),
        "held": all(verdict.ok is not False for verdict in verdicts),
        "table": figures.table(run, records),
        "breakdown": figures.breakdown(records),
        "ways": figures.ways(records),
        "stages": stages,
        "ceilings": ceilings,
        "knees": figures.knees(run, stages),
        "over_time": figures.over_time(run, records),
        "lanes": run.lanes,
        "lane_samples": run.lanes_seen.samples,
        "host": {"known": run.host_seen.known, "cores": run.host_seen.cores, "samples": run.host_seen.samples},
        "stores": {"missing": run.stores_seen.missing, "samples": run.stores_seen.samples},
        "generator": figures.generators(generators, run.limits.generator),
    }


def keep(facts: Json, out: str) -> Path:
    """Write what is kept of a run."""
    folder = Path(out) if out else VAR / f"{facts['run']['shape']}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


# ---- in the terminal ------------------------------------------------------------------------------------------------


def say(facts: Json) -> None:
    """What matters most, for whoever watched."""
    console = Console(width=None if Console().is_terminal else 120)
    console.print(times(facts))
    for lane, sentence in facts["knees"].items():
        console.print(f"{lane}: {sentence}.", highlight=False)
    if facts["verdicts"]:
        console.print(limits(facts["verdicts"]))
    for reason in facts["generator"]["invalid"]:
        console.print(f"[red]invalid[/]: the load generator was too slow: {escape(reason)}.", highlight=False)
    for sentence, count in list(facts["audit"]["refused"].items())[:SHOWN]:
        console.print(f"refused {count} x: {escape(sentence)}", highlight=False)
    for one in facts["audit"]["exceptions"][:SHOWN]:
        console.print(f"[red]{one['verdict']}[/] {one['name']} {one['id']}: {escape(one['why'])}", highlight=False)
    if (more := len(facts["audit"]["exceptions"]) - SHOWN) > 0:
        console.print(f"and {more} more, in the report")


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 9.9995 else f"{seconds:.1f} s"


def times(facts: Json) -> Table:
    """One row a lane, kind and stage."""
    rows = Table("lane", "kind", "stage", title=f"{facts['run']['shape']}: what its clients saw")
    for column in ("jobs", "jobs/s", "p50", "p95", "p99", "max"):
        rows.add_column(column, justify="right")
    before = None
    for one in facts["table"]:
        what = one["lane"], one["kind"]
        if before not in (None, what):
            rows.add_section()
        shown = what if what != before else ("", "")
        spans = (ms(one[name]) for name in ("p50", "p95", "p99", "max"))
        rows.add_row(*shown, one["stage"], str(one["count"]), f"{one['rate']:.1f}", *spans)
        before = what
    return rows


WORDS = {True: "[green]held[/]", False: "[red]missed[/]", None: "not judged"}


def limits(verdicts: list[Json]) -> Table:
    """Limit, measured, verdict."""
    rows = Table("lane", "measure", "limit", "measured", "verdict", title="Limits (slo.yml)")
    for one in verdicts:
        cells = (escape(one[name]) for name in ("lane", "measure", "limit", "measured"))
        rows.add_row(*cells, WORDS[one["ok"]])
    return rows
