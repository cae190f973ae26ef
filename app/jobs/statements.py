"""SQL that Django generates one time for each process, and that then runs with other values each time.

Generating a query takes several times as long as sending it: the two queries of a claim were half of the time that a
short job spent in its worker. PostgreSQL too reads and plans it one time for each connection (a prepared statement),
which was a third of its time. What is the same in each run stands in the SQL itself: with a value in its place a plan
made once could use no partial index.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from django.db import connection
from django.db.models import Model, QuerySet
from django.db.models.sql import Query, UpdateQuery
from psycopg import sql

from config.postgresql import Prepared


@dataclass(frozen=True)
class Statement:
    """SQL with its values; some of them are blanks that are filled in when it runs."""

    sql: str
    values: tuple[Any, ...]
    blanks: tuple[str | None, ...]

    def bind(self, **given: Any) -> list[Any]:
        """The values, in the order that the SQL wants them."""
        pairs = zip(self.values, self.blanks, strict=True)
        return [given[name] if name else value for value, name in pairs]

    def run(self, cursor: Any, **given: Any) -> None:
        """Execute it with these values in its blanks."""
        cursor.execute(self.sql, self.bind(**given))


def write(query: Query, blanks: Mapping[str, Any], around: str = "{}") -> Statement:
    """What Django would send for this query. `blanks`: each name, and the value that stands for it in the query; one
    without blanks runs once, and is not prepared.
    """
    text, values = query.get_compiler(connection=connection).as_sql()
    names = [_blank(one, blanks) for one in values]
    if blanks and connection.vendor == "postgresql":
        fixed = iter(None if name else _literal(value) for value, name in zip(values, names, strict=True))
        text = re.sub("%%|%s", lambda found: found[0] if found[0] == "%%" else next(fixed) or "%s", text)
        values = [value for value, name in zip(values, names, strict=True) if name]
        text, names = Prepared(around.format(text)), [name for name in names if name]
    else:
        text = around.format(text)
    return Statement(text, tuple(values), tuple(names))


def _literal(value: Any) -> str:
    """As it stands in SQL that still has blanks."""
    connection.ensure_connection()
    return sql.Literal(value).as_string(connection.connection).replace("%", "%%")


def _blank(value: Any, blanks: Mapping[str, Any]) -> str | None:
    """Integers come in a class of psycopg's that is below int."""
    of = (name for name, marker in blanks.items() if isinstance(value, type(marker)) and value == marker)
    return next(of, None)


class Update:
    """An UPDATE that returns some of its columns. Where it is written once, `blanks` are its values."""

    def __init__(
        self,
        rows: QuerySet[Any],
        values: Mapping[str, Any],
        columns: Sequence[str],
        blanks: Mapping[str, Any] | None = None,
    ) -> None:
        query = cast(UpdateQuery, rows.query.chain(UpdateQuery))
        query.add_update_values(dict(values))
        self._model: Any = rows.model
        self._columns = tuple(one.attname for one in rows.model._meta.concrete_fields if one.attname in columns)
        returning = f" RETURNING {', '.join(self._columns)}" if columns else ""
        self._statement = write(query, blanks or {}, "{}" + returning)

    def one(self, **given: Any) -> Any:
        """The row afterwards, as a model that has only these columns; None if no row was changed."""
        with connection.cursor() as cursor:
            self._statement.run(cursor, **given)
            return self._row(cursor.fetchone())

    def _row(self, row: Any) -> Any:
        if row is None:
            return None
        pairs = zip(row, _converters(self._model, self._columns), strict=True)
        return self._model.from_db(connection.alias, self._columns, [convert(value) for value, convert in pairs])

    def each(self, given: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Change one row after the other, all or none where the database can; what each is afterwards."""
        if connection.vendor != "postgresql" or len(given) == 1:
            return [self.one(**values) for values in given]
        with connection.cursor() as cursor, connection.wrap_database_errors:
            raw = cursor.cursor
            raw.executemany(self._statement.sql, [self._statement.bind(**values) for values in given], returning=True)
            rows = [raw.fetchone()]
            while raw.nextset():
                rows.append(raw.fetchone())
        return [self._row(row) for row in rows]

    def all(self, **given: Any) -> list[Any]:
        """Change all rows that there are; what they are afterwards."""
        with connection.cursor() as cursor:
            self._statement.run(cursor, **given)
            return [self._row(row) for row in cursor.fetchall()]

    def many(self, given: Sequence[Mapping[str, Any]]) -> None:
        """Change one row after the other, in one round trip."""
        with connection.cursor() as cursor:
            cursor.executemany(self._statement.sql, [self._statement.bind(**one) for one in given])


@cache
def _converters(model: type[Model], columns: tuple[str, ...]) -> list[Callable[[Any], Any]]:
    """What Django does with each column that it reads: SQLite has texts where we have times."""
    expressions = [field.get_col(model._meta.db_table) for field in map(_field_of(model), columns)]
    return [_converter(one) for one in expressions]


def _field_of(model: type[Model]) -> Callable[[str], Any]:
    by_column = {field.attname: field for field in model._meta.concrete_fields}
    return by_column.__getitem__


def _converter(expression: Any) -> Callable[[Any], Any]:
    steps = [*connection.ops.get_db_converters(expression), *expression.get_db_converters(connection)]

    def convert(value: Any) -> Any:
        for step in steps:
            value = step(value, expression, connection)
        return value

    return convert if steps else _as_it_is


def _as_it_is(value: Any) -> Any:
    return value
