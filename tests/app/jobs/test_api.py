"""The API: every status it answers, and what it takes to get it."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx2
import pytest
from django.db import connections
from django.test import Client

from harness.waiting import answers, free_port, wait_until
from jobs import services
from jobs.models import Job, JobArtifact
from jobs.schemas import JobOut, JobsOut, KindsOut, LanesOut, as_json
from jobs.submit import Submission, submit
from jobs.tokens import create_token
from kinds.base import Artifact, Part

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)  # for tests with threads, processes or the broker
JSON = "application/json"
PNG = Artifact(b"\x89PNG not really", "image/png", "a picture.png")


class Api:
    """A client of one user, by bearer token."""

    def __init__(self, user: Any) -> None:
        self.user = user
        self.token = create_token(user)
        self._client = Client(raise_request_exception=False)

    def get(self, path: str, **headers: str) -> Any:
        return self._client.get(f"/api{path}", headers=self._headers(headers))

    def post(self, path: str, body: Any = None, content_type: str = JSON, **headers: str) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        return self._client.post(f"/api{path}", data, content_type=content_type, headers=self._headers(headers))

    def call(self, method: str, path: str) -> Any:
        return self._client.generic(method, f"/api{path}", headers=self._headers({}))

    def submit(self, **body: Any) -> Any:
        return self.post("/jobs", {"kind": "digest", **body})

    def _headers(self, more: dict[str, str]) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", **{k.replace("_", "-"): v for k, v in more.items()}}


@pytest.fixture
def api(user: Any) -> Api:
    return Api(user)


@pytest.fixture
def stranger(other_user: Any) -> Api:
    return Api(other_user)


def job_of(user: Any, kind: str = "digest", **params: Any) -> Job:
    [(job, _)] = submit(user.pk, [Submission(kind, params)])
    return job


def running(user: Any) -> services.Claim:
    claim = services.claim(job_of(user).pk, "quick-1@host", "solo")
    assert claim
    return claim


def succeeded(user: Any, artifact: Artifact | None = None) -> uuid.UUID:
    claim = running(user)
    assert services.succeed(claim, {"answer": 42}, artifact)
    return claim.id


def problem(response: Any, status: int) -> dict[str, Any]:
    """The answer is a problem: of this status, one sentence, no markup, no traceback."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    found: dict[str, Any] = json.loads(response.content)
    assert (found["status"], found["type"]) == (status, "about:blank")
    assert found["title"]
    assert found["detail"].endswith(".")
    assert "Traceback" not in found["detail"]
    return found


# ---- submitting -----------------------------------------------------------------------------------------------------


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
        ((datetime.now(UTC) + timedelta(days=400)).isoformat(), "366 days"),
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


# ---- reading --------------------------------------------------------------------------------------------------------


def test_cursor_walks_every_job_once_while_new_ones_arrive(api: Api) -> None:
    mine = {str(job_of(api.user).pk) for _ in range(25)}
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = api.get(f"/jobs?limit=10{cursor and f'&cursor={cursor}'}").json()
        assert JobsOut.model_validate(page)
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        job_of(api.user)
    assert seen == sorted(seen, reverse=True)
    assert (len(seen), set(seen)) == (25, mine)


def test_full_last_page_has_no_next(api: Api) -> None:
    for _ in range(3):
        job_of(api.user)
    assert api.get("/jobs?limit=3").json()["next_cursor"] is None


def test_filters(api: Api) -> None:
    digest, burn = job_of(api.user), job_of(api.user, "burn", lane="cpu")
    services.cancel(burn.pk)

    def listed(query: str) -> list[str]:
        return [job["id"] for job in api.get(f"/jobs?{query}").json()["items"]]

    assert listed("") == [str(burn.pk), str(digest.pk)]
    assert listed("kind=digest") == listed("lane=quick") == listed("state=queued") == [str(digest.pk)]
    assert listed("state=cancelled&kind=burn&lane=cpu") == [str(burn.pk)]
    assert listed("kind=fetch") == []


def test_parts_are_listed_under_their_parent_only(api: Api) -> None:
    claim = running(api.user)
    assert services.split(claim, [Part("digest", {"top": n}) for n in range(3)])
    assert [job["id"] for job in api.get("/jobs").json()["items"]] == [str(claim.id)]
    parts = api.get(f"/jobs?parent={claim.id}").json()["items"]
    assert {part["parent"] for part in parts} == {str(claim.id)}
    assert len(parts) == 3
    assert api.get(f"/jobs/{claim.id}").json()["open_parts"] == 3


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "limit=" + "9" * 5000, "cursor=x", "cursor=%00", "parent=1", "state=done",
     "kind=%00", "lane=%ED%A0%80", "kind=" + "a" * 41, "stat=queued", "%00=1"],
)  # fmt: skip
def test_wrong_filter_is_422(api: Api, query: str) -> None:
    assert problem(api.get(f"/jobs?{query}"), 422)["errors"]


def test_strangers_jobs_are_absent(api: Api, stranger: Api) -> None:
    theirs = succeeded(api.user, PNG)
    absent = uuid.uuid4()
    for path in ("/jobs/{}", "/jobs/{}/artifact"):
        assert stranger.get(path.format(theirs)).content == stranger.get(path.format(absent)).content
        problem(stranger.get(path.format(theirs)), 404)
    open_job = job_of(api.user).pk
    problem(stranger.post(f"/jobs/{open_job}/cancel"), 404)
    assert not Job.objects.get(pk=open_job).finished
    assert stranger.get("/jobs").json()["items"] == []
    assert stranger.get(f"/jobs?parent={theirs}&cursor={absent}").json()["items"] == []


@pytest.mark.parametrize("job_id", ["x", "%00", "1", str(uuid.uuid4()).upper(), str(uuid.uuid4())])
def test_unknown_job_is_404(api: Api, job_id: str) -> None:
    problem(api.get(f"/jobs/{job_id}"), 404)


# ---- cancelling -----------------------------------------------------------------------------------------------------


def test_cancel_of_a_queued_job_is_done_at_once(api: Api) -> None:
    path = f"/jobs/{job_of(api.user).pk}/cancel"
    first, again = api.post(path), api.post(path)
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert (again.status_code, again.json()["version"]) == (200, first.json()["version"])


def test_cancel_of_a_running_job_asks_it_to_stop(api: Api) -> None:
    claim = running(api.user)
    response = api.post(f"/jobs/{claim.id}/cancel")
    assert (response.status_code, response.json()["cancel_requested"]) == (202, True)
    assert services.stopped(claim)
    assert api.post(f"/jobs/{claim.id}/cancel").status_code == 200


def test_cancel_of_an_ended_job_is_409(api: Api) -> None:
    assert "succeeded" in problem(api.post(f"/jobs/{succeeded(api.user)}/cancel"), 409)["detail"]
    claim = running(api.user)
    services.fail(claim, "No.")
    assert "failed" in problem(api.post(f"/jobs/{claim.id}/cancel"), 409)["detail"]


# ---- artifacts ------------------------------------------------------------------------------------------------------


def test_artifact_is_sent_as_it_is_and_can_do_no_harm(api: Api) -> None:
    job_id = succeeded(api.user, PNG)
    job = api.get(f"/jobs/{job_id}").json()
    response = api.get(job["artifact_url"].removeprefix("/api"))
    assert (response.status_code, response.content) == (200, PNG.content)
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Content-Disposition"] == 'inline; filename="a picture.png"'
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    again = api.get(f"/jobs/{job_id}/artifact", If_None_Match=response.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")


def test_artifact_that_a_browser_could_run_is_downloaded(api: Api) -> None:
    job_id = succeeded(api.user, Artifact(b"<script>", "text/html", "x.html"))
    assert api.get(f"/jobs/{job_id}/artifact").headers["Content-Disposition"].startswith("attachment")


def test_no_artifact_is_404(api: Api) -> None:
    for job_id in (succeeded(api.user), job_of(api.user).pk):
        assert api.get(f"/jobs/{job_id}").json()["artifact_url"] is None
        problem(api.get(f"/jobs/{job_id}/artifact"), 404)


def test_lists_do_not_load_artifacts(api: Api, django_assert_num_queries: Any) -> None:
    for _ in range(5):
        succeeded(api.user, PNG)
    api.get("/jobs")
    with django_assert_num_queries(2) as seen:  # the token, the page
        assert all(job["artifact_url"] for job in api.get("/jobs").json()["items"])
    assert not any(f'"{JobArtifact._meta.db_table}"."content"' in one["sql"] for one in seen.captured_queries)


# ---- who asks -------------------------------------------------------------------------------------------------------


def test_without_sign_in_everything_is_401() -> None:
    client = Client()
    some = uuid.uuid4()
    paths = ["/jobs", f"/jobs/{some}", f"/jobs/{some}/artifact", f"/jobs/{some}/events", "/lanes", "/kinds"]
    asked = [client.get(f"/api{path}") for path in paths]
    asked += [client.post(f"/api{path}", {}, JSON) for path in ("/jobs", "/jobs/batch", f"/jobs/{some}/cancel")]
    for response in asked:
        problem(response, 401)
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="headrace"'


@pytest.mark.parametrize("header", ["Bearer nope", "Bearer ", "Basic abc", "hr_x", "Bearer \xff"])
def test_wrong_token_is_401_even_with_a_session(user: Any, header: str) -> None:
    client = Client()
    client.force_login(user)
    response = client.get("/api/jobs", headers={"Authorization": header})
    problem(response, 401)
    assert "invalid_token" in response.headers["WWW-Authenticate"]


def test_inactive_user_is_401(api: Api) -> None:
    api.user.is_active = False
    api.user.save()
    problem(api.get("/jobs"), 401)


def test_session_may_read_but_writes_need_the_csrf_token(user: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.get("/api/jobs").status_code == 200
    assert "CSRF" in problem(client.post("/api/jobs", {"kind": "digest"}, JSON), 403)["detail"]
    assert Job.objects.count() == 0
    client.get("/api/docs")
    token = client.cookies["csrftoken"].value
    assert client.post("/api/jobs", {"kind": "digest"}, JSON, headers={"X-CSRFToken": token}).status_code == 202


# ---- errors that are not ours ---------------------------------------------------------------------------------------


def test_unknown_address_is_404(api: Api) -> None:
    for path in ("/", "/nope", "/jobs/", "/jobs/x/y/z", "/%00"):
        problem(api.get(path), 404)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_wrong_method_is_405(api: Api, method: str) -> None:
    response = api.call(method, "/jobs")
    problem(response, 405)
    assert set(response.headers["Allow"].split(", ")) == {"GET", "POST"}


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_body_that_is_not_json_is_415(api: Api, media_type: str) -> None:
    problem(api.post("/jobs", b"a=1", content_type=media_type), 415)


def test_body_over_the_limit_is_413(api: Api, settings: Any) -> None:
    limit = settings.ENV.max_body_bytes
    assert f"{limit:,}" in problem(api.post("/jobs", b" " * (limit + 1)), 413)["detail"]
    problem(api.post("/jobs", b" " * limit), 400)


def test_bug_is_500_without_details(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("fleet.status.lanes", broken)
    assert "secret" not in json.dumps(problem(api.get("/lanes"), 500))


def test_unknown_host_is_400() -> None:
    problem(Client().get("/api/kinds", headers={"Host": "evil.example"}), 400)


def test_events_are_misdirected_here(api: Api) -> None:
    assert "push process" in problem(api.get(f"/jobs/{job_of(api.user).pk}/events"), 421)["detail"]


# ---- lanes, kinds, the document -------------------------------------------------------------------------------------


def test_lanes(api: Api) -> None:
    from fleet.models import Worker

    Worker.objects.create(name="cpu-1@host", host="host", lane="cpu", pool="prefork", concurrency=4, running=1)
    found = api.get("/lanes").json()
    assert LanesOut.model_validate(found)
    lanes = {lane["name"]: lane for lane in found["items"]}
    assert (lanes["cpu"]["slots"], lanes["cpu"]["workers"][0]["name"]) == (4, "cpu-1@host")
    assert lanes["cpu"]["workers"][0]["seen_at"].endswith("Z")


def test_kinds_carry_the_schema_of_their_params(api: Api) -> None:
    found = api.get("/kinds").json()
    assert KindsOut.model_validate(found)
    kinds = {kind["name"]: kind for kind in found["items"]}
    assert (kinds["digest"]["lane"], kinds["digest"]["pool"]) == ("quick", "solo")
    assert (kinds["burn"]["lane"], kinds["burn"]["pool"]) == (None, None)
    assert kinds["digest"]["schema"]["properties"]["top"]["maximum"] == 50
    assert "tile" not in kinds


def test_docs_are_readable_without_sign_in_and_load_nothing_from_elsewhere() -> None:
    page = Client().get("/api/docs").content.decode()
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<script") == page.count("<script src=") + page.count('<script type="application/json"')
    assert Client().get("/api/openapi.json").json()["info"]["title"] == "Headrace"


# ---- on the real server ---------------------------------------------------------------------------------------------


@pytest.fixture
def serve(launch: Any) -> Callable[..., str]:
    def start(**env: str) -> str:
        port = free_port()
        argv = ["gunicorn", "config.wsgi", "-k", "gthread", "--threads", "4", "-b", f"127.0.0.1:{port}"]
        process = launch("web", *argv, "--no-control-socket", **env)
        wait_until(lambda: process.alive() and answers(port), why="the web process answers")
        return f"http://127.0.0.1:{port}"

    return start


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 50_000):
        yield b" " * 50_000


@committed
def test_chunked_bodies_are_read_and_limited(api: Api, serve: Callable[..., str]) -> None:
    base = serve(HEADRACE_MAX_BODY_BYTES="100000")
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": JSON}
    for content, status in ((iter([b'{"kind":', b'"digest"}']), 202), (chunks(200_000), 413), (b" " * 100_001, 413)):
        response = httpx2.post(f"{base}/api/jobs", headers=headers, content=content)
        assert response.status_code == status
        assert status == 202 or problem(response, 413)


@committed
def test_without_a_database_it_is_503_and_the_process_lives(api: Api, serve: Callable[..., str]) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    base = serve(HEADRACE_DATABASE_URL=nowhere, HEADRACE_DATABASE_WAIT_S="0.5")
    with httpx2.Client(base_url=base, headers={"Authorization": f"Bearer {api.token}"}) as client:
        response = client.post("/api/jobs", json={"kind": "digest"})
        assert "database" in problem(response, 503)["detail"]
        assert int(response.headers["Retry-After"]) > 0
        problem(httpx2.get(f"{base}/api/lanes", headers={"Cookie": "sessionid=" + "a" * 32}), 503)
        assert client.get("/healthz").text == "ok"
        assert client.get("/metrics").status_code == 503
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"database": "down", "broker": "ok"})
