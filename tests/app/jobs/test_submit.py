"""Submitting through the API: what is accepted once, and what is refused with which words."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from jobs import submit
from jobs.models import Job
from jobs.schemas import JobOut, as_json
from kinds.base import Artifact
from tests.app.jobs.client import Api, problem
from tests.app.ledger import job_of, succeeded

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)  # for tests with threads, processes or the broker
JSON = "application/json"


def test_submit_answers_202_with_the_job_and_where_it_is(api: Api) -> None:
    response = api.submit(params={"text": "a b a", "top": 1})
    assert response.status_code == 202
    job = response.json()
    assert JobOut.model_validate(job)
    assert response.headers["Location"] == job["url"] == f"/api/jobs/{job['id']}"
    assert (job["events_url"], job["ws_url"]) == (f"{job['url']}/events", f"/ws/jobs/{job['id']}")
    assert (job["state"], job["lane"], job["version"], job["params"]) == (
        "queued",
        "quick",
        1,
        {"text": "a b a", "top": 1},
    )
    assert api.get(f"/jobs/{job['id']}").json() == job


def test_document_and_answers_name_the_same_fields(user: Any) -> None:
    assert list(as_json(job_of(user))) == list(JobOut.model_fields)


def test_times_are_utc_with_microseconds(user: Any) -> None:
    job = as_json(Job.objects.get(pk=succeeded(user)))
    for name in ("created_at", "started_at", "finished_at"):
        assert len(job[name]) == len("2026-01-01T00:00:00.000000Z")
        assert job[name].endswith("Z")
    assert job["timings"]["run"] >= 0


def test_same_key_and_body_is_the_first_job(api: Api) -> None:
    first = api.submit(idempotency_key="k-1", params={"top": 3})
    again = api.submit(idempotency_key="k-1", params={"top": 3})
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Location"] == first.headers["Location"]


def test_same_key_with_another_body_is_refused(api: Api) -> None:
    api.submit(idempotency_key="k-1", params={"top": 3})
    assert "k-1" in problem(api.submit(idempotency_key="k-1", params={"top": 4}), 409)["detail"]
    assert Job.objects.count() == 1


def test_keys_of_two_users_do_not_meet(api: Api, stranger: Api) -> None:
    assert api.submit(idempotency_key="same").status_code == 202
    assert stranger.submit(idempotency_key="same", params={"top": 1}).status_code == 202


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """Make all calls at once, each in its own thread with its own connection."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], Any]) -> Any:
        try:
            barrier.wait()
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


@committed
def test_race_with_one_key_makes_one_job(user: Any, empty_broker: Any) -> None:
    clients = [Api(user) for _ in range(8)]
    for key in ("race-1", "race-2", "race-3", "race-4", "race-5"):
        found = together([partial(client.submit, idempotency_key=key) for client in clients])
        assert sorted(one.status_code for one in found) == [200] * 7 + [202]
        assert len({one.json()["id"] for one in found}) == 1
    assert Job.objects.count() == 5


@committed
def test_race_of_different_bodies_has_one_winner(user: Any, empty_broker: Any) -> None:
    clients = [Api(user) for _ in range(6)]
    calls = [partial(one.submit, idempotency_key="race", params={"top": top}) for top, one in enumerate(clients)]
    statuses = sorted(one.status_code for one in together(calls))
    assert statuses == [202] + [409] * 5


def test_run_after_is_kept_in_utc(api: Api) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    east = later.astimezone(tz=datetime.strptime("+0530", "%z").tzinfo)
    job = api.submit(run_after=east.isoformat()).json()
    assert job["run_after"] == later.isoformat().replace("+00:00", "Z")


@committed
def test_submits_are_accepted_while_the_broker_hangs(api: Api, broker: Any) -> None:
    with broker.paused():
        assert api.submit().status_code == 202


@pytest.mark.parametrize(
    ("run_after", "why"),
    [
        ("2030-01-01T00:00:00", "time zone"),
        ("2030-01-01", "time zone"),
        (1893456000, "time zone"),
        ("1893456000", "time zone"),
        ("2030-13-01T00:00:00Z", "month"),
        ("9999-12-31T23:59:59-14:00", "366 days"),
        ("0001-01-01T00:00:00+14:00", "366 days"),
        ("0000-01-01T00:00:00Z", "year"),
        pytest.param((datetime.now(UTC) + timedelta(days=400)).isoformat(), "366 days", id="in 400 days"),
    ],
)
def test_run_after_must_be_a_moment_within_reach(api: Api, run_after: Any, why: str) -> None:
    found = problem(api.submit(run_after=run_after), 422)
    assert [one["field"] for one in found["errors"]] == ["run_after"]
    assert why in found["errors"][0]["why"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": 5}, "kind"),
        ({"kind": "no-such-kind"}, "kind"),
        ({"kind": "tile"}, "kind"),  # only other kinds may ask for it
        ({"kind": "digest\x00"}, "kind"),
        ({"kind": "digest", "parms": {}}, "parms"),
        ({"kind": "digest", "params": []}, "params"),
        ({"kind": "digest", "params": {"top": 51}}, "params.top"),
        ({"kind": "digest", "params": {"top": 10**400}}, "params.top"),
        ({"kind": "digest", "params": {"top": 1.5}}, "params.top"),
        ({"kind": "digest", "params": {"nope": 1}}, "params.nope"),
        ({"kind": "digest", "params": {"text": "a\x00b"}}, "params"),
        ({"kind": "digest", "params": {"text": "\ud800"}}, "params"),
        ({"kind": "digest", "params": {"\ud800": "x"}}, "params"),
        ({"kind": "digest", "params": {"text": {"deep": ["\x00"]}}}, "params.text"),
        ({"kind": "digest", "idempotency_key": ""}, "idempotency_key"),
        ({"kind": "digest", "idempotency_key": "x" * 129}, "idempotency_key"),
        ({"kind": "digest", "idempotency_key": "a\x00"}, "idempotency_key"),
        ({"kind": "digest", "idempotency_key": "a\n"}, "idempotency_key"),
        ({"kind": "digest", "idempotency_key": "\ud800"}, "idempotency_key"),
        ({"kind": "mandelbrot", "params": {"re": 1e999}}, "params.re"),
        ([], "body"),
        ("text", "body"),
        (None, "body"),
    ],
)
def test_wrong_submission_is_422_and_says_which_field(api: Api, body: Any, field: str) -> None:
    raw = json.dumps(body).replace("Infinity", "1e999").encode()
    found = problem(api.post("/jobs", raw), 422)
    assert field in [one["field"] for one in found["errors"]]
    assert all(one["why"] for one in found["errors"])
    assert Job.objects.count() == 0


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        '{"kind": "digest"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"kind": "digest"}',
        b'{"kind": "digest", "params": {"top": NaN}}',
        b'{"kind": "digest", "params": {"top": -Infinity}}',
        b'{"kind": "digest", "kind": "burn"}',
        b'{"kind": "digest", "params": {"top": 1, "top": 2}}',
        b'{"kind": "digest", "params": {"top": ' + b"9" * 10_000 + b"}}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"kind": "digest"} extra',
        b'{"kind": "dig\x01est"}',
    ],
    ids=range(13),
)
def test_what_is_not_json_is_400(api: Api, body: bytes) -> None:
    assert "body" in problem(api.post("/jobs", body), 400)["detail"]


def test_deep_nesting_is_refused_in_words_or_parsed(api: Api) -> None:
    assert "nested too deeply" in problem(api.post("/jobs", b"[" * 100_000), 400)["detail"]
    nested = b"[" * 300 + b"]" * 300
    problem(api.post("/jobs", b'{"kind": "digest", "params": {"text": %s}}' % nested), 422)


def test_empty_body_is_422(api: Api) -> None:
    assert problem(api.post("/jobs"), 422)["errors"][0]["field"] == "body"


def test_batch_accepts_all_in_order(api: Api) -> None:
    response = api.post("/jobs/batch", {"jobs": [{"kind": "digest", "params": {"top": n}} for n in range(20)]})
    assert response.status_code == 202
    jobs = response.json()["jobs"]
    assert [job["params"]["top"] for job in jobs] == list(range(20))
    assert [job["id"] for job in jobs] == sorted(job["id"] for job in jobs)


def test_batch_with_one_wrong_job_stores_none(api: Api) -> None:
    found = problem(
        api.post("/jobs/batch", {"jobs": [{"kind": "digest"}, {"kind": "digest", "params": {"top": -1}}]}), 422
    )
    assert found["errors"][0]["field"] == "jobs.1.params.top"
    assert Job.objects.count() == 0


@pytest.mark.parametrize("size", [0, 1001])
def test_batch_has_1_to_1000_jobs(api: Api, size: int) -> None:
    found = problem(api.post("/jobs/batch", {"jobs": [{"kind": "digest"}] * size}), 422)
    assert found["errors"][0]["field"] == "jobs"


def test_batch_of_1000_is_accepted(api: Api) -> None:
    jobs = [{"kind": "digest", "params": {"text": "x"}}] * 1000
    assert len(api.post("/jobs/batch", {"jobs": jobs}).json()["jobs"]) == 1000


def test_batch_names_a_key_twice(api: Api) -> None:
    one = {"kind": "digest", "idempotency_key": "k"}
    first, second = api.post("/jobs/batch", {"jobs": [one, one]}).json()["jobs"]
    assert first["id"] == second["id"]
    problem(api.post("/jobs/batch", {"jobs": [{"kind": "digest"}, {**one, "params": {"top": 1}}]}), 409)
    assert Job.objects.count() == 1


def test_too_many_open_jobs_are_429(api: Api, settings: Any) -> None:
    settings.ENV = settings.ENV.model_copy(update={"max_open_jobs": 2})
    assert [api.submit().status_code for _ in range(2)] == [202, 202]
    assert "2 open jobs" in problem(api.submit(), 429)["detail"]


def test_full_lane_is_503_and_says_when_to_come_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.submit.backlog", lambda lane, most: most)
    for response in (api.submit(), api.post("/jobs/batch", {"jobs": [{"kind": "digest"}] * 2})):
        assert "quick lane" in problem(response, 503)["detail"]
        assert int(response.headers["Retry-After"]) > 0
    assert not Job.objects.exists()


def test_what_is_not_due_is_no_backlog_and_has_a_limit_of_its_own(
    api: Api, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.submit.BACKLOG_SEEN_FOR_S", -1)
    settings.ENV = settings.ENV.model_copy(update={"max_scheduled_jobs": 3})
    later = {"run_after": (datetime.now(UTC) + timedelta(days=1)).isoformat()}
    assert [api.submit(**later).status_code for _ in range(3)] == [202] * 3
    assert "3 jobs that are to run later" in problem(api.submit(**later), 429)["detail"]
    assert (submit.backlog("quick", 10), api.submit().status_code, submit.backlog("quick", 10)) == (0, 202, 1)
    [quick] = [lane for lane in api.get("/lanes").json()["items"] if lane["name"] == "quick"]
    assert quick["queued"] == 1


def test_a_user_who_stores_too_much_is_429_until_enough_has_expired(api: Api, stranger: Api, settings: Any) -> None:
    settings.ENV = settings.ENV.model_copy(update={"max_stored_bytes": 1_200_000})
    succeeded(api.user, {"few": "x" * 1000})
    assert Job.objects.get().stored_bytes == 0
    body = {"params": {"text": "x" * 100_000}}
    assert api.submit(**body).status_code == 202
    for size in (600_000, 600_000):
        succeeded(api.user, {"many": "x" * 10_000}, file=Artifact(b"x" * size, "text/plain", "x.txt"))
    day = Job.objects.order_by("finished_at").values_list("finished_at", flat=True)[1] + timedelta(days=30)
    submit._stored_seen.clear()
    why = problem(api.submit(), 429)["detail"]
    assert why.startswith("Your jobs keep 1.3 MB, over the limit of 1.2; they are deleted 30 days after their end")
    assert f"the first of them at {day:%Y-%m-%d %H:%M} UTC" in why
    assert stranger.submit().status_code == 202
    Job.objects.filter(stored_bytes__gt=600_000)[1].delete()
    submit._stored_seen.clear()
    assert api.submit().status_code == 202


def test_what_a_user_stores_is_not_added_up_for_each_submit(api: Api) -> None:
    asked = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as seen:
            api.submit()
        asked.append(sum("SUM(" in one["sql"] for one in seen.captured_queries))
    assert asked == [1, 0]
