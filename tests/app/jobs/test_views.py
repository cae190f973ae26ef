"""The pages of jobs, as a browser without scripts sees them."""

import html
import re
import uuid
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.utils import timezone

import kinds
from jobs import services, submit
from jobs.models import Job, State
from jobs.submit import Submission, available_kinds
from jobs.templatetags import headrace
from jobs.views import ONE_TIME_KEY, PAGE
from kinds.base import Artifact, Part
from tests.app.ledger import PNG, job_of, running, succeeded, text_of

pytestmark = pytest.mark.django_db
KINDS = sorted(name for name, kind in kinds.ALL.items() if not kind.internal)
KEY = "0123456789abcdef" * 2


# ---- who may see what -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/jobs/live", "/new/", "/new/digest/", "/fleet/", "/fleet/live"])
def test_strangers_are_asked_to_sign_in(path: str) -> None:
    response = Client().get(path)
    assert response.status_code == 302
    assert response.url == f"/login/?{urlencode({'next': path}, safe='/')}"


def test_sign_in_and_out(client: Client, django_user_model: Any) -> None:
    django_user_model.objects.create_user("eve", password="eve-password-1")
    wrong = client.post("/login/", {"username": "eve", "password": "wrong"})
    assert "correct username and password" in text_of(wrong)
    right = client.post("/login/", {"username": "eve", "password": "eve-password-1", "next": "/fleet/"})
    assert right.url == "/fleet/"
    assert client.post("/logout/").url == "/login/"
    assert client.get("/").status_code == 302


@pytest.mark.parametrize("path", ["/jobs/{}/", "/jobs/{}/live"])
def test_others_jobs_do_not_exist(page: Client, other_user: Any, path: str) -> None:
    job = job_of(other_user)
    assert page.get(path.format(job.pk)).status_code == 404
    assert page.get(path.format(uuid.uuid4())).status_code == 404


@pytest.mark.parametrize("action", ["cancel", "again"])
def test_others_jobs_cannot_be_touched(page: Client, other_user: Any, action: str) -> None:
    job = job_of(other_user)
    assert page.post(f"/jobs/{job.pk}/{action}").status_code == 404
    assert [one.state for one in Job.objects.all()] == [State.QUEUED]


@pytest.mark.parametrize("path", ["/new/digest/", "/jobs/{}/cancel", "/jobs/{}/again"])
def test_posts_need_the_csrf_token(user: Any, path: str) -> None:
    job = job_of(user)
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    response = client.post(path.format(job.pk))
    assert response.status_code == 403
    assert "open too long" in text_of(response)
    assert [one.state for one in Job.objects.all()] == [State.QUEUED]


def test_forms_work_by_a_port_that_is_forwarded_and_name_the_setting_elsewhere(db: None) -> None:
    client = Client(enforce_csrf_checks=True, headers={"Host": "localhost:8443", "X-Forwarded-Proto": "https"})
    client.get("/login/", secure=True)
    form = {"username": "x", "password": "x", "csrfmiddlewaretoken": client.cookies["csrftoken"].value}

    def send(**headers: str) -> Any:
        return client.post("/login/", form, secure=True, headers=headers)

    assert send(Origin="https://localhost:8443").status_code == 200
    for header in ({"Origin": "https://<b>.example"}, {"Referer": "https://<b>.example"}):
        response = send(**header)
        assert response.status_code == 403
        assert "from https://<b>.example , which the server does not know" in text_of(response)
        assert "HEADRACE_TRUSTED_ORIGINS" in text_of(response)


@pytest.mark.parametrize("action", ["cancel", "again"])
def test_following_a_link_changes_nothing(page: Client, user: Any, action: str) -> None:
    job = job_of(user)
    assert page.get(f"/jobs/{job.pk}/{action}").status_code == 405
    assert [one.state for one in Job.objects.all()] == [State.QUEUED]


# ---- my jobs --------------------------------------------------------------------------------------------------------


def listed(response: Any) -> list[str]:
    return re.findall(r'<li data-key="([0-9a-f-]{36})"', response.content.decode())


def link(response: Any, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="([^"]+)"', response.content.decode())
    return html.unescape(found[1]) if found else ""


def test_list_without_jobs_leads_to_the_forms(page: Client) -> None:
    response = page.get("/")
    assert "No jobs yet" in text_of(response)
    assert 'href="/new/"' in response.content.decode().partition("No jobs yet")[2]


def test_list_is_mine_newest_first_and_without_parts(page: Client, user: Any, other_user: Any) -> None:
    mine = [job_of(user, text=str(number)) for number in range(3)]
    job_of(other_user)
    parent = running(user, "poster", columns=2, rows=1)
    assert services.split(parent, [Part("digest", {})] * 2)
    assert listed(page.get("/")) == [str(parent.id), *(str(job.pk) for job in reversed(mine))]


def test_list_filters(page: Client, user: Any) -> None:
    waits, other = job_of(user, "wait"), job_of(user)
    services.cancel(other.pk)
    assert listed(page.get("/?state=queued")) == [str(waits.pk)]
    assert listed(page.get("/?state=cancelled&kind=digest")) == [str(other.pk)]
    assert listed(page.get("/jobs/live?kind=wait")) == [str(waits.pk)]
    assert "No such jobs" in text_of(page.get("/?state=failed"))


@pytest.mark.parametrize("query", ["state=x", "kind=%00", "before=x", "after=1&before=2", "before=%F0", "state=&kind="])
def test_list_survives_any_query(page: Client, user: Any, query: str) -> None:
    job = job_of(user)
    assert listed(page.get(f"/?{query}")) == [str(job.pk)]


def test_pages_hold_every_job_once_even_while_jobs_arrive(page: Client, user: Any) -> None:
    total = 2 * PAGE + 3
    jobs = [str(job.pk) for job, _ in submit.submit(user.pk, [Submission("digest", {"top": 1})] * total)]
    walk, path = [], "/?kind=digest"
    while path:
        response = page.get(path)
        walk.append(listed(response))
        path = link(response, "next")
        job_of(user, "wait")
    assert [len(some) for some in walk] == [PAGE, PAGE, 3]
    assert [job for some in walk for job in some] == jobs[::-1]
    back = page.get(link(response, "prev"))
    assert listed(back) == walk[1]
    assert listed(page.get(link(back, "prev"))) == walk[0]


def test_long_list_asks_the_ledger_no_more_often_than_a_short_one(
    page: Client, user: Any, django_assert_num_queries: Any
) -> None:
    job_of(user)
    with django_assert_num_queries(3):  # the session, the user, the jobs
        page.get("/")
    submit.submit(user.pk, [Submission("digest", {})] * (PAGE - 1))
    with django_assert_num_queries(3):
        assert len(listed(page.get("/"))) == PAGE


def test_list_keeps_itself_current_more_often_while_a_job_is_open(page: Client, user: Any) -> None:
    job = job_of(user)
    assert "data-open" in page.get("/jobs/live").content.decode()
    services.cancel(job.pk)
    assert "data-open" not in page.get("/jobs/live").content.decode()


# ---- one job --------------------------------------------------------------------------------------------------------


def test_queued_job_says_what_it_waits_for(page: Client, user: Any) -> None:
    job = job_of(user)
    response = page.get(f"/jobs/{job.pk}/")
    assert "Waiting for a free slot in the quick lane" in text_of(response)
    assert f'action="/jobs/{job.pk}/cancel"' in response.content.decode()
    assert "Run again" not in text_of(response)


def test_running_job_shows_progress_worker_and_attempt(page: Client, user: Any) -> None:
    claim = running(user)
    services.report(claim, 0.42, "halfway, nearly")
    response = page.get(f"/jobs/{claim.id}/")
    text = text_of(response)
    assert 'aria-valuenow="42"' in response.content.decode()
    for words in ("42%", "halfway, nearly", "unit-1@host-one", "1 of 3", "solo pool"):
        assert words in text


def test_failed_job_says_why_and_may_run_again(page: Client, user: Any) -> None:
    claim = running(user)
    services.fail(claim, "The text is too sad.")
    text = text_of(page.get(f"/jobs/{claim.id}/"))
    assert "The text is too sad." in text
    assert "Run again" in text
    assert "Cancel" not in text.replace("Cancelled", "")


RESULTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "mandelbrot": (
        {"width": 9, "height": 6, "sha256": "ab" * 32, "points": 54321, "inside_share": 0.123456, "escape_sum": 7},
        ["54 321", "12.35%", "ab" * 32],
    ),
    "digest": (
        {
            "sha256": "cd" * 32,
            "characters": 11,
            "words": 2,
            "distinct_words": 2,
            "lines": 1,
            "top_words": [{"word": "brook", "count": 7}],
        },
        ["Most frequent words brook 7", "cd" * 32],
    ),
    "fetch": (
        {
            "url": "http://a.example/",
            "final_url": "http://b.example/",
            "status": 404,
            "headers": {"server": "brook/1.0"},
            "size": None,
            "sha256": None,
            "ttfb_ms": 12.3,
            "total_ms": 45.6,
            "redirects": [{"status": 302, "url": "http://a.example/"}],
        },
        ["Status 404", "First byte 12 ms", "302 http://a.example/", "server brook/1.0", "http://b.example/"],
    ),
    "linkcheck": (
        {
            "page": "http://a.example/",
            "checked": 2,
            "ok": 1,
            "broken": 1,
            "refused": 0,
            "links": [
                {"url": "http://a.example/1", "ok": True, "ms": 5.0, "status": 200},
                {"url": "http://a.example/2", "ok": False, "ms": None, "error": "It did not answer."},
            ],
        },
        ["Broken 1", "200 http://a.example/1", "It did not answer."],
    ),
    "burn": (
        {
            "check": "ef" * 32,
            "rounds": 1000,
            "fine": True,
            "none": None,
            "empty": [],
            "list": [1, 2],
            "rows": [{"a": 1}, {"b": "x"}],
            "deep": {"cpu_ms": 1.5},
        },
        ["Rounds 1 000", "Fine yes", "List 1 2", "A B 1 – – x", "Cpu ms 1.5", "Empty none"],
    ),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_result_is_readable(page: Client, user: Any, kind: str) -> None:
    result, words = RESULTS[kind]
    text = text_of(page.get(f"/jobs/{succeeded(user, result, kind)}/"))
    for some in words:
        assert some in text.replace("\u202f", " ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "result", [{}, {"links": [{}], "top_words": [{}], "redirects": [1], "headers": "x", "points": "many"}]
)
def test_result_of_another_version_of_the_kind_does_not_break_the_page(
    page: Client, user: Any, kind: str, result: dict[str, Any]
) -> None:
    assert page.get(f"/jobs/{succeeded(user, result, kind)}/").status_code == 200


def test_picture_is_shown(page: Client, user: Any) -> None:
    job_id = succeeded(user, RESULTS["mandelbrot"][0], "mandelbrot", PNG)
    content = page.get(f"/jobs/{job_id}/live").content.decode()
    assert f'<img src="/api/jobs/{job_id}/artifact"' in content
    assert 'width="9" height="6"' in content
    picture = page.get(f"/api/jobs/{job_id}/artifact")
    assert (picture["Content-Type"], picture.getvalue()) == ("image/png", PNG.content)


def test_file_that_is_no_picture_is_offered(page: Client, user: Any) -> None:
    job_id = succeeded(user, {}, "wait", Artifact(b"a,b", "text/csv", "table.csv"))
    content = page.get(f"/jobs/{job_id}/").content.decode()
    assert f'href="/api/jobs/{job_id}/artifact" download' in content
    assert "<img" not in content


def test_poster_fills_with_its_tiles(page: Client, user: Any) -> None:
    claim = running(user, "poster", columns=2, rows=1)
    split = kinds.ALL["poster"].run(kinds.ALL["poster"].params(columns=2, rows=1), lambda *_: None)
    assert services.split(claim, split.parts)
    tiles = list(Job.objects.filter(parent=claim.id).order_by("part"))
    tile = services.claim(tiles[0].pk, "cpu-1@host", "prefork")
    assert tile
    services.succeed(tile, {}, PNG)
    response = page.get(f"/jobs/{claim.id}/live")
    assert "1 of 2 parts are done" in text_of(response)
    assert re.findall(r'<img src="/api/jobs/([^/]+)/', response.content.decode()) == [str(tiles[0].pk)]
    assert f'href="/jobs/{claim.id}/"' in page.get(f"/jobs/{tiles[0].pk}/").content.decode()


def test_parts_of_any_kind_are_a_grid_of_states(page: Client, user: Any) -> None:
    claim = running(user, "linkcheck")
    assert services.split(claim, [Part("fetch", {"url": f"http://a.example/{number}"}) for number in range(3)])
    content = page.get(f"/jobs/{claim.id}/").content.decode()
    assert len(re.findall(r'class="part queued" style', content)) == 3
    assert "http://a.example/2: queued" in content


def test_what_users_and_servers_wrote_is_escaped(page: Client, user: Any) -> None:
    bad = "<script>alert(1)</script>"
    claim = running(user, text=bad)
    services.report(claim, 0.5, bad)
    paths = [f"/jobs/{claim.id}/", "/"]
    seen = [page.get(path).content.decode() for path in paths]
    services.fail(claim, bad)
    seen += [page.get(path).content.decode() for path in paths]
    job_id = succeeded(user, {**RESULTS["digest"][0], "top_words": [{"word": bad, "count": 1}], "sha256": bad})
    seen.append(page.get(f"/jobs/{job_id}/").content.decode())
    assert all("&lt;script&gt;" in one and bad not in one for one in seen)


def test_live_pieces_are_pieces(page: Client, user: Any) -> None:
    job = job_of(user)
    for path in ("/jobs/live", f"/jobs/{job.pk}/live", "/fleet/live"):
        response = page.get(path)
        assert "<html" not in response.content.decode()
        assert "no-store" in response["Cache-Control"]


def test_stretches_of_the_timing_bar(user: Any) -> None:
    at = timezone.now()

    def second(number: float) -> Any:
        return at + timezone.timedelta(seconds=number)

    job = Job(
        state=State.SUCCEEDED, created_at=at, started_at=second(2), finished_at=second(5), notified_at=second(5.5)
    )
    assert [stretch["seconds"] for stretch in headrace.stretches(job)] == [2, 3, 0.5]
    waiting = Job(state=State.QUEUED, created_at=at, run_after=second(10))
    waiting.now = second(14)
    assert [(one["seconds"], one["growing"]) for one in headrace.stretches(waiting)] == [
        (4, True),
        (None, False),
        (None, False),
    ]
    active = Job(state=State.RUNNING, created_at=at, started_at=second(1))
    active.now = second(4)
    assert [(one["seconds"], one["growing"]) for one in headrace.stretches(active)][:2] == [(1, False), (3, True)]


# ---- doing something to a job ---------------------------------------------------------------------------------------


def test_cancel_says_what_happened(page: Client, user: Any) -> None:
    queued, active = job_of(user).pk, running(user).id
    expected = {queued: "Cancelled.", active: "Asked to stop", succeeded(user, {}): "the job had already succeeded"}
    for job_id, words in expected.items():
        response = page.post(f"/jobs/{job_id}/cancel", follow=True)
        assert words in text_of(response)
    assert Job.objects.get(pk=queued).state == State.CANCELLED
    assert Job.objects.get(pk=active).cancel_requested


def test_run_again_is_a_new_job_with_the_same_params(page: Client, user: Any) -> None:
    old = job_of(user, text="again and again", top=2)
    services.cancel(old.pk)
    for _ in "12":
        response = page.post(f"/jobs/{old.pk}/again", {ONE_TIME_KEY: KEY})
    new = Job.objects.exclude(pk=old.pk).get()
    assert response.url == f"/jobs/{new.pk}/"
    assert (new.kind, new.params, new.state) == (old.kind, old.params, State.QUEUED)


def test_part_cannot_run_again_alone(page: Client, user: Any) -> None:
    claim = running(user, "poster", columns=1, rows=1)
    services.split(claim, kinds.ALL["poster"].run(kinds.ALL["poster"].params(columns=1, rows=1), lambda *_: None).parts)
    services.cancel(claim.id)
    tile = Job.objects.get(kind="tile")
    assert "Run again" not in text_of(page.get(f"/jobs/{tile.pk}/"))
    assert page.post(f"/jobs/{tile.pk}/again").status_code == 422
    assert Job.objects.count() == 2


def test_change_and_run_starts_from_the_old_params(page: Client, user: Any, other_user: Any) -> None:
    mine, theirs = job_of(user, text="my words"), job_of(other_user, text="their words")
    assert "my words" in page.get(f"/new/digest/?from={mine.pk}").content.decode()
    assert "their words" not in page.get(f"/new/digest/?from={theirs.pk}").content.decode()
    assert page.get("/new/digest/?from=nonsense").status_code == 200


# ---- every page -----------------------------------------------------------------------------------------------------


class Rules(HTMLParser):
    """Collects what our own pages must not have: inline code, controls without a name, ids that come twice."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: list[str] = []
        self._ids: list[str] = []
        self._labels: set[str] = set()
        self._controls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.broken += [f"{tag} {name}" for name in found if name.startswith("on")]
        if tag == "script" and "src" not in found:
            self.broken.append("inline script")
        if tag == "img" and not found.get("alt"):
            self.broken.append(f"no alt: {found}")
        if tag == "label":
            self._labels.add(str(found.get("for")))
        if tag in ("input", "select", "textarea") and found.get("type") != "hidden":
            self._controls.append(str(found.get("id")))
        if found.get("id"):
            self._ids.append(str(found["id"]))

    def close(self) -> None:
        super().close()
        self.broken += [f"no label: {name}" for name in self._controls if name not in self._labels]
        self.broken += [f"twice: {name}" for name in set(self._ids) if self._ids.count(name) > 1]


def test_pages_keep_the_rules(page: Client, user: Any) -> None:
    jobs = [job_of(user).pk, running(user).id, succeeded(user, RESULTS["fetch"][0], "fetch")]
    jobs.append(succeeded(user, RESULTS["mandelbrot"][0], "mandelbrot", PNG))
    paths = ["/", "/?state=failed", "/new/", "/fleet/", *(f"/new/{kind}/" for kind in available_kinds())]
    for path in (*paths, *(f"/jobs/{job_id}/" for job_id in jobs)):
        response = page.get(path)
        assert response.status_code == 200
        assert "script-src" not in response["Content-Security-Policy"]
        rules = Rules()
        rules.feed(response.content.decode())
        rules.close()
        assert rules.broken == [], path


def test_error_pages_are_ours(page: Client) -> None:
    response = page.get("/no/such/page")
    assert response.status_code == 404
    assert "Nothing here" in text_of(response)
    for name in ("400", "403", "403_csrf", "500"):
        assert 'href="/"' in render_to_string(f"{name}.html")


def test_job_of_a_kind_that_is_gone_is_still_shown(page: Client, user: Any) -> None:
    job_id = succeeded(user, {"depth": 7})
    Job.objects.filter(pk=job_id).update(kind="dowse", params={"depth": 3})
    assert "Result Depth 7" in text_of(page.get(f"/jobs/{job_id}/"))
    assert "Run again" not in text_of(page.get(f"/jobs/{job_id}/"))
    assert "dowse depth 3" in text_of(page.get("/"))
