"""Whether the database has room for more jobs. On a full disk PostgreSQL stops, and nothing can be deleted any more.

It cannot tell how full its disk is. Its host's role says how much it may take, in `headrace.database_max_mb`; where
nobody says so there is no limit. Files hardly shrink by themselves, so what deleted rows have left in them counts as
room.
"""

import time
from dataclasses import dataclass

import structlog
from django.db import connection

SEEN_FOR_S = 10.0
SIZE = """
    SELECT pg_database_size(current_database()),
           COALESCE(NULLIF(current_setting('headrace.database_max_mb', true), ''), '0')::bigint
"""
# Of each table, its size less what its rows need: as many as VACUUM or the statistics know of, dead ones too, each as
# wide as ANALYZE has found it, and a tenth more. What is too large for a row is kept in pieces, four to a page of 8 kB.
LEFT = """
    WITH rows AS (
        SELECT schemaname, tablename, 1.1 * (40 + SUM((1 - null_frac) * avg_width)) AS width
        FROM pg_stats GROUP BY schemaname, tablename
    )
    SELECT COALESCE(SUM(GREATEST(0, pg_relation_size(c.oid) - GREATEST(c.reltuples, s.n_live_tup + s.n_dead_tup)
                                    * CASE c.relkind WHEN 't' THEN 2048 ELSE rows.width END)), 0)::bigint
    FROM pg_class c
    JOIN pg_stat_all_tables s ON s.relid = c.oid
    LEFT JOIN rows ON (rows.schemaname, rows.tablename) = (s.schemaname, s.relname)
    WHERE c.relkind IN ('r', 't') AND c.reltuples >= 0
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Room:
    """Bytes that the database takes of its disk, and may take; 0: there is no limit."""

    used: int = 0
    most: int = 0

    @property
    def full(self) -> bool:
        return bool(self.most) and self.used > self.most


_seen: tuple[float, Room] = (float("-inf"), Room())


def room() -> Room:
    """As seen by this process at most SEEN_FOR_S seconds ago."""
    global _seen  # noqa: PLW0603  (a cache of the process)
    at, last = _seen
    if time.monotonic() - at < SEEN_FOR_S or connection.vendor != "postgresql":
        return last
    now = _measured()
    if now.full != last.full:
        full = "database full: no job is accepted until it has room"
        sizes = {"used_mb": now.used >> 20, "most_mb": now.most >> 20}
        log.warning(full if now.full else "database has room: jobs are accepted", **sizes)
    _seen = (time.monotonic(), now)
    return now


def _measured() -> Room:
    with connection.cursor() as cursor:
        cursor.execute(SIZE)
        used, most_mb = cursor.fetchone()
        found = Room(used, most_mb << 20)
        if found.full:
            cursor.execute(LEFT)
            found = Room(used - cursor.fetchone()[0], found.most)
    return found
