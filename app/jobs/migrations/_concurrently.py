"""Indexes of a ledger that is in use."""

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db.migrations.operations import AddConstraint
from django.db.migrations.operations.base import Operation


class Beside(Operation):
    """Beside those who write. A plain CREATE INDEX would hold them up; SQLite has one writer anyway.

    This one holds up nobody, so it may wait for them longer than other statements do. What an earlier try has left,
    which is no valid index, goes first.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            plain: Any = super(type(self).__mro__[2], self)
            plain.database_forwards(app_label, schema_editor, from_state, to_state)
            return
        schema_editor.execute("SET lock_timeout = '5min'")
        if isinstance(self, AddIndexConcurrently):
            schema_editor.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{self.index.name}"')
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        schema_editor.execute("RESET lock_timeout")


class AddIndex(Beside, AddIndexConcurrently):
    """CREATE INDEX CONCURRENTLY."""


class RemoveIndex(Beside, RemoveIndexConcurrently):
    """DROP INDEX CONCURRENTLY."""


class AddUnique(AddConstraint):
    """CREATE UNIQUE INDEX CONCURRENTLY, for a unique constraint with a condition, which is an index and no more."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)
            return
        model = to_state.apps.get_model(app_label, self.model_name)
        sql = str(self.constraint.create_sql(model, schema_editor))
        schema_editor.execute("SET lock_timeout = '5min'")
        schema_editor.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{self.constraint.name}"')
        schema_editor.execute(sql.replace("CREATE UNIQUE INDEX", "CREATE UNIQUE INDEX CONCURRENTLY", 1))
        schema_editor.execute("RESET lock_timeout")
