"""Where the time of each kind of our processes goes: py-spy looks at them while they do as many digests as they can."""

import asyncio
import shutil
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from benchmarks import VAR, BenchError, NotInstalled
from benchmarks.cases import DIGEST, HEADRACE, Size
from benchmarks.drive import saturate, verify
from benchmarks.stacks import Bench, Headrace
from deploy.measure import measure
from harness import APP, BIN
from harness.processes import Process

KINDS = ("web", "push", "worker", "sweeper")
PER_SECOND, SHOWN = 50, 20  # looks; rows of either kind in the table of a process
PACKAGES = ("site-packages/", "dist-packages/")


@dataclass
class Profile:
    """Samples of one kind of process: stacks, outermost frame first, and how often each was seen."""

    stacks: Counter[str] = field(default_factory=Counter)

    def read(self, text: str) -> None:
        """Add what py-spy has written as `raw`: a stack, a blank and a number on each line."""
        for line in text.splitlines():
            stack, _, number = line.rpartition(" ")
            self.stacks[stack] += int(number)

    @property
    def samples(self) -> int:
        return self.stacks.total()

    def functions(self) -> list[tuple[str, float]]:
        """Our own functions, each with the share of the samples in which it or what it has called was running."""
        seen: Counter[str] = Counter()
        for stack, number in self.stacks.items():
            for name in {place for frame in stack.split(";") if (place := _ours(frame))}:
                seen[name] += number
        return self._shares(seen)

    def packages(self) -> list[tuple[str, float]]:
        """Whose code was running, innermost."""
        seen: Counter[str] = Counter()
        for stack, number in self.stacks.items():
            seen[_package(stack.rpartition(";")[2])] += number
        return self._shares(seen)

    def _shares(self, seen: Counter[str]) -> list[tuple[str, float]]:
        return [(name, number / self.samples) for name, number in seen.most_common(SHOWN)]


def _split(frame: str) -> tuple[str, str]:
    """Function and file of `function (file:line)`; py-spy has no file for a thread or a process."""
    function, _, place = frame.partition(" (")
    return function, place.rpartition(":")[0] or place.rstrip(")")


def _ours(frame: str) -> str:
    """A function of app/, as `jobs/submit.py submit`; nothing for anybody else's."""
    function, file = _split(frame)
    return f"{file.removeprefix(f'{APP}/')} {function}" if file.startswith(f"{APP}/") else ""


def _package(frame: str) -> str:
    _, file = _split(frame)
    for folder in PACKAGES:
        if folder in file:
            return file.partition(folder)[2].partition("/")[0].removesuffix(".py")
    return "ours" if file.startswith(f"{APP}/") else "Python"


def _py_spy() -> str:
    found = BIN / "py-spy"
    if program := str(found) if found.exists() else shutil.which("py-spy"):
        return program
    raise NotInstalled("There is no py-spy here: `make .venv/.dev` installs what requirements/dev.txt asks for.")


def _record(unit: Process, file: Path, seconds: float) -> "subprocess.Popen[str]":
    """Look at a unit and everything below it, without stopping it."""
    options = ["--format", "raw", "--full-filenames", "--function", "--subprocesses", "--nonblocking"]
    options += ["--rate", str(PER_SECOND), "--duration", f"{seconds:.0f}", "--output", str(file)]
    argv = [_py_spy(), "record", *options, "--pid", str(unit.child.pid)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def profile(size: Size, say: Callable[[str], None]) -> dict[str, Profile]:
    """Start Headrace alone, load it with digests, and look; a profile for each kind that was seen at work.

    Raises:
        BenchError: there is no py-spy, or it may not look.
    """
    _py_spy()
    with Bench(Headrace) as bench:
        bench.start()
        say(f"{len(bench.ours.units)} units are up; looking at them for {_seconds(size):.0f} s")
        return asyncio.run(_profile(bench.ours, size))


def _seconds(size: Size) -> float:
    return max(3.0, 4 * size.saturated_s)


async def _profile(side: Headrace, size: Size) -> dict[str, Profile]:
    read = side.meters().read
    client, clients = side.client(), DIGEST.clients[HEADRACE] * measure()[0]
    verify(DIGEST, (await saturate(client, DIGEST, clients, (0.2, size.warm_s), read))[0])
    units = [unit for unit in side.units if not unit.name.startswith("worker") or DIGEST.lane in unit.name]
    files = {unit.name: VAR / f"py-spy-{unit.name}.txt" for unit in units}
    looking = [_record(unit, files[unit.name], _seconds(size)) for unit in units]
    seen, _ = await saturate(client, DIGEST, clients, (1.0, _seconds(size)), read)
    client.close()
    said = await asyncio.gather(*(asyncio.to_thread(_said, one) for one in looking))
    verify(DIGEST, seen)
    return collect({name: file for name, file in files.items() if file.exists()}, "\n".join(said))


def _said(looking: "subprocess.Popen[str]") -> str:
    """What it had to say when it was done, which it is soon."""
    try:
        return looking.communicate(timeout=30)[0]
    except subprocess.TimeoutExpired:
        looking.send_signal(signal.SIGINT)  # it writes what it has
        return looking.communicate(timeout=10)[0]


def collect(files: dict[str, Path], said: str) -> dict[str, Profile]:
    """One profile and one file for each kind, of those of its units.

    Raises:
        BenchError: nobody was seen.
    """
    found: defaultdict[str, Profile] = defaultdict(Profile)
    for name, file in files.items():
        found[name.partition("-")[0]].read(file.read_text())
        file.unlink()
    if not any(one.samples for one in found.values()):
        why = "may not look at other processes here (ptrace): try it as root, or with ptrace_scope 0"
        raise BenchError(f"py-spy {why if 'ermi' in said else f'has seen nothing: {said.strip()[-300:]}'}.")
    for kind, one in found.items():
        lines = (f"{stack} {number}\n" for stack, number in one.stacks.most_common())
        (VAR / f"profile-{kind}.txt").write_text("".join(lines))
    return found


def tables(found: dict[str, Profile]) -> Iterable[Table]:
    """Our functions with what they call, and whose code was running."""
    for kind in KINDS:
        if kind in found and found[kind].samples:
            title = f"of {kind}'s time ({found[kind].samples:,} samples of {PER_SECOND} a second)"
            table = Table("", "in, or called by", "", "running code of", title=title)
            for left, right in _side_by_side(found[kind].functions(), found[kind].packages()):
                table.add_row(*left, *right)
            yield table


def _side_by_side(
    first: list[tuple[str, float]], second: list[tuple[str, float]]
) -> Iterable[tuple[tuple[str, str], tuple[str, str]]]:
    for at in range(max(len(first), len(second))):
        yield _cell(first, at), _cell(second, at)


def _cell(shares: list[tuple[str, float]], at: int) -> tuple[str, str]:
    if at >= len(shares):
        return "", ""
    name, share = shares[at]
    return f"{share:.0%}", name
