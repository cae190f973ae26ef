"""The forms of new jobs: what is offered, what comes back when something is wrong, and one job for a double click."""

import html
import re
import time
from typing import Any

import pytest
from django.test import Client

import kinds
from jobs import submit
from jobs.forms import form_for
from jobs.models import Job
from jobs.views import ONE_TIME_KEY
from tests.app.ledger import job_of, text_of

pytestmark = pytest.mark.django_db
KINDS = sorted(name for name, kind in kinds.ALL.items() if not kind.internal)
KEY = "0123456789abcdef" * 2


def defaults(kind: str) -> dict[str, Any]:
    """What a browser sends when the form is left as it came."""
    fields = form_for(kinds.ALL[kind])().fields
    sent = {name: field.initial for name, field in fields.items() if field.initial is not None}
    return {name: value for name, value in sent.items() if value is not False}


def test_every_kind_that_users_may_ask_for_is_offered(page: Client) -> None:
    found = re.findall(r'href="/new/(\w+)/"', page.get("/new/").content.decode())
    assert sorted(found) == KINDS
    assert page.get("/new/tile/").status_code == 404
    assert page.get("/new/nothing/").status_code == 404


def test_kinds_that_are_off_are_not_offered(page: Client, settings: Any) -> None:
    settings.ENV = settings.ENV.model_copy(update={"synthetic_kinds": False})
    assert "/new/burn/" not in page.get("/new/").content.decode()
    assert page.get("/new/burn/").status_code == 404


@pytest.mark.parametrize("kind", KINDS)
def test_form_says_what_the_model_says(page: Client, kind: str) -> None:
    response = page.get(f"/new/{kind}/")
    text = text_of(response)
    for name, field in kinds.ALL[kind].params.model_fields.items():
        assert field.title in text
        assert field.description in text
        assert f'<label for="id_{name}"' in response.content.decode()


@pytest.mark.parametrize("kind", KINDS)
def test_form_left_as_it_came_makes_the_default_job(page: Client, user: Any, kind: str) -> None:
    response = page.post(f"/new/{kind}/", {**defaults(kind), ONE_TIME_KEY: KEY})
    job = Job.objects.get()
    assert response.url == f"/jobs/{job.pk}/"
    assert (job.kind, job.owner) == (kind, user)
    assert job.params == kinds.ALL[kind].params().model_dump(mode="json")


def test_form_carries_the_bounds() -> None:
    fields = form_for(kinds.ALL["mandelbrot"])().fields
    assert fields["width"].widget.attrs == {"inputmode": "numeric", "step": 1, "min": 1, "max": 2048}
    assert fields["re"].widget.attrs == {"step": "any", "min": -3, "max": 3}
    assert fields["palette"].choices[0] == ("tailrace", "tailrace")
    assert form_for(kinds.ALL["fetch"])().fields["url"].widget.input_type == "url"
    assert form_for(kinds.ALL["digest"])().fields["text"].widget.attrs["maxlength"] == 200_000


@pytest.mark.parametrize(
    ("kind", "changed", "field"),
    [
        ("mandelbrot", {"width": "4000"}, "width"),
        ("mandelbrot", {"width": "wide"}, "width"),
        ("mandelbrot", {"width": ""}, "width"),
        ("mandelbrot", {"palette": "mud"}, "palette"),
        ("mandelbrot", {"re": "nan"}, "re"),
        ("mandelbrot", {"width": "2048", "height": "2048", "samples": "3", "iterations": "2000"}, "__all__"),
        ("fetch", {"url": "gopher://example.org"}, "url"),
        ("digest", {"text": "nothing \x00 here"}, "text"),
    ],
)
def test_mistake_is_shown_at_its_field(page: Client, kind: str, changed: dict[str, str], field: str) -> None:
    response = page.post(f"/new/{kind}/", {**defaults(kind), **changed})
    assert response.status_code == 422
    assert list(response.context["form"].errors) == [field]
    assert response.context["form"].errors[field][0] in html.unescape(response.content.decode())
    assert not Job.objects.exists()


def test_text_arrives_as_it_was_typed(page: Client) -> None:
    page.post("/new/digest/", {"text": "  two\r\nlines \r\n", "top": "3"})
    assert Job.objects.get().params == {"text": "  two\nlines \n", "top": 3}


def test_unticked_box_is_no(page: Client) -> None:
    page.post("/new/fetch/", {**defaults("fetch"), "headers_only": "on"})
    page.post("/new/fetch/", defaults("fetch"))
    assert [job.params["headers_only"] for job in Job.objects.order_by("pk")] == [True, False]


def test_double_click_makes_one_job(page: Client) -> None:
    sent = {**defaults("digest"), ONE_TIME_KEY: KEY}
    first, second = (page.post("/new/digest/", sent) for _ in range(2))
    assert first.url == second.url
    assert Job.objects.count() == 1
    assert "sent before" in text_of(page.get(first.url))


def test_changed_form_after_going_back_is_another_job(page: Client) -> None:
    page.post("/new/digest/", {"text": "one", "top": "1", ONE_TIME_KEY: KEY})
    page.post("/new/digest/", {"text": "two", "top": "1", ONE_TIME_KEY: KEY})
    assert [job.params["text"] for job in Job.objects.order_by("pk")] == ["one", "two"]


def test_each_form_has_its_own_key(page: Client) -> None:
    keys = {
        re.search(rf'name="{ONE_TIME_KEY}" value="(\w{{32}})"', page.get("/new/digest/").content.decode())[1]
        for _ in "12"
    }
    assert len(keys) == 2


@pytest.mark.parametrize("key", ["", "\x00", "x" * 500, "é"])
def test_strange_key_is_no_key(page: Client, key: str) -> None:
    for _ in "12":
        assert page.post("/new/digest/", {**defaults("digest"), ONE_TIME_KEY: key}).status_code == 302
    assert Job.objects.count() == 2


def test_too_many_open_jobs_is_429(page: Client, user: Any, settings: Any) -> None:
    settings.ENV = settings.ENV.model_copy(update={"max_open_jobs": 1})
    job = job_of(user)
    for path in ("/new/digest/", f"/jobs/{job.pk}/again"):
        response = page.post(path, defaults("digest"))
        assert response.status_code == 429
        assert response["Retry-After"] == "5"
        assert "You have 1 open jobs of at most 1" in text_of(response)
    assert Job.objects.count() == 1


def test_full_lane_is_503(page: Client, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(user)
    monkeypatch.setitem(submit._backlog_seen, "quick", (time.monotonic() + 60, 50_000))
    for path in ("/new/digest/", f"/jobs/{job.pk}/again"):
        response = page.post(path, defaults("digest"))
        assert response.status_code == 503
        assert response["Retry-After"] == "5"
        assert "The quick lane has 50000 jobs waiting" in text_of(response)
    assert Job.objects.count() == 1
