"""The table that people read, and the file that programs read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cases import BASELINE, CASES, HEADRACE
from benchmarks.figures import KINDS, TITLES

Title = tuple[str, str]
# measure: (title, unit); docs/benchmarks.md says what each means
ROWS = {
    "rate": ("rate at saturation", "jobs/s"),
    "cpu": ("CPU per job", "ms"),
    **{f"cpu_{kind}": (f"  {kind}", "ms") for kind in KINDS},
    "efficiency": ("efficiency of the lane", ""),
    "neighbours": ("cores used by others", ""),
    "commands": ("Redis commands per job", ""),
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
    for aim in missed:
        measure = ROWS[aim["measure"]][0] if aim["measure"] in ROWS else GROWTH[aim["measure"]][0]
        console.print(f"  missed: {TITLES[aim['case']]}, {measure}: {number(aim['value'])}, aim {aim['aim']}")


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(title: str, first: str, second: str) -> Table:
    table = Table(title=title)
    for name in ("job", "measure"):
        table.add_column(name)
    for name in (first, second, "ratio"):
        table.add_column(name, justify="right")
    table.add_column("aim")
    return table


def _cases(result: dict[str, Any]) -> Table:
    table = _table("Headrace and the deployment that most people copy", BASELINE, HEADRACE)
    for case in CASES:
        found = result["cases"][case.name]
        titles = {name: title for name, title in ROWS.items() if found[HEADRACE].get(name) is not None}
        for row in _rows(result, case.name, (found[BASELINE], found[HEADRACE]), titles):
            table.add_row(*row)
        table.add_section()
    return table


def _growth(result: dict[str, Any]) -> Table:
    grown = result["growth"]
    stock = f"{grown['finished_rows']:,} finished, {grown['queued_rows']:,} queued"
    table = _table("The cost of a job in an empty ledger and in a full one", "empty", stock)
    for row in _rows(result, "growth", (grown["empty"], grown["full"]), GROWTH):
        table.add_row(*row)
    return table


def _rows(
    result: dict[str, Any], case: str, columns: tuple[dict[str, Any], dict[str, Any]], titles: dict[str, Title]
) -> Iterator[list[str]]:
    """One row a measure; the job is named in the first."""
    first, second = columns
    aims = {aim["measure"]: aim for aim in result["aims"] if aim["case"] == case}
    for at, (name, (title, unit)) in enumerate(titles.items()):
        theirs, ours = first.get(name), second.get(name)
        ratio = f"{number(ours / theirs)}x" if theirs and ours is not None else ""
        label = f"{title}, {unit}" if unit else title
        yield [TITLES[case] if at == 0 else "", label, number(theirs), number(ours), ratio, _verdict(aims.get(name))]


def _verdict(aim: dict[str, Any] | None) -> str:
    if aim is None:
        return ""
    return f"{aim['aim']}: " + ("reached" if aim["reached"] else "[bold]missed[/bold]")
