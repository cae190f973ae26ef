"""The command; see `python -m demo --help`."""

import argparse
import asyncio
import contextlib
import sys
import time

from rich.console import Console

from demo.client import Client, Ended, table
from demo.stack import USER, Stack, refuse_taken_port
from harness import HarnessError, short
from harness.servers import redis_binary
from harness.signals import end_on_signals

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def port(text: str) -> int:
    """A port number; 0 is none."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description="Run Headrace here, and a job of every kind.")
    parser.add_argument("--once", action="store_true", help="stop after the table; exit 0 only if all was verified")
    parser.add_argument(
        "--port", type=port, default=8000, metavar="N", help="the address's port (default: %(default)s)"
    )
    return parser.parse_args()


def prepare(number: int) -> None:
    """Refuse, with one sentence, what cannot work, before anything runs."""
    try:
        refuse_taken_port(number)
        redis_binary()
    except HarnessError as error:
        print(error, file=sys.stderr)
        sys.exit(USAGE)


async def run_jobs(stack: Stack, console: Console) -> list[Ended]:
    """Run the client, while processes that end are started again."""
    watch = asyncio.create_task(stack.watch())
    jobs = asyncio.create_task(Client(stack.address, stack.token, console).run(stack.site))
    await asyncio.wait({watch, jobs}, return_when=asyncio.FIRST_COMPLETED)
    if watch.done():
        watch.result()  # raises what it found
    return await jobs


def welcome(stack: Stack) -> str:
    header = f"-H 'Authorization: Bearer {stack.token}'"
    return f"""
Headrace runs at {stack.address}/

  sign in      {USER} / {stack.password}
  the fleet    {stack.address}/fleet/
  the API      {stack.address}/api/docs
  API token    {stack.token}
  the logs     {short(stack.logs)}/

A job from a second terminal, and then its events (put its id into the address):
  curl {header} -H 'Content-Type: application/json' -d '{{"kind": "poster", "params": {{}}}}' {stack.address}/api/jobs
  curl -N {header} {stack.address}/api/jobs/ID/events

Ctrl-C stops everything."""


def demo(options: argparse.Namespace, console: Console) -> list[Ended]:
    """Start everything, run the jobs, show them; whatever happens, all processes have ended when this returns."""
    say = console.print
    with Stack(options.port, lambda text: say(text, markup=False, highlight=False)) as stack:
        began = time.monotonic()
        stack.start()
        say(f"{len(stack.units)} processes are up after {time.monotonic() - began:.1f} s; one job of every kind:")
        jobs = asyncio.run(run_jobs(stack, console))
        say(table(jobs))
        if not options.once:
            say(summary(jobs) + "\n" + welcome(stack), markup=False, highlight=False, soft_wrap=True)
            until_interrupted(stack)
            say("\nStopping.")
    return jobs


def until_interrupted(stack: Stack) -> None:
    """Start again what ends, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(stack.watch())


def summary(jobs: list[Ended]) -> str:
    return f"demo: {len(jobs)} jobs, {sum(job.verified for job in jobs)} verified"


def main() -> int:
    options = arguments()
    prepare(options.port)
    terminal = sys.stdout.isatty()
    console = Console(force_terminal=terminal, width=None if terminal else 130)
    try:
        end_on_signals()
        jobs = demo(options, console)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nStopped.")
        return INTERRUPTED
    print(summary(jobs))
    return 0 if all(job.verified for job in jobs) else FAILED


if __name__ == "__main__":
    sys.exit(main())
