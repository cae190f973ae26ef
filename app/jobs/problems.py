"""RFC 9457: every error under /api/ is application/problem+json with one sentence that says what to change."""

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from io import BytesIO
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

MEDIA_TYPE = "application/problem+json"
PREFIX = "/api/"
NO_SUCH_JOB = "You have no job with this id; see GET /api/jobs for those you have."
Errors = Sequence[Mapping[str, str]]

# What a client reads of an error that Django or ninja answered, not our own code.
SENTENCES = {
    400: "The request is malformed; check its syntax, its Host header and its encoding.",
    401: "Sign in, or send `Authorization: Bearer` with a token made by `manage.py create_api_token`.",
    403: "You may not do this.",
    404: "There is nothing at this address; see /api/docs for the addresses that exist.",
    405: "This address does not take this method; the Allow header lists those that it takes.",
    413: f"The body is larger than {settings.ENV.max_body_bytes:,} bytes; send less in one request.",
    415: "The body is not JSON; send it with `Content-Type: application/json`.",
    500: "This is a bug of ours, and it has been logged; the same request may fail again.",
    503: "The database is out of reach; try again in a few seconds.",
}

MAY_BE_DONE = (
    "No answer came, but the request may have been accepted: look whether it was, or send it again with the same "
    "idempotency_key."
)


def body_of(status: int, detail: str = "", errors: Errors = ()) -> dict[str, Any]:
    """The members of a problem document; `type` is left at about:blank, so `title` is the status phrase."""
    phrase = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": phrase, "status": status, "detail": detail or SENTENCES.get(status, phrase)}
    return body | ({"errors": list(errors)} if errors else {})


class Problem(Exception):
    """An answer that is an error; any code that serves an API request may raise it."""

    def __init__(self, status: int, detail: str = "", errors: Errors = (), **headers: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.errors = status, detail, errors
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> HttpResponse:
        """The problem as an HTTP response."""
        content = json.dumps(body_of(self.status, self.detail, self.errors))
        return HttpResponse(content, status=self.status, content_type=MEDIA_TYPE, headers=self.headers)


class ProblemMiddleware:
    """Refuses bodies that are too large or not JSON before they are read, and turns every error into a problem."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith(PREFIX):
            return self._get_response(request)
        try:
            check_body(request)
        except Problem as problem:
            return problem.response()
        return _as_problem(self._get_response(request))


def check_body(request: HttpRequest) -> None:
    """Refuse a body over the limit, by Content-Length or by counting, and one that is not JSON.

    Raises:
        Problem: 413 or 415.
    """
    if request.META.get("wsgi.input_terminated") and request.headers.get("Transfer-Encoding"):
        _read_chunked(request)
    length = int(request.META.get("CONTENT_LENGTH") or 0)
    if length > settings.ENV.max_body_bytes:
        raise Problem(413)
    if length and request.content_type != "application/json":
        raise Problem(415)


def _read_chunked(request: HttpRequest) -> None:
    """Django takes a body without a Content-Length for empty: give it one. Reads at most one byte over the limit."""
    data = request.META["wsgi.input"].read(settings.ENV.max_body_bytes + 1)
    request.META["CONTENT_LENGTH"] = str(len(data))
    request._stream = BytesIO(data)


def _as_problem(response: HttpResponse) -> HttpResponse:
    """An error with its own headers and cookies (Allow, Retry-After), but a problem document for its body."""
    if response.status_code < 400 or response.headers.get("Content-Type", "").startswith(MEDIA_TYPE):
        return response
    problem = Problem(response.status_code).response()
    for name, value in response.headers.items():
        problem.headers.setdefault(name, value)
    problem.cookies = response.cookies
    problem.headers["Content-Length"] = str(len(problem.content))
    return problem
