"""Health checks of processes that have no address: `python -m deploy.images.app.healthy worker|sweeper|beat`.

Each looks at what the process does, not at whether it is there: Docker knows that. Ends with 1 and a sentence.
They run every few seconds in every container, so none of them loads Django.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

SCHEDULE = Path("/tmp/beat/schedule")  # noqa: S108 - the container's own
BEAT_WRITES_S = 600  # it writes its schedule down every three minutes, and sleeps for five at most


def secret(name: str) -> str:
    """A setting of ours from its file."""
    return Path(os.environ[f"HEADRACE_{name}_FILE"]).read_text().strip()


def worker() -> str | None:
    """It answers through the broker, so it consumes. (That it reaches the database, its leases say.)"""
    from celery import Celery

    me = f"{os.environ['HEADRACE_LANE']}-1@{socket.gethostname()}"
    app = Celery(broker=secret("BROKER_URL"), broker_connection_timeout=5)
    return None if app.control.ping(destination=[me], timeout=5) else f"{me} does not answer through the broker."


def sweeper() -> str | None:
    """Somebody leads: this one, or the one that it stands by for."""
    import psycopg

    leads = "SELECT EXISTS (SELECT FROM jobs_leader WHERE role = 'sweeper' AND until > now())"
    with psycopg.connect(secret("DATABASE_URL"), connect_timeout=5) as connection:
        row = connection.execute(leads).fetchone()
    return None if row and row[0] else "No sweeper leads."


def beat() -> str | None:
    """It has written its schedule down not long ago."""
    age = time.time() - max(file.stat().st_mtime for file in SCHEDULE.parent.iterdir())
    return None if age < BEAT_WRITES_S else f"beat has not written its schedule for {age:.0f} s."


CHECKS: dict[str, Callable[[], str | None]] = {"worker": worker, "sweeper": sweeper, "beat": beat}

if __name__ == "__main__":
    try:
        sys.exit(CHECKS[sys.argv[1]]())
    except Exception as error:  # noqa: BLE001 - whatever it is, the process is not well
        sys.exit(f"{type(error).__name__}: {error}")
