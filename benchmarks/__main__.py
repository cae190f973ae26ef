"""The command; see `python -m benchmarks --help`."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks import KILLS, RESULT, SOCKETS, VAR, NotInstalled, kills, profiling, sockets
from benchmarks.cases import CAREFUL, SIZES, Size
from benchmarks.report import show, write
from benchmarks.rounds import Run
from benchmarks.stacks import Bench, Headrace
from benchmarks.theirs import AGAINST, Variant, make
from harness import HarnessError, short
from harness.signals import end_on_signals

FAILED, INTERRUPTED = 1, 130


def arguments() -> argparse.Namespace:
    about = "Run Headrace and another deployment side by side, and print their ratios."
    parser = argparse.ArgumentParser(prog="make bench", description=about)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="about a minute: enough to see that it works")
    length.add_argument("--full", action="store_true", help="more rounds, and a ledger of a million jobs; 15 minutes")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--kills", action="store_true", help="faults in the middle of some jobs, and what is lost by whom"
    )
    what.add_argument("--sockets", action="store_true", help="what 2,000 followers of one job cost, through nginx")
    what.add_argument("--profile", action="store_true", help="where the time of each kind of our processes goes")
    parser.add_argument(
        "--against", choices=AGAINST, help=f"what is in the baseline's place (default: {CAREFUL}; with --kills: each)"
    )
    web, keep = Variant().web, Variant().conn_max_age
    parser.add_argument("--baseline-web", type=int, default=web, metavar="N", help="the baseline's gunicorn workers")
    parser.add_argument(
        "--baseline-conn-max-age",
        type=int,
        default=keep,
        metavar="S",
        help="seconds that its Django keeps a database connection (default: %(default)s; Django's own default is 0)",
    )
    parser.add_argument(
        "--output", type=Path, help="where the figures go (default: var/bench.json, kills.json, sockets.json)"
    )
    return parser.parse_args()


def bench(options: argparse.Namespace, console: Console) -> None:
    """Start, measure, write, show; everything ends with the block, however it is left."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    size = SIZES["quick" if options.quick else "full" if options.full else "default"]
    if options.kills:
        few = kills.FEW if options.quick else kills.Size()
        found = kills.kills(options.against, few, say)
        write(found, options.output or KILLS)
        console.print(kills.table(found, few))
    elif options.sockets:
        found = sockets.sockets(sockets.FEW if options.quick else sockets.Size(), say)
        write(found, options.output or SOCKETS)
        console.print(sockets.table(found))
    elif options.profile:
        for table in profiling.tables(profiling.profile(size, say)):
            console.print(table)
        say(f"The stacks are in {short(VAR)}/profile-*.txt, for whatever draws flame graphs.")
    else:
        side_by_side(options, size, console, say)


def side_by_side(options: argparse.Namespace, size: Size, console: Console, say: Callable[[str], None]) -> None:
    against = options.against or CAREFUL
    variant = Variant(options.baseline_web, options.baseline_conn_max_age)
    with Bench(make(against, variant), Headrace) as stacks:
        stacks.start()
        say(f"{sum(len(side.units) for side in stacks.sides.values())} units are up")
        result = {**Run(stacks, size, against, say).all(), "against": against, "baseline": asdict(variant)}
    write(result, options.output or RESULT)
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
    return said if "log" in said or isinstance(error, NotInstalled) else f"{said} The logs are in {short(VAR)}."


if __name__ == "__main__":
    sys.exit(main())
