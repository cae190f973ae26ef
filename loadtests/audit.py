"""The audit: compares every id that was answered with 202 with the server's ledger. Each job is of one class:

lost      the server does not know it, it has not ended by its deadline, or its client was told late or never
double    it ended more than once, or two submits were given one job, or one idempotency key two
wrong     it failed, or its result is not the right one
verified  none of these: it ended once, in time, with a result that was found right
"""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import gevent

from loadtests import clock, work
from loadtests.api import AWAY, FINISHED, Api, NotAccepted
from loadtests.client import judge
from loadtests.facts import Finding
from loadtests.ledger import Record
from loadtests.work import Page

Json = dict[str, Any]
PAGE = 100
LOOK_AGAIN_S = 0.5
OUTAGE_S = 30.0


def audit(records: Mapping[str, Record], api: Api, page: Page | None) -> list[Finding]:
    """Wait until every job has ended or its deadline has passed, then judge each.

    Raises:
        NotAccepted: the server's ledger cannot be read.
    """
    jobs = settled(records, api)
    return [finding(record, jobs.get(record.id, []), page) for record in records.values()]


def settled(records: Mapping[str, Record], api: Api) -> dict[str, list[Json]]:
    """The server's rows by id, as soon as all jobs have ended, or when every deadline has passed."""
    until = max((record.due_at + record.deadline_s for record in records.values()), default=0.0)
    jobs = listed(records, api)
    while True:
        waiting = [job_id for job_id, rows in jobs.items() if any(row["state"] not in FINISHED for row in rows)]
        if not waiting or clock.now() > until:
            return jobs
        gevent.sleep(LOOK_AGAIN_S)
        for job_id in waiting:
            jobs[job_id] = [_asked(api, f"/api/jobs/{job_id}")]


def listed(records: Mapping[str, Record], api: Api) -> dict[str, list[Json]]:
    """The rows of these records in the list of the user's jobs, which goes from new to old by the database's clock.

    Ids sort by the clocks of the hosts that took the jobs, so one that is missing is looked for an hour further.
    """
    found: dict[str, list[Json]] = {}
    oldest, cursor = min(records, default=""), None
    while records:
        page = _asked(api, f"/api/jobs?limit={PAGE}" + (f"&cursor={cursor}" if cursor else ""))
        for row in page["items"]:
            if row["id"] in records:
                found.setdefault(row["id"], []).append(row)
        cursor = page["next_cursor"]
        passed = cursor is not None and cursor < (oldest if len(found) == len(records) else _an_hour_before(oldest))
        if cursor is None or passed:
            break
    return found


def _an_hour_before(job_id: str) -> str:
    return str(uuid.UUID(int=max(0, uuid.UUID(job_id).int - (3_600_000 << 80))))


def _asked(api: Api, path: str) -> Json:
    """An answer; a server that does not answer is asked again for OUTAGE_S."""
    until = clock.now() + OUTAGE_S
    while True:
        try:
            return dict(api.ask("GET", path).body)
        except NotAccepted as error:
            if error.status not in AWAY or clock.now() > until:
                raise
        gevent.sleep(LOOK_AGAIN_S)


def finding(record: Record, rows: Iterable[Json], page: Page | None) -> Finding:
    """The class of one job: the first of lost, double and wrong that it belongs to, or verified."""
    rows = list(rows)
    for row in rows:
        if row["state"] in FINISHED:
            record.saw(row)
    if len(rows) == 1 and rows[0]["state"] in FINISHED:
        _judge_again(record, rows[0], page)
    for verdict, reason in (("lost", lost(record, rows)), ("double", double(record, rows)), ("wrong", record.wrong)):
        if reason:
            return Finding(verdict, record.id, record.name, reason)
    return Finding("verified", record.id, record.name)


def _judge_again(record: Record, row: Json, page: Page | None) -> None:
    """Check the result that stands in the ledger, unless it is the one that was found right before."""
    if not record.verified or record.verified != work.fingerprint(row["result"]):
        judge(record, row, page)


def lost(record: Record, rows: list[Json]) -> str:
    """Why a job counts as lost; empty if it does not."""
    if not rows:
        return "the server does not know it"
    if rows[0]["state"] not in FINISHED:
        return f"still {rows[0]['state']} after {record.deadline_s:g} s"
    if record.trouble:
        return f"it {rows[0]['state']}, but its client did not see it: {record.trouble}"
    if record.told_at is None:
        unseen = f"it {rows[0]['state']}, but its client was not told within {record.deadline_s:g} s"
        return unseen if record.closed else ""  # not closed: the end of the run stopped the client
    if (took := record.told_at - record.due_at) > record.deadline_s:
        return f"late: its client was told after {took:.1f} s, not {record.deadline_s:g}"
    return ""


def double(record: Record, rows: list[Json]) -> str:
    """Why a job counts as double; empty if it does not. A result that changed without a new end is wrong instead."""
    if len(rows) > 1:
        return "the server lists it twice"
    if record.double:
        return record.double
    if len({(end.state, end.at) for end in record.endings}) > 1:
        return "it did not end once: " + ", then ".join(f"{end.state} at {end.at}" for end in record.endings)
    return ""
