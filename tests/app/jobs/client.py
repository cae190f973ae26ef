"""A client of the API, in this process."""

import json
from typing import Any

from django.test import Client

from jobs.tokens import create_token

JSON = "application/json"


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
