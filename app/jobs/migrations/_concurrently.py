"""Indexes of a ledger that is in use."""

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently


class AddIndex(AddIndexConcurrently):
    """A plain CREATE INDEX would hold up every write to the ledger; SQLite has one writer anyway."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        concurrently = schema_editor.connection.vendor == "postgresql"
        forwards = super().database_forwards if concurrently else super(AddIndexConcurrently, self).database_forwards
        forwards(app_label, schema_editor, from_state, to_state)


class RemoveIndex(RemoveIndexConcurrently):
    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        concurrently = schema_editor.connection.vendor == "postgresql"
        forwards = super().database_forwards if concurrently else super(RemoveIndexConcurrently, self).database_forwards
        forwards(app_label, schema_editor, from_state, to_state)
