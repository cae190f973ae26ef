"""One drill: load on every lane, a fault in the middle of it, the recovery, and the audit of every promise."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from drills.hosts import DrillError
from drills.scene import Scene
from harness import ROOT
from harness.processes import Process, environment
from harness.waiting import wait_until
from loadtests import shapes

Json = dict[str, Any]
RATES = {"cpu": 0.9, "io": 2.0, "quick": 2.0}
"""Jobs a second. Far below what the lanes can do: a job that waits long waits because of the fault."""
WORK = {
    "burn": {"kind": "burn", "lane": "cpu", "params": {"lane": "cpu", "ms": 100}, "cost_s": 0.1},
    "digest": {"kind": "digest", "lane": "quick", "params": {}, "cost_s": 0.02},
    "cpu nap": {"kind": "wait", "lane": "cpu", "params": {"lane": "cpu", "ms": 1500}, "cost_s": 1.5},
    "io nap": {"kind": "wait", "lane": "io", "params": {"lane": "io", "ms": 1500}, "cost_s": 1.5},
    "quick nap": {"kind": "wait", "lane": "quick", "params": {"lane": "quick", "ms": 500}, "cost_s": 0.5},
}
MIX = {"burn": 2, "cpu nap": 1, "io nap": 1, "digest": 5, "quick nap": 1}
"""Short jobs, and some that are long enough to be hit."""
CALM_JOBS = 20
"""The fault is made once this many jobs have succeeded."""
LATE_S = 3.0
"""A client that waits this much longer than its job takes has waited because of the fault."""
LEAST_S = 12.0
"""The load goes on this long after the fault at least: a lost message shows after HEADRACE_LOST_AFTER_S."""
SETTLED_S = 5.0
"""And this long after jobs flow as before."""
AT_WORK_S = 120.0
"""A worker that hangs may take this much longer: systemd's watchdog restarts it."""
MOST_S = 600.0
"""The load ends by itself after this."""
ATTEMPTS = 2

Act = Callable[[Scene], None]
Check = Callable[[Scene], str]


def nothing(_: Scene) -> None:
    """A fault that mends itself."""


def content(_: Scene) -> str:
    """The audit is enough."""
    return ""


@dataclass(frozen=True)
class Drill:
    """A fault, made on purpose.

    `outage_s` lies between fault and heal. The recovery is counted from the fault, or from the heal if nothing can work
    before it (`returns`), and may take `limit_s`; no client may wait longer than `longest_s` for a job. `failed`:
    how many requests clients may see fail; those were retried or never promised. `kills`: it ends what runs jobs, or
    cuts it off for longer than a lease; after any other fault no job may have run again. `check`: what else must hold;
    a complaint, or nothing. `prepare` and `clean` are done without load, before and after.
    """

    name: str
    layer: str
    what: str
    fault: Act
    heal: Act = nothing
    outage_s: float = 0.0
    returns: bool = False
    limit_s: float = 30.0
    longest_s: float = 60.0
    failed: int = 0
    attempts: int = ATTEMPTS
    kills: bool = False
    check: Check = content
    prepare: Act = nothing
    clean: Act = nothing


@dataclass
class Row:
    """What came of a drill."""

    drill: str
    layer: str
    jobs: int = 0
    lost: int = 0
    double: int = 0
    wrong: int = 0
    failed: int = 0
    recovery_s: float | None = None
    limit_s: float = 0.0
    longest_s: float = 0.0
    again: int = 0
    attempts: int = 0
    held: bool = True
    complaints: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.complaints

    def as_json(self) -> Json:
        return asdict(self) | {"passed": self.passed}


def hold(drill: Drill, scene: Scene, folder: Path) -> Row:
    """Hold one drill.

    Raises:
        DrillError: it could not be held, because the fleet is not whole or the drill does not fit it.
    """
    if missing := scene.until_whole():
        raise DrillError(f"The fleet is not whole before the drill {drill.name}: there is no {', no '.join(missing)}.")
    scene.kept.clear()
    try:
        drill.prepare(scene)
        row = _under_load(drill, scene, folder)
    finally:
        drill.clean(scene)
    if missing := scene.until_whole():
        row.complaints.append(f"not whole again: no {', no '.join(missing)}")
    return row


def _under_load(drill: Drill, scene: Scene, folder: Path) -> Row:
    row = Row(drill.name, drill.layer, limit_s=drill.limit_s)
    load = Load(scene, folder, drill.outage_s + drill.limit_s + 60)
    counted_from = fault_at = time.time()
    try:
        load.until_it_flows(scene)
        fault_at = counted_from = time.time()
        try:
            drill.fault(scene)
            time.sleep(drill.outage_s)  # the outage itself: nothing to wait for
        finally:
            drill.heal(scene)
        counted_from = time.time() if drill.returns else fault_at
        row.complaints += [said] if (said := drill.check(scene)) else []
        load.until_calm(scene, counted_from + drill.limit_s + 20, max(fault_at, counted_from) + LEAST_S)
    except (TimeoutError, httpx2.HTTPError, subprocess.SubprocessError) as error:
        row.complaints.append(f"{type(error).__name__}: {error}"[:500])
    finally:
        load.end()
    judge(row, drill, load, counted_from)
    return row


class Load:
    """A steady load on every lane, from this machine, through the edge; it runs until it is ended."""

    def __init__(self, scene: Scene, folder: Path, deadline_s: float) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # findings of another run would be taken for ours
        folder.mkdir(parents=True)
        self.folder, self.began = folder, time.time()
        book = yaml.safe_load(shapes.BOOK.read_text())
        book["work"] |= WORK
        book["shapes"] = {
            "drill": {
                "summary": "A steady load, and a fault in the middle of it.",
                "model": "open",
                "work": MIX,
                "ways": {"single": 3, "keyed": 1, "poll": 1},
                "deadline_s": deadline_s,
                "stages": [{"name": "drill", "seconds": MOST_S, "rate": RATES}],
            }
        }
        (folder / "shapes.yml").write_text(yaml.safe_dump(book))
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "loadtests",
            "--shapes",
            folder / "shapes.yml",
            "--shape",
            "drill",
        ]
        command += ["--host", scene.site, "--out", folder, "--jobs", "--no-pictures"]
        command += ["--ca", scene.ca] if scene.ca else []
        env = environment(HEADRACE_TOKEN=scene.token)
        self.process = Process("load", command, folder / "load.log", ending=signal.SIGINT, cwd=ROOT, env=env)

    def until_it_flows(self, scene: Scene) -> None:
        """Jobs come back, from every worker."""
        self._until_all_work(scene, self.began, time.time() + 60)
        wait_until(
            lambda: self.process.alive() and len(scene.done_since(self.began)) >= CALM_JOBS, 60, "jobs come back"
        )

    def _until_all_work(self, scene: Scene, since: float, at_most: float) -> None:
        """Wait until every worker has run a job that was submitted since then: being up is not enough."""
        idle = {name for names in scene.workers.values() for name in names}
        while idle and self.process.alive():
            if time.time() > at_most:
                raise TimeoutError(f"these workers are up, but have run no job: {', '.join(sorted(idle))}")
            with suppress(httpx2.HTTPError):
                idle -= {job["worker"] for job in scene.done_since(since)}
            time.sleep(0.2)

    def until_calm(self, scene: Scene, at_most: float, at_least: float) -> None:
        """The load goes on until nobody has waited for long, for some seconds, or until the time is over; and until
        every worker works.
        """
        calm_since = None
        while self.process.alive() and (now := time.time()) < at_most:
            calm_since = (calm_since or now) if scene.calm() else None
            if now > at_least and calm_since and now - calm_since > SETTLED_S:
                break
            time.sleep(0.3)
        self._until_all_work(scene, at_least - LEAST_S, at_most + AT_WORK_S)

    def end(self) -> None:
        """No new jobs; those under way are seen through; then its audit."""
        self.process.stop(240)

    def found(self) -> tuple[Json, list[Json]]:
        """Its findings, and its jobs.

        Raises:
            DrillError: it has none.
        """
        try:
            run, jobs = (json.loads((self.folder / name).read_text()) for name in ("run.json", "jobs.json"))
        except (OSError, ValueError) as error:
            raise DrillError(f"The load has left no findings ({error}): {self.process.output()[-600:]}") from error
        return run, jobs


def judge(row: Row, drill: Drill, load: Load, counted_from: float) -> None:
    """Fill in a row from what the load found."""
    run, jobs = load.found()
    audit = run["audit"]
    row.jobs = audit["submitted"]
    row.lost, row.double, row.wrong = (audit[name] for name in ("lost", "double", "wrong"))
    row.failed = sum(audit["refused"].values()) + audit["failed"]
    row.again = sum(job["attempt"] > 1 for job in jobs)
    row.attempts = max((job["attempt"] for job in jobs), default=0)
    row.recovery_s = recovery(jobs, counted_from)
    row.longest_s = max(waits(jobs), default=0.0)
    row.complaints += [f"{one['verdict']} {one['id']}: {one['why']}" for one in audit["exceptions"][:3]]
    if row.jobs < CALM_JOBS:
        row.complaints.append(f"only {row.jobs} jobs were submitted, too few to show anything")
    if row.recovery_s > drill.limit_s:
        row.complaints.append(f"full flow after {row.recovery_s:.1f} s; the limit is {drill.limit_s:g} s")
    if row.longest_s > drill.longest_s:
        row.complaints.append(
            f"a client waited {row.longest_s:.1f} s because of the fault; the limit is {drill.longest_s:g} s"
        )
    if row.failed > drill.failed:
        row.complaints.append(
            f"{row.failed} requests failed; the limit is {drill.failed}: {list(audit['refused'])[:2]}"
        )
    if row.again and not drill.kills:
        row.complaints.append(f"{row.again} jobs ran again, and nothing that ran them died")
    if row.attempts > drill.attempts:
        row.complaints.append(f"a job took {row.attempts} attempts; the limit is {drill.attempts}")


def recovery(jobs: list[Json], counted_from: float) -> float:
    """Seconds until the last client that waited because of the fault had its job; 0 if nobody did."""
    late = [_told_at(job, jobs) for job, waited in zip(jobs, waits(jobs), strict=True) if waited > LATE_S]
    return max(0.0, max(late, default=0.0) - counted_from)


def waits(jobs: list[Json]) -> list[float]:
    """How long each client waited beyond its job's own length, in seconds."""
    return [_told_at(job, jobs) - job["due_at"] - job["params"].get("ms", 0) / 1000 for job in jobs]


def _told_at(job: Json, jobs: list[Json]) -> float:
    """A client that was never told waits until the end."""
    return float(job["told_at"] or max(one["told_at"] or one["due_at"] for one in jobs))
