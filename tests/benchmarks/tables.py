"""What a table of the benchmark says."""

import io
from typing import Any

from rich.console import Console


def console() -> Console:
    """One that keeps what it was given to print."""
    return Console(width=200, record=True, file=io.StringIO())


def rows(shown: Any) -> list[list[str]]:
    """The cells of each row of a table, or of a console that has printed some."""
    if not isinstance(shown, Console):
        table, shown = shown, console()
        shown.print(table)
    return [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in shown.export_text().splitlines() if "│" in line
    ]
