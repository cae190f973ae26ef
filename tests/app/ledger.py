"""Jobs in the states that tests want, and what a person reads on a page."""

import html
import re
import uuid
from typing import Any

from fleet.models import Worker
from jobs import services
from jobs.models import Job
from jobs.submit import Submission, submit
from jobs.templatetags import headrace
from kinds.base import Artifact

PNG = Artifact(b"\x89PNG not really", "image/png", "a picture.png")
ANSWER = {"answer": 42}


def job_of(user: Any, kind: str = "digest", **params: Any) -> Job:
    [(job, _)] = submit(user.pk, [Submission(kind, params)])
    return job


def running(user: Any, kind: str = "digest", **params: Any) -> services.Claim:
    claim = services.claim(job_of(user, kind, **params).pk, "unit-1@host-one", "solo")
    assert claim
    return claim


def succeeded(
    user: Any, result: dict[str, Any] = ANSWER, kind: str = "digest", file: Artifact | None = None
) -> uuid.UUID:
    claim = running(user, kind)
    assert services.succeed(claim, result, file)
    return claim.id


def worker(name: str, lane: str, slots: int, busy: int) -> None:
    """A worker unit that is there."""
    host, pool = name.partition("@")[2], headrace.pool_of(lane)
    Worker.objects.create(name=name, host=host, lane=lane, pool=pool, concurrency=slots, running=busy)


def text_of(response: Any) -> str:
    """What a person reads: without tags, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).split())
