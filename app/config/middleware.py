"""A response header that Django 5.2 has no setting for; and what an API request with a token does without."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest, HttpResponse

from jobs.problems import PREFIX

POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def content_security_policy(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Browsers run our own scripts only. Inline styles stay allowed: the admin and the API docs need them."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return middleware


class _ForBrowsers:
    """Left out where an Authorization header alone says who asks (jobs.api.SessionCookie): such a request has no
    session, no user of one, and nobody to show a message to.
    """

    get_response: Callable[[HttpRequest], Any]

    def __call__(self, request: HttpRequest) -> Any:
        if request.path_info.startswith(PREFIX) and "Authorization" in request.headers:
            return self.get_response(request)
        return super().__call__(request)  # type: ignore[misc]


class Sessions(_ForBrowsers, SessionMiddleware):
    """Django's, for browsers."""


class Authentication(_ForBrowsers, AuthenticationMiddleware):
    """Django's, for browsers."""


class Messages(_ForBrowsers, MessageMiddleware):
    """Django's, for browsers."""
