"""Health checks of processes that have no address: `python -m deploy.images.app.healthy worker|ROLE`.

Each looks at what the process does, not at whether it is there: Docker knows that. Ends with 1 and a sentence.
They run every few seconds in every container, so none of them loads Django.
"""

import os
import socket
import sys
from pathlib import Path


def secret(name: str) -> str:
    """A setting of ours from its file."""
    return Path(os.environ[f"HEADRACE_{name}_FILE"]).read_text().strip()


def worker() -> str | None:
    """It answers through the broker, so it consumes. (That it reaches the database, its leases say.)"""
    from celery import Celery

    me = f"{os.environ['HEADRACE_LANE']}-1@{socket.gethostname()}"
    app = Celery(broker=secret("BROKER_URL"), broker_connection_timeout=5)
    return None if app.control.ping(destination=[me], timeout=5) else f"{me} does not answer through the broker."


def leader(role: str) -> str | None:
    """Somebody leads: this one, or the one that it stands by for."""
    import psycopg

    leads = "SELECT EXISTS (SELECT FROM jobs_leader WHERE role = %s AND until > now())"
    with psycopg.connect(secret("DATABASE_URL"), connect_timeout=5) as connection:
        row = connection.execute(leads, [role]).fetchone()
    return None if row and row[0] else f"No {role} leads."


if __name__ == "__main__":
    try:
        sys.exit(worker() if sys.argv[1] == "worker" else leader(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the process is not well
        sys.exit(f"{type(error).__name__}: {error}")
