"""The command; see `python -m benchmarks --help`."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks import RESULT, VAR
from benchmarks.cases import SIZES
from benchmarks.report import show, write
from benchmarks.rounds import Run
from benchmarks.stacks import Bench, Variant
from harness import HarnessError, short
from harness.signals import end_on_signals

FAILED, INTERRUPTED = 1, 130


def arguments() -> argparse.Namespace:
    about = "Run Headrace and the deployment that most people copy side by side, and print their ratios."
    parser = argparse.ArgumentParser(prog="make bench", description=about)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="about a minute: enough to see that it works")
    length.add_argument("--full", action="store_true", help="more rounds, and a ledger of a million jobs; ten minutes")
    web, keep = Variant().web, Variant().conn_max_age
    parser.add_argument("--baseline-web", type=int, default=web, metavar="N", help="the baseline's gunicorn workers")
    parser.add_argument(
        "--baseline-conn-max-age",
        type=int,
        default=keep,
        metavar="S",
        help="seconds that its Django keeps a database connection (default: %(default)s; Django's own default is 0)",
    )
    parser.add_argument("--output", type=Path, default=RESULT, help="where the figures go (default: var/bench.json)")
    return parser.parse_args()


def bench(options: argparse.Namespace, console: Console) -> None:
    """Start, measure, write, show; everything ends with the block, however it is left."""
    size = SIZES["quick" if options.quick else "full" if options.full else "default"]

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    variant = Variant(options.baseline_web, options.baseline_conn_max_age)
    with Bench(variant) as stacks:
        stacks.start()
        say(f"{sum(len(side.units) for side in stacks.sides.values())} units are up")
        result = Run(stacks, size, say).all()
    write({**result, "baseline": asdict(variant)}, options.output)
    show(result, console)


def main() -> int:
    options = arguments()
    terminal = sys.stdout.isatty()
    console = Console(force_terminal=terminal, width=None if terminal else 130)
    try:
        end_on_signals()
        bench(options, console)
    except (HarnessError, OSError, ExceptionGroup) as error:
        print(_sentence(error), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _sentence(error: Exception) -> str:
    """What went wrong first, where many clients failed together."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    said = "The rounds took far too long." if isinstance(error, TimeoutError) else str(error)
    return said if "log" in said else f"{said} The logs are in {short(VAR)}."


if __name__ == "__main__":
    sys.exit(main())
