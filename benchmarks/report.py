"""The table that people read, and the file that programs read."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cases import BASELINE, CAREFUL, HEADRACE, ONE_SOCKET, TITLES
from benchmarks.figures import KINDS

Title = tuple[str, str]
TITLED = defaultdict(lambda: "a peer that promises too") | {
    CAREFUL: "the deployment that most people copy, set up with care",
    "cookiecutter": "the deployment that most people copy, as they copy it",
}
# measure: (title, unit); docs/benchmarks.md says what each means
ROWS = {
    "rate": ("rate at saturation", "jobs/s"),
    "cpu": ("CPU per job", "ms"),
    **{f"cpu_{kind}": (f"  {kind}", "ms") for kind in KINDS},
    "efficiency": ("efficiency of the lane", ""),
    "neighbours": ("cores used by others", ""),
    "paced_cpu": ("CPU per job at 30 % load", "ms"),
    "paced_cpu_push": ("  push", "ms"),
    "commands": ("Redis commands per job", ""),
    "statements": ("SQL statements per job", ""),
    "submit_p50": ("submit p50", "ms"),
    "submit_p99": ("submit p99", "ms"),
    "queue_wait_p50": ("queue wait p50", "ms"),
    "queue_wait_p99": ("queue wait p99", "ms"),
    "run_p50": ("run p50", "ms"),
    "run_p99": ("run p99", "ms"),
    "notify_p50": ("notify p50", "ms"),
    "notify_p99": ("notify p99", "ms"),
    "end_to_end_p50": ("end to end p50", "ms"),
    "end_to_end_p99": ("end to end p99", "ms"),
}
REST = {"commands_per_s": ("Redis commands", "1/s"), "statements_per_s": ("SQL statements", "1/s")}
GROWTH = {
    "submit_p50": ("submit p50", "ms"),
    "claim_p50": ("claim p50", "ms"),
    "finish_p50": ("finish p50", "ms"),
    "fleet_p50": ("fleet page p50", "ms"),
    "recover_p50": ("recovery p50", "ms"),
    "cpu": ("CPU per job", "ms"),
    "postgres_cpu": ("  postgres", "ms"),
    "idle_cpu": ("an idle second", "ms"),
}


def write(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def show(result: dict[str, Any], console: Console) -> None:
    """Both tables, and how many aims were reached."""
    console.print(_cases(result))
    if result["growth"]:
        console.print(_growth(result))
    aims = result["aims"]
    missed = [aim for aim in aims if not aim["reached"]]
    console.print(f"bench: {len(aims) - len(missed)} of {len(aims)} aims reached in {result['seconds']:.0f} s")
    titles = ROWS | REST | GROWTH
    for aim in missed:
        measure = titles[aim["measure"]][0].strip() + (f", {ONE_SOCKET}" if aim["of"] == ONE_SOCKET else "")
        console.print(f"  missed: {TITLES[aim['case']]}, {measure}: {number(aim['value'])}, aim {aim['aim']}")


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for name in ("job", "measure"):
        table.add_column(name)
    for name in (*columns, "ratio"):
        table.add_column(name, justify="right")
    table.add_column("aim")
    return table


def _cases(result: dict[str, Any]) -> Table:
    """A column for each way that any case was measured."""
    found = {**result["cases"], "batch": result["batch"], "idle": result["idle"]}
    ways = [way for way in (BASELINE, HEADRACE, ONE_SOCKET) if any(way in each for each in found.values())]
    against = result["against"]
    table = _table(f"Headrace and {TITLED[against]}", BASELINE if against == CAREFUL else against, *ways[1:])
    for case, each in found.items():
        rows = REST if case == "idle" else ROWS
        titles = {name: title for name, title in rows.items() if each[HEADRACE].get(name) is not None}
        for row in _rows(result, case, [each.get(way, {}) for way in ways], titles):
            table.add_row(*row)
        table.add_section()
    return table


def _growth(result: dict[str, Any]) -> Table:
    grown = result["growth"]
    stock = f"{grown['finished_rows']:,} finished, {grown['queued_rows']:,} queued"
    table = _table("The cost of a job in an empty ledger and in a full one", "empty", stock)
    for row in _rows(result, "growth", [grown["empty"], grown["full"]], GROWTH):
        table.add_row(*row)
    return table


def _rows(
    result: dict[str, Any], case: str, columns: list[dict[str, Any]], titles: dict[str, Title]
) -> Iterator[list[str]]:
    """One row a measure; the job is named in the first. The ratio is that of the first two columns."""
    for at, (name, (title, unit)) in enumerate(titles.items()):
        theirs, ours, *_ = values = [column.get(name) for column in columns]
        ratio = f"{number(ours / theirs)}x" if theirs and ours is not None else ""
        label = f"{title}, {unit}" if unit else title
        aims = [verdict(aim) for aim in result["aims"] if (aim["case"], aim["measure"]) == (case, name)]
        yield [TITLES[case] if at == 0 else "", label, *map(number, values), ratio, "; ".join(aims)]


def verdict(aim: dict[str, Any]) -> str:
    """What was asked, and whether it was reached."""
    of = f"{ONE_SOCKET} " if aim["of"] == ONE_SOCKET else ""
    return f"{of}{aim['aim']}: " + ("reached" if aim["reached"] else "[bold]missed[/bold]")
