"""What goes to PostgreSQL as libpq sends it: with BEGIN, COMMIT and questions whether the connection is well."""

import tempfile
from collections.abc import Iterable, Iterator
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
        sent += _run(line.split("\t", 3)[2:] for line in log if line.startswith("F\t"))


def _run(messages: Iterable[list[str]]) -> Iterator[str]:
    """What is run: a prepared statement is parsed once and bound each time; of one from before, its name is known."""
    parsed: dict[str, str] = {}
    for kind, *rest in messages:
        text = "".join(rest).strip()
        if kind == "Query":
            yield text
        elif kind == "Parse":
            name, _, sql = text.partition(" ")
            parsed[name] = sql
        elif kind == "Bind":
            _, name, *_ = text.split(" ")
            yield parsed.get(name, name)
