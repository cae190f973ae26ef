"""`make drills`: holds the drills on a fleet, one after the other, and prints one table.

    make drills                                    all of them, on the local cluster (which must be up)
    make drills ARGS='worker-killed broker-wiped'  these
    make drills ARGS=--list                        what there is

On a fleet of your own: playbooks/drill.yml.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from drills.catalogue import BY_NAME, DRILLS, EVERY_TIME
from drills.drill import Drill, Row, hold
from drills.scene import Scene, enter
from harness import ROOT, HarnessError
from harness.signals import end_on_signals

COUNTS = ("jobs", "lost", "double", "wrong", "ran again", "failed requests")
COLUMNS = ("drill", "layer", *COUNTS, "longest wait", "recovery", "limit", "verdict")
FAILED, USAGE, INTERRUPTED = 1, 2, 130


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make drills", description=__doc__.split("\n")[0].partition(": ")[2])
    parser.add_argument("drills", nargs="*", metavar="DRILL", help="which ones; none: all")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--inventory", default="deploy/inventories/local", help="whose hosts (default: %(default)s)")
    parser.add_argument("--site", default="", help="where clients go (default: the edge)")
    parser.add_argument("--ca", default="", metavar="FILE", help="believe certificates of this private CA only (PEM)")
    options = parser.parse_args()
    if unknown := [name for name in options.drills if name not in BY_NAME]:
        parser.error(f"there is no drill {unknown[0]}; --list says what there is")
    return options


def cells(row: Row) -> list[str]:
    """A row of the table."""
    recovery = "-" if row.recovery_s is None else f"{row.recovery_s:.1f} s"
    counts = map(str, (row.jobs, row.lost, row.double, row.wrong, row.again, row.failed))
    return [
        row.drill,
        row.layer,
        *counts,
        f"{row.longest_s:.1f} s",
        recovery,
        f"{row.limit_s:g} s",
        "pass" if row.passed else "FAIL",
    ]


def table(rows: list[Row]) -> Table:
    """All of them."""
    found = Table(title="Drills")
    for name in COLUMNS:
        found.add_column(name, justify="left" if name in ("drill", "layer", "verdict") else "right")
    for row in rows:
        found.add_row(*cells(row), style=None if row.passed else "red")
    return found


def markdown(rows: list[Row]) -> str:
    """The table as docs/reliability.md shows it, with a star for what `make test` holds."""
    lines = [list(COLUMNS), [*["---"] * 2, *["---:"] * (len(COLUMNS) - 3), "---"]]
    for row in rows:
        name, *others = cells(row)
        lines.append([name + " *" * (name in EVERY_TIME), *others])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def last_line(rows: list[Row]) -> str:
    sums = (sum(getattr(row, name) for row in rows) for name in ("lost", "double", "wrong"))
    lost, double, wrong = sums
    return (
        f"drills: {len(rows)} run, {sum(row.passed for row in rows)} passed, "
        f"{lost} lost, {double} double, {wrong} wrong"
    )


def held(drill: Drill, scene: Scene, folder: Path) -> Row:
    """Its row; one that could not be held has failed."""
    try:
        return hold(drill, scene, folder)
    except HarnessError as error:
        return Row(drill.name, drill.layer, limit_s=drill.limit_s, held=False, complaints=[str(error)])


def run(chosen: list[Drill], options: argparse.Namespace, console: Console) -> list[Row]:
    """One after the other; each says how it went as soon as it is over."""
    scene = enter(options.inventory, options.site, options.ca)
    folder = ROOT / "var/drills" / time.strftime("%Y%m%d-%H%M%S")
    rows = []
    for drill in chosen:
        console.print(f"[bold]{drill.name}[/]: {drill.what}", highlight=False)
        began = time.monotonic()
        rows.append(row := held(drill, scene, folder / drill.name))
        took = time.monotonic() - began
        recovery = "" if row.recovery_s is None else f"full flow after {row.recovery_s:.1f} s, "
        verdict = "pass" if row.passed else "[red]FAIL[/]"
        console.print(
            f"  {verdict}: {row.jobs} jobs, {row.again} of them ran again, {recovery}{took:.0f} s in all",
            highlight=False,
        )
        for complaint in row.complaints:
            console.print(f"  [red]{escape(complaint)}[/]", highlight=False)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "drills.json").write_text(json.dumps([one.as_json() for one in rows], indent=1))
        (folder / "drills.md").write_text(markdown(rows))
        if not row.held:
            break
    console.print(f"the loads and their reports: {folder.relative_to(ROOT)}", highlight=False)
    return rows


def main() -> int:
    options = arguments()
    console = Console(width=None if sys.stdout.isatty() else 150)
    if options.list:
        for drill in DRILLS:
            console.print(f"{drill.name:<26}{drill.layer:<10}{drill.what}", highlight=False)
        return 0
    chosen = [BY_NAME[name] for name in options.drills] or DRILLS
    try:
        end_on_signals()
        rows = run(chosen, options, console)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nStopped; a fault that was made has been taken back.", file=sys.stderr)
        return INTERRUPTED
    console.print(table(rows))
    console.print(last_line(rows), highlight=False, soft_wrap=True)
    return 0 if all(row.passed for row in rows) else FAILED


if __name__ == "__main__":
    sys.exit(main())
