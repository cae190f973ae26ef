"""Sign-in: guessing is slowed down, for an account and the address that it comes from; nothing is kept for ever."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.utils.timezone import now

from jobs import sign_in
from worker.tasks import expire

pytestmark = pytest.mark.django_db
PASSWORD = secrets.token_hex(16)
LIMIT, WAIT = settings.AXES_FAILURE_LIMIT, settings.AXES_COOLOFF_TIME


@pytest.fixture(autouse=True)
def ada(db: None) -> Any:
    return get_user_model().objects.create_superuser("ada", password=PASSWORD)


def attempt(
    password: str, name: str = "ada", path: str = "/login/", at: str = "192.0.2.1", **more: str
) -> HttpResponse:
    headers = {"X-Forwarded-For": at, **more}
    return Client().post(path, {"username": name, "password": password}, headers=headers)


def lock(path: str = "/login/") -> None:
    for number in range(LIMIT):
        attempt("wrong", path=path, User_Agent=str(number))


@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_after_some_wrong_passwords_even_the_right_one_must_wait(path: str) -> None:
    lock(path)
    response = attempt(PASSWORD, path=path)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "300")
    assert "Try again in 5 minutes" in response.content.decode()


def test_the_last_attempt_before_it_signs_in_and_forgets_the_wrong_ones() -> None:
    for _ in range(2):
        for _ in range(LIMIT - 1):
            assert attempt("wrong").status_code == 200
        assert attempt(PASSWORD).status_code == 302
    assert not AccessAttempt.objects.exists()


def test_other_addresses_and_other_accounts_are_not_held_up() -> None:
    get_user_model().objects.create_user("bob", password=PASSWORD)
    lock()
    assert attempt(PASSWORD, at="192.0.2.2").status_code == 302
    assert attempt(PASSWORD, name="bob").status_code == 302


def test_it_passes_though_somebody_goes_on_guessing() -> None:
    lock()
    AccessAttempt.objects.update(attempt_time=now() - WAIT + timedelta(seconds=30))
    assert attempt("wrong").status_code == 429
    AccessAttempt.objects.update(attempt_time=now() - WAIT - timedelta(seconds=1))
    assert attempt(PASSWORD).status_code == 302


def test_no_password_is_kept() -> None:
    attempt("my-secret-password")
    assert "my-secret-password" not in str(AccessAttempt.objects.values())


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("", "127.0.0.1"),
        ("nonsense", "127.0.0.1"),
    ],
)
def test_the_address_is_what_the_edge_says(said: str, address: str) -> None:
    assert sign_in.client_address(RequestFactory().get("/", headers={"X-Forwarded-For": said})) == address


def test_sessions_and_attempts_go_when_their_time_is_over() -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    Session.objects.bulk_create(Session(session_key=f"old{number}", expire_date=long_ago) for number in range(210))
    Session.objects.create(session_key="alive", expire_date=now() + timedelta(hours=1))
    attempt("wrong", name="eve")
    attempt("wrong", name="bob")
    AccessAttempt.objects.filter(username="eve").update(attempt_time=long_ago)
    assert sign_in.forget(limit=100) == 101
    expire()
    assert list(Session.objects.values_list("pk", flat=True)) == ["alive"]
    assert [one.username for one in AccessAttempt.objects.all()] == ["bob"]
