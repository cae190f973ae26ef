"""SQL that Django generates one time for each process, and that then runs with other values each time.

Generating a query takes several times as long as sending it: the two queries of a claim were half of the time that a
short job spent in its worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models.sql import Query


@dataclass(frozen=True)
class Statement:
    """SQL with its values; some of them are blanks that `bind` fills in."""

    sql: str
    values: tuple[Any, ...]
    blanks: tuple[str | None, ...]

    def bind(self, **given: Any) -> list[Any]:
        """The values, in the order that the SQL wants them."""
        pairs = zip(self.values, self.blanks, strict=True)
        return [given[name] if name else value for value, name in pairs]


def write(query: Query, blanks: Mapping[str, Any], around: str = "{}") -> Statement:
    """What Django would send for this query. `blanks`: each name, and the value that stands for it in the query."""
    sql, values = query.get_compiler(connection=connection).as_sql()
    names = {(type(marker), marker): name for name, marker in blanks.items()}
    return Statement(around.format(sql), tuple(values), tuple(names.get((type(one), one)) for one in values))
