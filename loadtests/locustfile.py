"""Ties Locust to the run: options, users, the shape, what workers tell their master, and the end.

`make load` runs it; so does `locust -f loadtests/locustfile.py --headless --shape smoke ...`, alone or with --master
and --worker. Workers are told the options by their master; each needs HEADRACE_TOKEN in its environment.
"""

import os
import signal
import sys
from typing import Any

import gevent
from locust import LoadTestShape, User, events
from locust.runners import MasterRunner, WorkerRunner

from loadtests import LoadError, context, finish, progress, shapes, slo
from loadtests.context import Run
from loadtests.users.closed import CLOSED, Batch, Keyed, Poll, Single
from loadtests.users.open import Arrivals

__all__ = ["Arrivals", "Batch", "Keyed", "Poll", "Single", "Stages"]
GRACE_S = 10.0  # after a Ctrl-C, for the jobs that are under way
Environment = Any


@events.init_command_line_parser.add_listener
def options(parser: Any) -> None:
    """What a run may be told."""
    group = parser.add_argument_group("Headrace")
    add = group.add_argument
    add("--shape", default="smoke", help="which shape of shapes.yml to run (default: smoke)")
    add("--shapes", default=str(shapes.BOOK), metavar="FILE", help="another file of shapes")
    add("--slo", default=str(slo.LIMITS), metavar="FILE", help="another file of limits")
    add("--lanes", default="", help="load only these lanes, with commas between")
    add("--scale", type=float, default=1.0, help="so many times the shape's users or rates")
    add("--stretch", type=float, default=1.0, help="so many times the length of each stage")
    add("--ca", default="", metavar="FILE", help="believe certificates of this private CA only (PEM)")
    add("--fetch", default="", metavar="URL", help="a page that the server may fetch, where synthetic kinds are off")
    add("--plan", default="", metavar="FILE", help="the hosts' sizing plan, as deploy/sizing.py --json prints it")
    add("--out", default="", metavar="FOLDER", help="where the report goes (default: var/load/<shape>-<time>)")
    add("--jobs", action="store_true", help="keep what was seen of every job, in jobs.json beside the report")
    add("--no-pictures", action="store_true", help="leave out the PNGs (they take a Chromium)")


class Stages(LoadTestShape):
    """The chosen shape's stages; after the last one, time for the jobs that are under way."""

    ended_at = 0.0

    def tick(self) -> tuple[int, float, list[type[User]]] | None:
        """How many users there should be now."""
        run = context.current()
        stage = None if run.ending.is_set() else run.stage()
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


# ---- start ----------------------------------------------------------------------------------------------------------


def refuse(error: LoadError) -> None:
    """One sentence, and the status of a mistake."""
    print(error, file=sys.stderr)
    sys.stderr.flush()
    os._exit(2)  # Locust would go on


@events.init.add_listener
def begin(environment: Environment, runner: Any, **_: Any) -> None:
    """Ask the server what it offers; whatever can be wrong is wrong before anything runs."""
    if isinstance(runner, WorkerRunner):
        runner.register_message("ending", lambda **_: context.current().ending.set())
        runner.register_message("processes", lambda msg, **_: told_processes(msg.data))
        return
    prepare(environment)
    gevent.signal_handler(signal.SIGINT, interrupt)


PROCESSES = [1]


def told_processes(data: Any) -> None:
    """How many of us share the rate."""
    PROCESSES[0] = data["processes"]


def prepare(environment: Environment) -> Run:
    """This process's run."""
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
    """Ctrl-C: no new jobs; those under way get GRACE_S, or no time at all at the second Ctrl-C."""
    run = context.current()
    if run.interrupted:
        run.impatient = True
    run.interrupted = True
    run.ending.set()


@events.test_start.add_listener
def start(environment: Environment, **_: Any) -> None:
    """From now on, time counts."""
    runner = environment.runner
    worker = isinstance(runner, WorkerRunner)
    run = prepare(environment) if worker else context.current()
    run.processes = PROCESSES[0] if worker else getattr(runner, "worker_count", 1)
    if isinstance(runner, MasterRunner):
        runner.send_message("processes", {"processes": run.processes})
    run.begin(worker)
    if not worker:
        run.progress = progress.show(run)


# ---- from workers to the master -------------------------------------------------------------------------------------


@events.report_to_master.add_listener
def tell(data: dict[str, Any], **_: Any) -> None:
    """A worker's news."""
    if context.started():
        data["headrace"] = context.current().news()


@events.worker_report.add_listener
def hear(client_id: str, data: dict[str, Any], **_: Any) -> None:
    """The master's share of it."""
    if news := data.get("headrace"):
        context.current().hear(client_id, news)


# ---- end ------------------------------------------------------------------------------------------------------------

LAST: list[str] = []


@events.quitting.add_listener
def end(environment: Environment, **_: Any) -> None:
    """Audit, judge, report."""
    if isinstance(environment.runner, WorkerRunner):
        return
    environment.process_exit_code = finish.FAILED  # unless all that follows goes well
    try:
        facts = finish.finish(context.current())
    except LoadError as error:
        refuse(error)
    LAST.append(facts["line"])
    finish.tell(facts, environment.parsed_options)
    environment.process_exit_code = facts["status"]


@events.quit.add_listener
def last(exit_code: int, **_: Any) -> None:
    """The last line of a run, after all that Locust has to say."""
    for line in LAST:
        print(line, flush=True)
