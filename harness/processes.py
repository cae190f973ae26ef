"""Child processes, each in a process group of its own, with its output in a log."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import HarnessError, short
from harness.waiting import wait_until

TAIL = 8  # lines of a log that a user is shown
# Another program's settings, which ours or our servers' would take for their own
FOREIGN = ("HEADRACE_", "DJANGO_", "CELERY_", "GUNICORN_", "PYTHON", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")
# Should we be killed, the kernel sends the child SIGTERM. Not `preexec_fn`, which may deadlock where threads run.
END_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()


def environment(**more: str) -> dict[str, str]:
    """Our environment without other programs' settings, and with these."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)} | more


class Process:
    """A child process, running. Start it in a thread that stays: the kernel ends it with the thread.

    `popen`: what subprocess.Popen takes, such as `cwd` and `env`. `ending`: the signal that asks it to end.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path, ending: int = signal.SIGTERM, **popen: Any
    ) -> None:
        self.name, self.log, self.restarts = name, log, 0
        self._command, self._ending, self._popen = [*END_WITH_PARENT, *command], ending, popen
        self.child = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for us alone
                **self._popen,
            )

    def restart(self) -> None:
        """Kill what is left of it, and start it again."""
        self.kill()
        self.restarts += 1
        self.child = self._start()

    @property
    def ended(self) -> int | None:
        """Its exit status, or minus the signal that killed it; None: it runs."""
        return self.child.poll()

    def alive(self, lines: int = 40) -> bool:
        """True.

        Raises:
            HarnessError: it has ended; the text has the last lines of its log, this many.
        """
        if self.ended is not None:
            raise HarnessError(self.obituary(lines))
        return True

    def obituary(self, lines: int = TAIL) -> str:
        """What it ended with, where its log is, and the log's last lines."""
        code = self.ended or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        header = f"{self.name} {how}; the last lines of its log, {short(self.log)}:"
        return "\n".join([header, *self.output().splitlines()[-lines:]])

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """To its whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)

    def ask_to_end(self) -> None:
        """Only its first process: a pool process of Celery's must not be told to end in the middle of a job."""
        self.child.send_signal(self._ending)

    def kill(self) -> None:
        """Kill whatever is left of it, its children included."""
        self.signal(signal.SIGKILL)
        self.child.wait(10)

    def stop(self, seconds: float = 20) -> None:
        """Ask it to end, and kill it if it has not after so long."""
        end([self], seconds)


def until_ready(ready: Callable[[], bool], what: str, processes: Sequence[Process], seconds: float = 60) -> None:
    """Wait until processes do what they were started for.

    Raises:
        HarnessError: that took longer than `seconds`, or one of them has ended.
    """
    try:
        wait_until(lambda: ready() or not all(process.alive(TAIL) for process in processes), seconds)
    except TimeoutError as error:
        logs = short(processes[0].log.parent)
        raise HarnessError(f"{what} was not ready within {seconds:.0f} s; the logs are in {logs}.") from error


def end(processes: Sequence[Process], seconds: float) -> None:
    """Ask all at once to end, give them so long together, and kill what is left."""
    for process in processes:
        process.ask_to_end()
    deadline = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.child.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.kill()


def marked(mark: str) -> dict[int, str]:
    """The arguments, by pid, of processes that have this text in their environment, which children inherit, or in the
    path of their working directory: Redis and PostgreSQL write over their environment.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is not ours to look at
            if mark in str((folder / "cwd").readlink()) or mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found
