"""Connects Locust with the run: options, users, the shape, what workers tell their master, and the end.

`make load` runs it; so does `locust -f loadtests/locustfile.py --headless --shape smoke ...`, alone or with --master
and --worker. Workers are told the options by their master; each needs HEADRACE_TOKEN in its environment.
"""

import os
import signal
import sys
from dataclasses import asdict
from typing import Any

import gevent
from locust import LoadTestShape, User, events
from locust.runners import MasterRunner, WorkerRunner
from pydantic import TypeAdapter

from loadtests import LoadError, context, finish, shapes
from loadtests.context import News, Run
from loadtests.progress import Progress
from loadtests.users import CLOSED, Arrivals, Batch, Keyed, Poll, Single

__all__ = ["Arrivals", "Batch", "Keyed", "Poll", "Single", "Stages"]
GRACE_S = 10.0  # after a Ctrl-C, for the jobs that are under way
Environment = Any
NEWS = TypeAdapter(News)


@events.init_command_line_parser.add_listener
def options(parser: Any) -> None:
    """Add our options to Locust's."""
    group = parser.add_argument_group("Headrace")
    add = group.add_argument
    add("--shape", default="smoke", help="which shape of shapes.yml to run (default: smoke)")
    # empty, because workers are told the options, and their checkout may be elsewhere
    add("--shapes", default="", metavar="FILE", help="another file of shapes")
    add("--slo", default="", metavar="FILE", help="another file of limits")
    add("--lanes", default="", help="load only these lanes, with commas between")
    add("--scale", type=float, default=1.0, help="so many times the shape's users or rates")
    add("--stretch", type=float, default=1.0, help="so many times the length of each stage")
    add("--ca", default="", metavar="FILE", help="believe certificates of this private CA only (PEM)")
    add("--one-socket", action="store_true", help="one WebSocket tells a process of all ends, not one for each job")
    add("--fetch", default="", metavar="URL", help="a page that the server may fetch, where synthetic kinds are off")
    add("--plan", default="", metavar="FILE", help="the hosts' sizing plan, as deploy/sizing.py --json prints it")
    add("--out", default="", metavar="FOLDER", help="where the report goes (default: var/load/<shape>-<time>)")
    add("--jobs", action="store_true", help="keep what was seen of every job, in jobs.json beside the report")
    add("--no-pictures", action="store_true", help="leave out the PNGs (they take a Chromium)")


class Stages(LoadTestShape):
    """The chosen shape's stages; after the last one, time for the jobs that are under way."""

    ended_at = 0.0

    def tick(self) -> tuple[int, float, list[type[User]]] | None:
        """How many users there should be now, how many may start a second, and of which classes; None ends the run."""
        run = context.current()
        stage = None if run.ending.is_set() else run.shape.stage_at(run.elapsed)
        if stage is not None:
            return self._users(run, stage)
        if not self.ended_at:
            self.ended_at = self.get_run_time()
            self._end(run)
        return None if self._drained(run) else self.runner.shape_last_tick  # type: ignore[union-attr, return-value]

    def _users(self, run: Run, stage: shapes.Stage) -> tuple[int, float, list[type[User]]]:
        if run.shape.model == "open":
            return run.processes, run.processes, [Arrivals]
        return stage.users or 1, stage.spawn_rate, [CLOSED[way] for way in run.shape.ways]

    def _end(self, run: Run) -> None:
        run.ending.set()
        if isinstance(self.runner, MasterRunner):
            self.runner.send_message("ending")

    def _drained(self, run: Run) -> bool:
        patience = GRACE_S if run.interrupted else run.shape.deadline_s * 1.2
        return run.drained() or self.get_run_time() - self.ended_at > patience


def refuse(error: LoadError) -> None:
    """End the process with one sentence and the status of a mistake in usage."""
    print(error, file=sys.stderr)
    sys.stderr.flush()
    os._exit(2)  # Locust would go on


@events.init.add_listener
def begin(environment: Environment, runner: Any, **_: Any) -> None:
    """Prepare the run: mistakes of the user, and a server that does not fit, are found before a job is submitted."""
    if isinstance(runner, WorkerRunner):
        runner.register_message("ending", lambda **_: context.current().ending.set())
        return
    prepare(environment)
    gevent.signal_handler(signal.SIGINT, interrupt)


def prepare(environment: Environment) -> Run:
    """Prepare this process's run; its reports go to Locust's statistics."""
    given = environment.parsed_options
    given.host = environment.host or given.host

    def report(stage: str, name: str, seconds: float, failure: str) -> None:
        environment.events.request.fire(
            request_type=stage,
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=AssertionError(failure) if failure else None,
            context={},
        )

    try:
        run = context.prepare(given, report)
    except LoadError as error:
        refuse(error)
        raise
    for way, weight in run.shape.ways.items():
        CLOSED[way].weight = max(1, round(weight))
    return run


def interrupt() -> None:
    """On Ctrl-C submit no more; jobs that are under way get GRACE_S, after a second Ctrl-C no time at all."""
    run = context.current()
    if run.interrupted:
        run.impatient = True
    run.interrupted = True
    run.ending.set()


@events.test_start.add_listener
def start(environment: Environment, **_: Any) -> None:
    """Start the run's time. The number of processes that share the rate is an option, since workers are told these."""
    given, worker = environment.parsed_options, isinstance(environment.runner, WorkerRunner)
    if not worker:
        given.sharing = getattr(environment.runner, "worker_count", 1)
    run = prepare(environment) if worker else context.current()
    run.processes = given.sharing
    run.begin(worker)
    if not worker:
        run.hide_progress = Progress(run).stop


@events.report_to_master.add_listener
def tell(data: dict[str, Any], **_: Any) -> None:
    """In a worker: add its news to what Locust sends to the master."""
    if context.started():
        data["headrace"] = asdict(context.current().news())


@events.worker_report.add_listener
def hear(client_id: str, data: dict[str, Any], **_: Any) -> None:
    """In the master: take over a worker's news."""
    if news := data.get("headrace"):
        context.current().hear(client_id, NEWS.validate_python(news))


LAST: list[str] = []


@events.quitting.add_listener
def end(environment: Environment, **_: Any) -> None:
    """Audit the run, judge it, and write its report."""
    if isinstance(environment.runner, WorkerRunner):
        return
    environment.process_exit_code = finish.FAILED  # should anything below raise
    try:
        facts = finish.finish(context.current())
    except LoadError as error:
        refuse(error)
    LAST.append(finish.line(facts))
    finish.tell(facts, environment.parsed_options)
    environment.process_exit_code = finish.status(facts)


@events.quit.add_listener
def last(exit_code: int, **_: Any) -> None:
    """Print the last line of a run, after all of Locust's output."""
    for line in LAST:
        print(line, flush=True)
