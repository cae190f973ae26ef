"""One run, prepared from the options and from what the server says of itself. A process has one at most."""

import argparse
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import gevent
import gevent.event

from loadtests import LoadError, clock, shapes, slo, watch
from loadtests.api import BROKEN, Api, NotAccepted, Target, why
from loadtests.client import Desk, Report
from loadtests.ends import Ends
from loadtests.ledger import LedgerNews
from loadtests.samples import GeneratorSample, Lane
from loadtests.shapes import Shape, Stage
from loadtests.work import Offered, Page, Piece, choose

TOKEN = "HEADRACE_TOKEN"  # noqa: S105  (the name of a variable)
_current: list["Run"] = []


def started() -> bool:
    """Whether this process has a run yet."""
    return bool(_current)


def current() -> "Run":
    """The run of this process."""
    return _current[-1]


@dataclass(frozen=True)
class News:
    """What a worker tells its master, every few seconds."""

    ending: bool  # it submits no more
    busy: int  # clients
    generator: str  # its name
    samples: list[GeneratorSample]  # since the last time
    ledger: LedgerNews
    offset: clock.Offset


@dataclass
class Run:
    """What the users, the samples and the report of one run share. `began` and `ended` are moments of our clock."""

    name: str
    target: Target
    desk: Desk
    lanes: dict[str, Lane]
    limits: slo.Slo
    plan: Path | None
    lanes_seen: watch.Lanes
    host_seen: watch.Host
    stores_seen: watch.Stores
    processes: int = 1
    began: float = 0.0
    ended: float = 0.0
    interrupted: bool = False  # by a Ctrl-C
    impatient: bool = False  # by a second one
    generator: watch.Generator = field(default_factory=watch.Generator)
    hide_progress: Callable[[], None] = lambda: None
    generators: dict[str, list[GeneratorSample]] = field(default_factory=dict)  # a master's workers', by their name
    reports: dict[str, News] = field(default_factory=dict)  # a master's latest, by worker
    ending: gevent.event.Event = field(default_factory=gevent.event.Event)

    @property
    def shape(self) -> Shape:
        return self.desk.shape

    @property
    def elapsed(self) -> float:
        return clock.now() - self.began if self.began else 0.0

    def stage_name(self, at: float | None = None) -> str:
        """The name of the stage that runs now, or ran at a moment of our clock; after the last one, the last one's."""
        elapsed = self.elapsed if at is None else at - self.began
        return (self.shape.stage_at(elapsed) or self.shape.stages[-1]).name

    def begin(self, worker: bool) -> None:
        """Start the time and the samples; a worker takes samples of itself only."""
        self.began = clock.now()
        gevent.spawn(self.generator.tick)
        others = [] if worker else [self.lanes_seen.look, self.host_seen.look, self.stores_seen.look]
        for look in (self.generator.look, *others):
            watch.every(watch.EVERY_S, look)

    def drained(self) -> bool:
        """Whether no client waits for a job any more; a master goes by what its workers said since they were ended."""
        if self.impatient:
            return True
        if self.reports:
            return all(one.ending and not one.busy for one in self.reports.values())
        return not self.desk.busy

    def offset(self) -> clock.Offset:
        """The clocks' offset as this process measured it; in a master, the most certain that its workers measured."""
        told = [one.offset for one in self.reports.values()]
        return min([self.desk.clock.offset(), *told], key=lambda offset: offset.uncertainty)

    def news(self) -> News:
        """What a worker tells its master."""
        seen, known = self.generator.news(), self.desk.ledger.news()
        return News(self.ending.is_set(), self.desk.busy, self.generator.name, seen, known, self.desk.clock.offset())

    def hear(self, worker: str, news: News) -> None:
        """Take over what a worker has told."""
        self.reports[worker] = news
        self.desk.ledger.learn(news.ledger)
        self.generators.setdefault(news.generator, []).extend(news.samples)

    def rate(self, piece: Piece, stage: Stage) -> float:
        """Jobs a second of one piece in one stage of an open shape, over all processes."""
        mine = [one for one in self.desk.pieces if one.lane == piece.lane]
        share = piece.weight / sum(one.weight for one in mine)
        load, rate = stage.of(piece.lane)
        if rate is not None:
            return rate * share
        cost = sum(one.work.cost_s * one.weight for one in mine) / sum(one.weight for one in mine)
        return (load or 0.0) * self.lanes[piece.lane].slots / cost * share


def prepare(options: argparse.Namespace, report: Report) -> Run:
    """Read the files, ask the server what it offers, choose the work, and make it this process's run.

    Raises:
        LoadError: something is missing or makes no sense.
    """
    if min(options.scale, options.stretch) <= 0:
        raise LoadError("--scale and --stretch must be above 0.")
    book = shapes.read(Path(options.shapes or shapes.BOOK))
    shape = book.shape(options.shape).changed(options.stretch, options.scale)
    target = _target(options)
    offered, lanes = _asked(target)
    page = looked_at(options.fetch) if options.fetch else None
    pieces = choose(book, shape, offered, _wanted(options.lanes, lanes), page)
    ends = Ends(Api(target), shape.deadline_s) if options.one_socket else None
    desk = Desk(shape, pieces, report, lambda at: current().stage_name(at), page, ends)
    limits, plan = slo.read(Path(options.slo or slo.LIMITS)), Path(options.plan) if options.plan else None
    watched = watch.Lanes(Api(target)), watch.Host(target.host), watch.Stores()
    run = Run(options.shape, target, desk, lanes, limits, plan, *watched)
    for lane in sorted({piece.lane for piece in pieces}):
        if not lanes[lane].slots:
            raise LoadError(f"No worker serves the {lane} lane now: start one, or leave the lane out with --lanes.")
    _current.append(run)
    return run


def _target(options: argparse.Namespace) -> Target:
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise LoadError(f"{TOKEN} is not set: make a token with `manage.py create_api_token USER`, or take the demo's.")
    host = (options.host or "").rstrip("/")
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LoadError(f"--host {host or '(none)'} is no address: give one like https://headrace.example.")
    return Target(host, token, Path(options.ca) if options.ca else None)


def _asked(target: Target) -> tuple[Offered, dict[str, Lane]]:
    """The server's kinds and lanes, by name."""
    api = Api(target)
    try:
        kinds = api.ask("GET", "/api/kinds").body["items"]
        lanes = api.ask("GET", "/api/lanes").body["items"]
        found = {one["name"]: Lane(one["pool"], one["slots"], one["latency_target_s"]) for one in lanes}
        return {kind["name"]: kind["lane"] for kind in kinds}, found
    except NotAccepted as error:
        if error.status == 401:
            raise LoadError(f"{target.host} does not know this token: set {TOKEN} to one of its own.") from error
        raise LoadError(f"{target.host} cannot be used: {error}.") from error
    except (TypeError, KeyError) as error:
        raise LoadError(f"{target.host} answers, but not as Headrace does.") from error
    finally:
        api.close()


def _wanted(given: str | None, lanes: dict[str, Lane]) -> set[str]:
    if not given:
        return set(lanes)
    wanted = {name.strip() for name in given.split(",") if name.strip()}
    if unknown := sorted(wanted - set(lanes)):
        raise LoadError(f"There is no lane {unknown[0]}: the server has {', '.join(sorted(lanes))}.")
    return wanted


def looked_at(url: str) -> Page:
    """Read a page, so that the results of `fetch` can be compared with it.

    Raises:
        LoadError: it cannot be read.
    """
    import requests

    try:
        content = requests.get(url, timeout=10).content
    except (requests.RequestException, *BROKEN) as error:
        raise LoadError(f"--fetch {url} cannot be looked at: {why(error)}.") from error
    return Page(url, len(content), hashlib.sha256(content).hexdigest())
