"""The command `.venv/bin/python deploy/sizing.py`, which prints the workers that a host gets, and why."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NoReturn

from config.lanes import LaneTableError, load
from deploy.measure import measure
from deploy.sizing import LanePlan, SizingError, size_host

COLUMNS = {
    "lane": "lane",
    "pool": "pool",
    "instances": "instances",
    "concurrency": "concurrency",
    "prefetch": "prefetch_multiplier",
    "MB each": "memory_max_mb",
    "CPU weight": "cpu_weight",
    "stop s": "stop_timeout_s",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _refuse(f"{message[0].upper()}{message[1:]}.")


def _refuse(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)  # noqa: T201
    sys.exit(2)


def _arguments() -> argparse.Namespace:
    parser = _Parser(prog="sizing.py", description="Print the workers that a host gets, and why.")
    parser.add_argument(
        "--cores", type=int, help="cores of the host (default: of this machine, as far as we may use it)"
    )
    parser.add_argument("--memory-mb", type=int, help="memory of the host in MiB (default: likewise)")
    parser.add_argument("--lanes", help="the lanes it serves, with commas between (default: all)")
    parser.add_argument("--reserve-mb", type=int, help="memory kept for the system (default: a tenth, at least 256)")
    parser.add_argument("--override", action="append", default=[], metavar="LANE.FIELD=N", help="replace a value")
    parser.add_argument("--host", default="this host", help="its name, for messages")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    return parser.parse_args()


def _load_lanes() -> Mapping[str, Any]:
    try:
        return load().lanes
    except LaneTableError as error:
        raise SizingError(str(error)) from error


def _pick(table: Mapping[str, Any], names: str | None) -> dict[str, Any]:
    wanted = list(table) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in table]:
        raise SizingError(f"There is no lane {unknown[0]}: the lane table has {', '.join(sorted(table))}.")
    return {name: table[name] for name in wanted}


def _parse_overrides(words: list[str]) -> dict[str, dict[str, int]]:
    overrides: dict[str, dict[str, int]] = {}
    for word in words:
        target, _, value = word.partition("=")
        lane, _, field = target.partition(".")
        if not (lane and field and value.isdecimal()):
            raise SizingError(f"The override {word} cannot be read: write it like cpu.concurrency=3.")
        overrides.setdefault(lane, {})[field] = int(value)
    return overrides


def _table(plans: list[LanePlan]) -> str:
    text = [list(COLUMNS), *([str(getattr(plan, field)) for field in COLUMNS.values()] for plan in plans)]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in text]
    return "\n".join([*lines, "", *(f"{plan.lane}: {plan.why}" for plan in plans)])


def main() -> None:
    """Print a table or JSON; a mistake is one sentence, and the status is 2."""
    options = _arguments()
    try:
        here = measure() if None in (options.cores, options.memory_mb) else (0, 0)
        plans = size_host(
            _pick(_load_lanes(), options.lanes),
            here[0] if options.cores is None else options.cores,
            here[1] if options.memory_mb is None else options.memory_mb,
            overrides=_parse_overrides(options.override),
            reserve_mb=options.reserve_mb,
            host=options.host,
        )
    except SizingError as error:
        _refuse(str(error))
    print(json.dumps([asdict(plan) for plan in plans], indent=2) if options.json else _table(plans))  # noqa: T201
