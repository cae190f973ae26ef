"""The API: reading, cancelling, artifacts, and who may."""

import hashlib
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client

import kinds
from jobs import services
from jobs.models import Job, JobArtifact
from jobs.schemas import JobsOut, KindsOut, LanesOut
from kinds.base import Artifact, Part
from tests.app.jobs.client import Api, problem
from tests.app.ledger import PNG, job_of, running, succeeded, text_of

pytestmark = pytest.mark.django_db
NOBODYS = "1d2c3b4a-5f6e-4d8c-9b0a-a1b2c3d4e5f6"
committed = pytest.mark.django_db(transaction=True)  # for tests with threads, processes or the broker
JSON = "application/json"


# ---- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.ledger
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


@pytest.mark.ledger
def test_jobs_of_the_same_moment_are_listed_once_each(api: Api) -> None:
    mine = [str(job_of(api.user).pk) for _ in range(25)]
    Job.objects.update(created_at=Now())
    seen = [job["id"] for job in api.get("/jobs?limit=12").json()["items"]]
    seen += [job["id"] for job in api.get(f"/jobs?cursor={seen[-1]}").json()["items"]]
    assert seen == sorted(mine, reverse=True)


def test_jobs_are_listed_by_the_databases_clock_whatever_the_hosts_said(api: Api, monkeypatch: Any) -> None:
    """A web host whose clock was an hour ahead for twenty jobs, and is right again for the next five."""
    ahead = iter(range(20))
    with monkeypatch.context() as patch:
        in_an_hour = int((time.time() + 3600) * 1000) << 80
        patch.setattr("jobs.submit.new_id", lambda: uuid.UUID(int=in_an_hour + next(ahead)))
        old = [str(job_of(api.user).pk) for _ in range(20)]
    new = [str(job_of(api.user).pk) for _ in range(5)]

    def page(query: str) -> tuple[list[str], str]:
        body = api.get(f"/jobs?limit=6{query}").json()
        return [job["id"] for job in body["items"]], body["next_cursor"]

    first, cursor = page("")
    assert first == [*reversed(new), old[-1]]
    late = job_of(api.user).pk
    assert page(f"&cursor={cursor}")[0] == old[13:19][::-1]
    assert page("")[0][0] == str(late)


@pytest.mark.ledger
def test_a_cursor_whose_job_has_been_deleted_goes_on_where_it_was(api: Api) -> None:
    mine = []
    for _ in range(6):
        mine.append(str(job_of(api.user).pk))
        time.sleep(0.01)
    page = api.get("/jobs?limit=3").json()
    Job.objects.filter(pk=page["next_cursor"]).delete()
    rest = api.get(f"/jobs?limit=3&cursor={page['next_cursor']}").json()
    assert [job["id"] for job in rest["items"]] == mine[2::-1]
    for strange in (uuid.UUID(int=2**128 - 1), uuid.UUID(int=0)):
        assert api.get(f"/jobs?cursor={strange}").status_code == 200


def test_full_last_page_has_no_next(api: Api) -> None:
    for _ in range(3):
        job_of(api.user)
    assert api.get("/jobs?limit=3").json()["next_cursor"] is None


@pytest.mark.ledger
def test_a_list_of_large_jobs_is_cut_and_goes_on(api: Api) -> None:
    mine = [str(succeeded(api.user, {"text": "x" * 199_000})) for _ in range(30)]
    seen: list[str] = []
    query, most = "/jobs?limit=100", 0
    while query:
        with peak_of_memory() as peak:
            response = api.get(query)
        most = max(most, peak())
        page = response.json()
        assert len(response.content) < 2_500_000
        assert JobsOut.model_validate(page)
        seen += [job["id"] for job in page["items"]]
        query = page["next_cursor"] and f"/jobs?limit=100&cursor={page['next_cursor']}"
    assert seen == mine[::-1]
    assert most < 12_000_000


def test_a_large_file_is_sent_in_pieces(api: Api) -> None:
    content = bytes(range(256)) * 50_000  # 12.8 MB
    job_id = succeeded(api.user, file=Artifact(content, "application/octet-stream", "large"))
    digest = hashlib.sha256()
    with peak_of_memory() as peak:
        response = api.get(f"/jobs/{job_id}/artifact")
        for piece in response.streaming_content:
            digest.update(piece)
    assert digest.digest() == hashlib.sha256(content).digest()
    assert peak() < 6_000_000


def test_a_file_that_goes_while_it_is_sent_breaks_the_answer_off(api: Api) -> None:
    job_id = succeeded(api.user, file=Artifact(bytes(3_000_000), "application/octet-stream", "large"))
    pieces = iter(api.get(f"/jobs/{job_id}/artifact").streaming_content)
    next(pieces)
    JobArtifact.objects.all().delete()
    with pytest.raises(JobArtifact.DoesNotExist):
        list(pieces)


@contextmanager
def peak_of_memory() -> Iterator[Callable[[], int]]:
    """What Python held at most, in bytes, besides what it held before."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    peaks: list[int] = []
    yield lambda: peaks[0]
    peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()


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
    theirs = succeeded(api.user, file=PNG)
    absent = uuid.uuid4()
    for path in ("/jobs/{}", "/jobs/{}/artifact"):
        assert stranger.get(path.format(theirs)).content == stranger.get(path.format(absent)).content
        problem(stranger.get(path.format(theirs)), 404)
    open_job = job_of(api.user).pk
    problem(stranger.post(f"/jobs/{open_job}/cancel"), 404)
    assert not Job.objects.get(pk=open_job).finished
    assert stranger.get("/jobs").json()["items"] == []
    assert stranger.get(f"/jobs?parent={theirs}&cursor={absent}").json()["items"] == []


@pytest.mark.parametrize("job_id", ["x", "%00", "1", NOBODYS.upper(), NOBODYS])
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
    job_id = succeeded(api.user, file=PNG)
    job = api.get(f"/jobs/{job_id}").json()
    response = api.get(job["artifact_url"].removeprefix("/api"))
    assert (response.status_code, response.getvalue()) == (200, PNG.content)
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Content-Length"] == str(len(PNG.content))
    assert response.headers["Content-Disposition"] == 'inline; filename="a picture.png"'
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    again = api.get(f"/jobs/{job_id}/artifact", If_None_Match=response.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")


def test_artifact_that_a_browser_could_run_is_downloaded(api: Api) -> None:
    job_id = succeeded(api.user, file=Artifact(b"<script>", "text/html", "x.html"))
    assert api.get(f"/jobs/{job_id}/artifact").headers["Content-Disposition"].startswith("attachment")


def test_no_artifact_is_404(api: Api) -> None:
    for job_id in (succeeded(api.user), job_of(api.user).pk):
        assert api.get(f"/jobs/{job_id}").json()["artifact_url"] is None
        problem(api.get(f"/jobs/{job_id}/artifact"), 404)


def joining(user: Any) -> tuple[services.Claim, str]:
    """A poster whose one tile has ended and left a file; the tile's id."""
    claim = running(user, "poster", columns=1, rows=1)
    services.split(claim, kinds.ALL["poster"].run(kinds.ALL["poster"].params(columns=1, rows=1), lambda *_: None).parts)
    tile = services.claim(Job.objects.get(kind="tile").pk, "cpu-1@host", "prefork")
    assert tile
    assert services.succeed(tile, {"points": 1}, PNG)
    again = services.claim(claim.id, "cpu-1@host", "prefork")
    assert again
    return again, str(tile.id)


def test_a_part_loses_its_file_and_says_so_once_the_whole_is_stored(api: Api, page: Client) -> None:
    claim, tile = joining(api.user)
    assert api.get(f"/jobs/{tile}/artifact").getvalue() == PNG.content
    assert services.succeed(claim, {}, PNG)
    assert [file.job_id for file in JobArtifact.objects.all()] == [claim.id]
    part = api.get(f"/jobs/{tile}").json()
    assert (part["artifact_url"], part["result"]) == (None, {"points": 1})
    assert set(Job.objects.values_list("kind", "stored_bytes")) == {("tile", 0), ("poster", len(PNG.content))}
    why = problem(api.get(f"/jobs/{tile}/artifact"), 404)["detail"]
    assert why.endswith(f"it had gone into the whole, /api/jobs/{claim.id}.")
    assert "Its file was dropped" in text_of(page.get(f"/jobs/{tile}/"))


def test_parts_of_what_failed_keep_their_files(api: Api) -> None:
    claim, tile = joining(api.user)
    assert services.fail(claim, "No.")
    assert api.get(f"/jobs/{tile}/artifact").getvalue() == PNG.content


def test_lists_do_not_load_artifacts(api: Api, django_assert_max_num_queries: Any) -> None:
    for _ in range(5):
        succeeded(api.user, file=PNG)
    api.get("/jobs")
    with django_assert_max_num_queries(3) as seen:  # a few jobs, the rest of the page; the token may be known
        assert all(job["artifact_url"] for job in api.get("/jobs").json()["items"])
    assert not any(f'"{JobArtifact._meta.db_table}"."content"' in one["sql"] for one in seen.captured_queries)


# ---- who asks -------------------------------------------------------------------------------------------------------


def test_without_sign_in_everything_is_401() -> None:
    client = Client()
    some = uuid.uuid4()
    paths = ["/jobs", f"/jobs/{some}", f"/jobs/{some}/artifact", f"/jobs/{some}/events", "/events", "/lanes", "/kinds"]
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
