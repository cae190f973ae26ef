"""The audit: every id that was answered with 202, held against the server's ledger. Each job falls into one class.

lost      the server does not know it, it has not ended by its deadline, or its client was told late or never
double    it ended more than once, or two promises share it, or one promise has two
wrong     it failed, or its result is not the right one
verified  none of these: it ended once, in time, with a result that was found right
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gevent

from loadtests import clock, work
from loadtests.api import AWAY, FINISHED, Api, NotAccepted
from loadtests.client import judge
from loadtests.ledger import Record
from loadtests.work import Page

Json = dict[str, Any]
PAGE = 100
LOOK_AGAIN_S = 0.5
OUTAGE_S = 30.0


@dataclass
class Finding:
    """What the audit says of one job."""

    verdict: str
    id: str
    name: str
    why: str = ""


@dataclass
class Audit:
    """What the audit says of all."""

    findings: list[Finding] = field(default_factory=list)

    def count(self, verdict: str) -> int:
        return sum(finding.verdict == verdict for finding in self.findings)

    @property
    def exceptions(self) -> list[Finding]:
        """Every job that is not as promised."""
        return [finding for finding in self.findings if finding.verdict != "verified"]

    @property
    def passed(self) -> bool:
        """A run that submitted nothing has shown nothing."""
        return bool(self.findings) and not self.exceptions

    def line(self, passed: bool) -> str:
        """The last line of a run."""
        counts = ", ".join(f"{self.count(verdict)} {verdict}" for verdict in ("verified", "lost", "double", "wrong"))
        return f"load: {len(self.findings)} submitted, {counts}: {'PASS' if passed else 'FAIL'}"


def audit(records: Mapping[str, Record], api: Api, page: Page | None) -> Audit:
    """Wait until every job has ended or its deadline has passed, then judge each."""
    jobs = settled(records, api)
    return Audit([finding(record, jobs.get(record.id, []), page) for record in records.values()])


def settled(records: Mapping[str, Record], api: Api) -> dict[str, list[Json]]:
    """The server's rows by id, as soon as all have ended, or when no deadline is left."""
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
    """All rows of ours from the list of our jobs, which goes from new to old; ids sort by time."""
    found: dict[str, list[Json]] = {}
    oldest, cursor = min(records, default=""), None
    while records:
        page = _asked(api, f"/api/jobs?limit={PAGE}" + (f"&cursor={cursor}" if cursor else ""))
        for row in page["items"]:
            if row["id"] in records:
                found.setdefault(row["id"], []).append(row)
        cursor = page["next_cursor"]
        if cursor is None or cursor < oldest:
            break
    return found


def _asked(api: Api, path: str) -> Json:
    """An answer; a server that is away for a moment is waited for."""
    until = clock.now() + OUTAGE_S
    while True:
        try:
            body: Json = api.ask("GET", path).body
            return body
        except NotAccepted as error:
            if error.status not in AWAY or clock.now() > until:
                raise
        gevent.sleep(LOOK_AGAIN_S)


def finding(record: Record, rows: Iterable[Json], page: Page | None) -> Finding:
    """The class of one job; the worst that is true of it."""
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
    """The result that was found right must be the one that stands; anything else is checked from the start."""
    if not record.verified or record.verified != work.fingerprint(row["result"]):
        judge(record, row, page)


def lost(record: Record, rows: list[Json]) -> str:
    """Why a job counts as lost."""
    if not rows:
        return "the server does not know it"
    if rows[0]["state"] not in FINISHED:
        return f"still {rows[0]['state']} after {record.deadline_s:g} s"
    if record.trouble:
        return f"it {rows[0]['state']}, but its client did not see it: {record.trouble}"
    if record.told_at is None:
        unseen = f"it {rows[0]['state']}, but its client was not told within {record.deadline_s:g} s"
        return unseen if record.closed else ""  # not closed: we stopped the client ourselves
    late = record.told_at - record.due_at
    return (
        f"late: its client was told after {late:.1f} s, not {record.deadline_s:g}" if late > record.deadline_s else ""
    )


def double(record: Record, rows: list[Json]) -> str:
    """Why a job counts as double. A result that changed without ending again is wrong rather than double."""
    moments = sorted({str(end[1]) for end in record.endings})
    if len(rows) > 1:
        return "the server lists it twice"
    if record.double:
        return record.double
    if len(moments) > 1 or len({end[0] for end in record.endings}) > 1:
        return "it did not end once: " + ", then ".join(f"{end[0]} at {end[1]}" for end in record.endings)
    return ""
