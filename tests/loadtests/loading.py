"""A started demo, and runs of the load test against it, from the command line."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import ROOT
from harness.waiting import free_port, wait_until

PATIENCE_S = 180
WORK = {
    "wait": {"kind": "wait", "lane": "io", "params": {"lane": "io", "ms": 200}, "cost_s": 0.2},
    "picture": {"kind": "mandelbrot", "lane": "cpu", "params": {"width": 64, "height": 48}, "cost_s": 0.1},
    "page": {"kind": "fetch", "lane": "io", "params": {}, "cost_s": 0.1},
    "digest": {"kind": "digest", "lane": "quick", "params": {}, "cost_s": 0.02},
}
CLOSED = {
    "summary": "A few users for a few seconds.",
    "model": "closed",
    "work": {"wait": 1, "digest": 2},
    "ways": {"single": 1, "keyed": 1, "poll": 1},
    "pause_s": 0.1,
    "deadline_s": 15,
    "stages": [{"name": "only", "seconds": 5, "users": 4, "spawn_rate": 10}],
}
OPEN = CLOSED | {
    "model": "open",
    "ways": {"single": 1},
    "deadline_s": 60,
    "stages": [{"name": "only", "seconds": 8, "rate": 4}],
}
LIMITS = [  # other tests run beside these on two cores; test_runs.py sets a stricter one where it is to be missed
    {"measure": "queue wait p95", "lanes": ["io"], "at_most": 100, "of": "run p50"},
    {"measure": "queue wait p95", "lanes": ["quick"], "at_most": 20, "of": "latency target"},
    {"measure": "refused", "at_most": 0},
]


class Demo:
    """`make demo`, running, with its ledger for whoever wants to tamper with it."""

    def __init__(self, folder: Path) -> None:
        self.port, self.mark = free_port(), str(uuid.uuid4())
        self.host = f"http://127.0.0.1:{self.port}"
        self.log = folder / "demo.log"
        with self.log.open("wb") as log:
            argv = [sys.executable, "-m", "demo", "--port", str(self.port)]
            env = os.environ | {"LOADTESTS_DEMO": self.mark}
            self.process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
        wait_until(lambda: "API token" in self.output or self.process.poll() is not None, PATIENCE_S, "the demo is up")
        self.token = re.search(r"API token +(\S+)", self.output)[1]

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        shutil.rmtree(ROOT / "var" / "demo" / "logs" / str(self.port), ignore_errors=True)

    def ledger(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """A statement against its database."""
        [state] = (ROOT / "var" / "demo").glob(f"state-{self.port}-*")
        with sqlite3.connect(state / "db.sqlite3", timeout=30) as connection:
            rows = connection.execute(statement, values).fetchall()
        connection.close()
        return rows

    def processes(self) -> Iterator[tuple[int, list[str]]]:
        """Its processes, with their arguments."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    yield int(folder.name), (folder / "cmdline").read_text().split("\0")
            except OSError:  # it has just ended, or it is not ours to look at
                continue

    def signal_worker(self, lane: str, number: int) -> None:
        """To every process of a lane's worker unit."""
        for pid, arguments in self.processes():
            if any(one.startswith(f"--hostname={lane}-") for one in arguments):
                os.kill(pid, number)

    @property
    def site(self) -> str:
        """The pages that it serves for `fetch` to look at."""
        ports = [arguments[-2] for _, arguments in self.processes() if "demo.serve_site" in arguments]
        return f"http://127.0.0.1:{ports[0]}"


@dataclass
class Load:
    """One run of the load test."""

    folder: Path
    process: "subprocess.Popen[str] | None" = None
    out: str = ""
    err: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def start(self, *arguments: str, **environment: str) -> "Load":
        given = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        argv = [sys.executable, "-m", "loadtests", "--no-pictures", *arguments]
        self.process = subprocess.Popen(
            argv, cwd=ROOT, env=given | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self

    def wait(self) -> int:
        try:
            self.out, self.err = self.process.communicate(timeout=PATIENCE_S)
        finally:
            self.process.kill()
        if (self.folder / "run.json").exists():
            self.facts = json.loads((self.folder / "run.json").read_text())
        return self.process.returncode

    @property
    def last(self) -> str:
        return self.out.splitlines()[-1] if self.out else ""

    @property
    def said(self) -> str:
        return self.out + self.err

    def verdict(self, lane: str) -> bool | None:
        [verdict] = [one["ok"] for one in self.facts["verdicts"] if one["lane"] == lane]
        return verdict


def one_sentence(text: str) -> str:
    assert re.fullmatch(r"[^\n]+\.\n", text), text
    return text
