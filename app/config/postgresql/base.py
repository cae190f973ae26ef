"""Django's PostgreSQL backend, but a connection that has just answered is not asked whether it works.

Django sends a `SELECT 1` before the first statement of each request, task and call of push. At load that is a statement
for each that does something. A connection that dies within these seconds, unnoticed, fails the next statement with an
OperationalError: whoever asks the database waits an outage out anyway, and asks again with a new connection.
"""

import select
import sys
import time
from typing import Any

from django.db.backends.postgresql import base
from psycopg import Connection
from psycopg import Cursor as PsycopgCursor

from config.postgresql import Prepared

TRUSTED_FOR_S = 2.0


def has_just_answered(connection: Any) -> bool:
    """Whether it answered within TRUSTED_FOR_S seconds, and has not said goodbye since (nothing waits to be read)."""
    if connection.closed or time.monotonic() - getattr(connection, "answered_at", float("-inf")) > TRUSTED_FOR_S:
        return False
    unread = select.poll()
    unread.register(connection.fileno(), select.POLLIN)
    return not unread.poll(0)


def _check(connection: Connection[Any]) -> None:
    if not has_just_answered(connection):
        connection.execute("")


class Cursor(base.CursorMixin, PsycopgCursor[Any]):
    """Django's, whose values the server binds; it notes when its connection answered."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """A statement that raises nothing was answered."""
        if isinstance(query, Prepared):
            options["prepare"] = True
        done = super().execute(query, params, **options)
        self.connection.answered_at = time.monotonic()  # type: ignore[attr-defined]
        return done


class DatabaseWrapper(base.DatabaseWrapper):
    """Django finds it as ENGINE `config.postgresql`."""

    health_check_done: bool

    def get_connection_params(self) -> dict[str, Any]:
        """Connections whose cursors are ours, and which prepare what is `Prepared`, and nothing else."""
        return {**super().get_connection_params(), "cursor_factory": Cursor, "prepare_threshold": sys.maxsize}

    def close_if_health_check_failed(self) -> None:
        """Asks a connection only if it has not just answered; after an error Django has asked it already."""
        if self.connection is not None and not self.health_check_done:
            self.health_check_done = has_just_answered(self.connection)
        super().close_if_health_check_failed()

    @property
    def pool(self) -> Any:
        """Django's; it would check each connection that it gives out."""
        pool = super().pool
        if pool:
            pool._check = _check  # Django has no setting for it, the pool no other name
        return pool
