"""One run: what it is about, asked for by options and by what the server says of itself. One a process."""

import argparse
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import gevent.event

from loadtests import LoadError, clock, shapes, slo, stores, watch
from loadtests.api import BROKEN, Api, NotAccepted, Target, why
from loadtests.client import Desk, Report
from loadtests.shapes import Shape, Stage
from loadtests.work import Page, Piece, choose

Json = dict[str, Any]
TOKEN = "HEADRACE_TOKEN"  # noqa: S105  (the name of a variable)
_current: list["Run"] = []


def started() -> bool:
    """Whether this process has a run yet."""
    return bool(_current)


def current() -> "Run":
    """The run of this process."""
    return _current[-1]


@dataclass
class Run:
    """Everything that the users, the watch and the report of one run share."""

    name: str
    target: Target
    desk: Desk
    lanes: dict[str, Json]
    limits: slo.Slo
    plan: Path | None
    lanes_seen: watch.Lanes
    host_seen: watch.Host
    stores_seen: stores.Stores
    processes: int = 1
    began: float = 0.0
    ended: float = 0.0
    interrupted: bool = False
    impatient: bool = False
    generator: watch.Generator = field(default_factory=watch.Generator)
    progress: Any = None
    generators: dict[str, list[Json]] = field(default_factory=dict)
    reports: dict[str, Json] = field(default_factory=dict)
    ending: gevent.event.Event = field(default_factory=gevent.event.Event)

    @property
    def shape(self) -> Shape:
        return self.desk.shape

    @property
    def hostname(self) -> str:
        return urlsplit(self.target.host).hostname or ""

    @property
    def loaded(self) -> list[str]:
        """The lanes that this run loads."""
        return sorted({piece.lane for piece in self.desk.pieces})

    @property
    def elapsed(self) -> float:
        return clock.now() - self.began if self.began else 0.0

    def stage(self) -> Stage | None:
        """Which stage has its turn."""
        return self.shape.stage_at(self.elapsed)

    def stage_name(self, at: float | None = None) -> str:
        """The name of the stage that has its turn, or had it then; after the last one, still the last one's."""
        elapsed = self.elapsed if at is None else at - self.began
        return (self.shape.stage_at(elapsed) or self.shape.stages[-1]).name

    def begin(self, worker: bool) -> None:
        """From now on, time counts, and we watch: a worker itself only."""
        self.began = clock.now()
        gevent.spawn(self.generator.tick)
        others = [] if worker else [self.lanes_seen.look, self.host_seen.look, self.stores_seen.look]
        for look in (self.generator.look, *others):
            watch.every(watch.EVERY_S, look)

    def drained(self) -> bool:
        """Whether nobody waits for a job any more; a master asks what its workers said after the end was rung."""
        if self.impatient:
            return True
        if self.reports:
            return all(one["ending"] and not one["busy"] for one in self.reports.values())
        return not self.desk.busy

    def offset(self) -> clock.Offset:
        """The clocks' offset as this process measured it; a master has only what its workers say, the best of it."""
        told = [clock.Offset(*one["offset"]) for one in self.reports.values()]
        return min([self.desk.clock.offset(), *told], key=lambda offset: offset.uncertainty)

    def news(self) -> Json:
        """What a worker tells its master."""
        bounds = self.desk.clock.offset()
        told = {"ending": self.ending.is_set(), "busy": self.desk.busy, "generator": self.generator.news()}
        return told | self.desk.ledger.news() | {"offset": [bounds.seconds, bounds.uncertainty]}

    def hear(self, worker: str, news: Json) -> None:
        """What a worker has told."""
        self.reports[worker] = news
        self.desk.ledger.learn(news)
        self.generators.setdefault(news["generator"]["name"], []).extend(news["generator"]["samples"])

    def rate(self, piece: Piece, stage: Stage) -> float:
        """Jobs a second of one piece in one stage, over all processes."""
        mine = [one for one in self.desk.pieces if one.lane == piece.lane]
        share = piece.weight / sum(one.weight for one in mine)
        load, rate = stage.of(piece.lane)
        if rate is not None:
            return rate * share
        cost = sum(one.work.cost_s * one.weight for one in mine) / sum(one.weight for one in mine)
        return float((load or 0.0) * self.lanes[piece.lane]["slots"] / cost * share)


def prepare(options: argparse.Namespace, report: Report) -> Run:
    """Read the files, ask the server what it offers, and choose the work.

    Raises:
        LoadError: something is missing or makes no sense.
    """
    if min(options.scale, options.stretch) <= 0:
        raise LoadError("--scale and --stretch must be above 0.")
    book = shapes.read(Path(options.shapes))
    shape = book.shape(options.shape).changed(options.stretch, options.scale)
    target = _target(options)
    offered, lanes = _asked(target)
    page = looked_at(options.fetch) if options.fetch else None
    pieces = choose(book, shape, offered, _wanted(options.lanes, lanes), page)
    desk = Desk(shape, pieces, report, lambda at: current().stage_name(at), page)
    limits, plan = slo.read(Path(options.slo)), Path(options.plan) if options.plan else None
    watched = watch.Lanes(Api(target)), watch.Host(target.host), stores.Stores()
    run = Run(options.shape, target, desk, lanes, limits, plan, *watched)
    for lane in run.loaded:
        if not lanes[lane]["slots"]:
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


def _asked(target: Target) -> tuple[dict[str, Json], dict[str, Json]]:
    api = Api(target)
    try:
        kinds = api.ask("GET", "/api/kinds").body["items"]
        lanes = api.ask("GET", "/api/lanes").body["items"]
    except NotAccepted as error:
        if error.status == 401:
            raise LoadError(f"{target.host} does not know this token: set {TOKEN} to one of its own.") from error
        raise LoadError(f"{target.host} cannot be used: {error}.") from error
    except (TypeError, KeyError) as error:
        raise LoadError(f"{target.host} answers, but not as Headrace does.") from error
    finally:
        api.close()
    return {kind["name"]: kind for kind in kinds}, {lane["name"]: lane for lane in lanes}


def _wanted(given: str | None, lanes: dict[str, Json]) -> set[str]:
    if not given:
        return set(lanes)
    wanted = {name.strip() for name in given.split(",") if name.strip()}
    if unknown := sorted(wanted - set(lanes)):
        raise LoadError(f"There is no lane {unknown[0]}: the server has {', '.join(sorted(lanes))}.")
    return wanted


def looked_at(url: str) -> Page:
    """What stands at an address now, so that the answers of `fetch` can be held against it."""
    import requests

    try:
        content = requests.get(url, timeout=10).content
    except (requests.RequestException, *BROKEN) as error:
        raise LoadError(f"--fetch {url} cannot be looked at: {why(error)}.") from error
    return Page(url, len(content), hashlib.sha256(content).hexdigest())
