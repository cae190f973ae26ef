"""What submit and finish cost with an empty ledger and with a full one: cost should grow with work, not with stock."""

import json
import time
from typing import Any

import psycopg

from benchmarks.cases import Size
from benchmarks.stacks import OTHER, USER, Headrace

# A job in every column that has no default in the database. The finished ones are those of the user who submits now, in
# the lane that is measured; the queued ones are another's, or that user would be refused. They are due for
# publishing tomorrow, or the sweeper would find that the broker has lost them.
_COLUMNS = """id, owner_id, kind, lane, params, fingerprint, state, version, attempt, max_attempts, cancel_requested,
    worker, pool, progress, note, error, result, parts_total, open_parts, joining,
    published_at, started_at, finished_at, created_at"""
_FILL = f"""
    INSERT INTO jobs_job ({_COLUMNS})
    SELECT lpad(to_hex(n + %(first)s), 32, '0')::uuid, %(owner)s, 'digest', 'quick', '{{"text": "water"}}', '',
        %(state)s, 3, %(attempt)s, 3, false, '', '', 0, '', '', %(result)s, 0, 0, false,
        now() + %(ahead)s * interval '1 day', %(ended)s::timestamptz, %(ended)s::timestamptz, now()
    FROM generate_series(1, %(rows)s) AS n"""  # noqa: S608  (the columns are written above)


def fill(side: Headrace, size: Size) -> float:
    """Put the rows of `size` into the ledger, in two statements; the seconds it took."""
    began = time.monotonic()
    with psycopg.connect(side.servers.postgresql.url, autocommit=True) as connection:
        owners: dict[str, int] = dict(connection.execute("SELECT username, id FROM auth_user").fetchall())
        [now] = connection.execute("SELECT now()").fetchone() or (None,)
        finished = {"owner": owners[USER], "state": "succeeded", "attempt": 1, "result": "{}", "ended": now, "ahead": 0}
        queued = {"owner": owners[OTHER], "state": "queued", "attempt": 0, "result": None, "ended": None, "ahead": 1}
        connection.execute(_FILL, {**finished, "first": 0, "rows": size.finished_rows})
        connection.execute(_FILL, {**queued, "first": size.finished_rows, "rows": size.queued_rows})
        connection.execute("VACUUM ANALYZE jobs_job")  # autovacuum's work, done now
    return time.monotonic() - began


def probe(side: Headrace, seconds: float) -> dict[str, float]:
    """Medians of submit, claim, finish, the fleet page and a recovery; CPU per job of the probe and PostgreSQL, and of
    an idle second.
    """
    meters = side.meters()
    before = meters.read()
    time.sleep(min(seconds, 3))
    idle = meters.read() - before
    idle_cpu = {kind: used / idle.seconds for kind, used in idle.cpu.items()}
    before = meters.read()
    found: dict[str, Any] = json.loads(side.python("-m", "benchmarks.probe", USER, str(seconds)))
    took = meters.read() - before
    found |= json.loads(side.python("-m", "benchmarks.probe", USER))
    postgres = (took.cpu["postgres"] - idle_cpu["postgres"] * took.seconds) * 1000 / found["jobs"]
    return {
        **{name: found[name] for name in found if name.endswith("_p50")},
        "cpu": found["probe_cpu"] + postgres,
        "postgres_cpu": postgres,
        "idle_cpu": 1000 * (idle_cpu["postgres"] + idle_cpu["sweeper"]),
    }


def grow(side: Headrace, size: Size) -> dict[str, Any]:
    """Before, the filling, after."""
    empty = probe(side, size.growth_s)
    filling = fill(side, size)
    full = probe(side, size.growth_s)
    rows = {"finished_rows": size.finished_rows, "queued_rows": size.queued_rows}
    return {**rows, "filling_s": filling, "empty": empty, "full": full}
