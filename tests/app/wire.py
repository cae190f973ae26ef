"""What goes to PostgreSQL as libpq sends it: with BEGIN, COMMIT and questions whether the connection is well."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection
from psycopg.pq import Trace


@contextmanager
def statements() -> Iterator[list[str]]:
    """Statements that this thread's connection sends within the block, in their order; filled in at its end."""
    sent: list[str] = []
    connection.ensure_connection()
    pgconn = connection.connection.pgconn
    with tempfile.TemporaryFile("w+") as log:
        pgconn.trace(log.fileno())
        pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        try:
            yield sent
        finally:
            pgconn.untrace()
        log.seek(0)
        fields = [line.split("\t") for line in log if line.startswith("F\t")]
        sent += [" ".join(rest).strip() for _, _, kind, *rest in fields if kind in ("Query", "Parse")]
