"""A request that brings a token needs no session; every other one has it."""

from typing import Any

import pytest
from django.core.handlers.base import BaseHandler
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory


@pytest.mark.parametrize(
    ("path", "headers", "has_session"),
    [
        ("/api/jobs", {"Authorization": "Bearer hr_x"}, False),
        ("/api/jobs", {"Authorization": ""}, False),
        ("/api/jobs", {}, True),
        ("/", {"Authorization": "Bearer hr_x"}, True),
        ("/", {}, True),
    ],
)
def test_requests_with_a_token_have_no_session(
    path: str, headers: dict[str, str], has_session: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[HttpRequest] = []
    monkeypatch.setattr(BaseHandler, "_get_response", lambda _, request: seen.append(request) or HttpResponse())
    handler = BaseHandler()
    handler.load_middleware()
    handler.get_response(RequestFactory().get(path, headers=headers))
    assert [hasattr(seen[0], name) for name in ("session", "user", "_messages")] == [has_session] * 3


@pytest.mark.django_db
def test_pages_of_the_api_need_no_session(user: Any) -> None:
    for path, status in (("docs", 200), ("openapi.json", 200), ("jobs", 401), ("nowhere", 404)):
        assert Client().get(f"/api/{path}", headers={"Authorization": "Bearer nope"}).status_code == status
