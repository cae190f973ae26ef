"""The API. Views are thin: they check, call a service, and answer; errors are problems (jobs/problems.py).

The answers are made by `schemas.as_json` and not validated by ninja, which would cost time on every request. The tests
compare the answers with the OpenAPI document instead.
"""

import json
import uuid
from collections.abc import Iterator
from functools import cache
from typing import Any, NoReturn, cast

from django.conf import settings
from django.contrib.auth.models import User
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError
from django.db.models import BinaryField, QuerySet
from django.db.models.functions import Length, Substr
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils.http import content_disposition_header
from ninja import NinjaAPI, Query
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.openapi.schema import OpenAPISchema
from ninja.parser import Parser
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf

from fleet import status as fleet_status
from jobs import listing, schemas, services, submit, tokens
from jobs.models import Job, JobArtifact, State
from jobs.problems import MEDIA_TYPE, NO_SUCH_JOB, Problem, body_of
from jobs.schemas import as_json, with_artifacts
from kinds.base import Kind

PIECE = 1_000_000  # bytes of a file in memory at a time
INLINE = {"image/png", "image/jpeg", "image/webp", "text/plain", "application/json"}
NOT_OURS = (
    "The CSRF token is missing or wrong: send it in the X-CSRFToken header, from a page at our own address or at one "
    "that HEADRACE_TRUSTED_ORIGINS names."
)
PUSH_SERVES = "The push process serves this address; route /ws/, /api/events and /api/jobs/{id}/events to it."
DESCRIPTION = """Submit work, follow it, fetch what came of it.

Sign in with a session cookie (writes then need the CSRF token), or send `Authorization: Bearer hr_...`
with a token from `manage.py create_api_token`. Every error is `application/problem+json`. To follow a job without
polling, read `events_url` (text/event-stream) or open a WebSocket on `ws_url`. To follow all of your jobs, also those
to come, on one connection, read `/api/events` or open a WebSocket on `/ws/jobs`. There, what `/api/events` says of
cursors holds; a socket takes one as `?since=`, sends it as `{"type": "cursor", "cursor": ...}`, and is closed with
code 4410 if it is too old."""


# ---- who asks -------------------------------------------------------------------------------------------------------


class BearerToken(HttpBearer):
    """`Authorization: Bearer hr_...`."""

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        """The token's user."""
        return tokens.user_of(token)


class SessionCookie(APIKeyCookie):
    """The cookie of a signed-in browser. A request that carries a token is judged by the token alone."""

    param_name = settings.SESSION_COOKIE_NAME

    def __call__(self, request: HttpRequest) -> Any:
        """The session's user; a write must prove that it comes from our own pages."""
        if "Authorization" in request.headers or not request.user.is_authenticated:
            return None
        if check_csrf(request):
            raise Problem(403, NOT_OURS)
        return request.user

    def authenticate(self, request: HttpRequest, key: str | None) -> NoReturn:
        """Unused: `__call__` does it all."""
        raise NotImplementedError


def _owner(request: HttpRequest) -> int:
    return cast(int, request.auth.pk)  # type: ignore[attr-defined]


def _mine(request: HttpRequest) -> QuerySet[Job]:
    return with_artifacts(Job.objects.filter(owner_id=_owner(request)))


def _my(request: HttpRequest, job_id: uuid.UUID) -> Job:
    """A job of the one who asks; anybody else's is answered like one that does not exist."""
    job = _mine(request).filter(pk=job_id).first()
    if job is None:
        raise Problem(404, NO_SUCH_JOB)
    return job


# ---- request bodies --------------------------------------------------------------------------------------------------


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names the same field twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class StrictParser(Parser):
    """JSON as RFC 8259 has it: UTF-8, no NaN, no field twice."""

    def parse_body(self, request: HttpRequest) -> Any:
        """The body as Python; ninja turns whatever is raised here into a 400, see `_http_error`."""
        try:
            return json.loads(request.body.decode(), object_pairs_hook=_unique_fields, parse_constant=_no_constant)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None


class HeadraceAPI(NinjaAPI):
    """ninja's API with our own OpenAPI document."""

    def get_openapi_schema(self, **kwargs: Any) -> OpenAPISchema:
        """The document; made once, since nothing in it changes while the process lives."""
        return _document(self)


api = HeadraceAPI(
    title="Headrace",
    version="1",
    description=DESCRIPTION,
    auth=[BearerToken(), SessionCookie()],
    parser=StrictParser(),
    urls_namespace="api",
)


# ---- errors ---------------------------------------------------------------------------------------------------------


@api.exception_handler(Problem)
def _problem(request: HttpRequest, problem: Problem) -> HttpResponse:
    return problem.response()


@api.exception_handler(AuthenticationError)
def _not_signed_in(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    refused = ', error="invalid_token"' if "Authorization" in request.headers else ""
    return Problem(401, WWW_Authenticate=f'Bearer realm="headrace"{refused}').response()


@api.exception_handler(HttpError)
def _http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    """The one that ninja itself raises here is its 400 for a body that the parser refused."""
    return Problem(error.status_code, f"The body cannot be read: {error.__cause__ or error}.").response()


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    errors = [_field(one) for one in error.errors]
    return Problem(422, f"{errors[0]['field']} is not right: {errors[0]['why']}.", errors).response()


def _field(error: dict[str, Any]) -> dict[str, str]:
    """ninja's location starts with where the value came from, and for a body with the view's argument."""
    source, *path = error["loc"]
    name = ".".join(str(part) for part in (path[1:] if source == "body" else path)) or source
    whys = {"missing": "it is missing; add it", "extra_forbidden": "there is no such field; remove it"}
    why = whys.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    return {"field": name[:200], "why": why}


@api.exception_handler(submit.Refused)
def _refused(request: HttpRequest, refused: submit.Refused) -> HttpResponse:
    later = {"Retry_After": str(settings.RETRY_AFTER_S)} if refused.http_status == 503 else {}
    return Problem(refused.http_status, refused.detail, _place(request, refused), **later).response()


def _place(request: HttpRequest, refused: submit.Refused) -> list[dict[str, str]]:
    """In a batch, which of its jobs the fields belong to."""
    batch = request.path_info.endswith("/batch") and refused.index is not None
    prefix = f"jobs.{refused.index}." if batch else ""
    return [{**one, "field": prefix + one["field"]} for one in refused.fields]


@api.exception_handler(OperationalError)
@api.exception_handler(InterfaceError)
def _database_away(request: HttpRequest, error: DatabaseError) -> NoReturn:
    """jobs.outages waits for the database, or answers 503."""
    raise error


@api.exception_handler(IntegrityError)
def _may_be_nobody(request: HttpRequest, error: IntegrityError) -> HttpResponse:
    """The user may have been deleted in the seconds for which a token is known (jobs/tokens.py)."""
    if User.objects.filter(pk=_owner(request)).exists():
        raise error
    tokens.forget()
    return _not_signed_in(request, AuthenticationError())


# ---- jobs -----------------------------------------------------------------------------------------------------------


def _answer(data: Any, status: int = 200, **headers: str) -> HttpResponse:
    headers["Cache-Control"] = "no-store"
    return HttpResponse(json.dumps(data), status=status, content_type="application/json", headers=headers)


def _submission(given: schemas.SubmissionIn) -> submit.Submission:
    return submit.Submission(given.kind, given.params, given.idempotency_key, given.run_after)


@api.post("/jobs", response={202: schemas.JobOut, 200: schemas.JobOut}, summary="Submit a job", tags=["jobs"])
def submit_job(request: HttpRequest, submission: schemas.SubmissionIn) -> HttpResponse:
    """202 with the new job. The same `idempotency_key` with the same body: 200 with the first one."""
    [(job, new)] = submit.submit(_owner(request), [_submission(submission)])
    view = as_json(job)
    return _answer(view, 202 if new else 200, Location=view["url"])


@api.post("/jobs/batch", response={202: schemas.BatchOut}, summary="Submit many jobs", tags=["jobs"])
def submit_batch(request: HttpRequest, batch: schemas.BatchIn) -> HttpResponse:
    """All are accepted, or none."""
    accepted = submit.submit(_owner(request), [_submission(one) for one in batch.jobs])
    return _answer({"jobs": [as_json(job) for job, _ in accepted]}, 202)


@api.get("/jobs", response=schemas.JobsOut, summary="List your jobs", tags=["jobs"])
def list_jobs(request: HttpRequest, filters: Query[schemas.JobFilters]) -> HttpResponse:
    """Newest first. A page of large jobs ends before `limit`; `next_cursor` says whether there are more."""
    _refuse_unknown_parameters(request)
    equal = filters.model_dump(include={"kind", "lane", "state"}, exclude_none=True)
    jobs = _mine(request).filter(**equal, parent_id=filters.parent)
    jobs = listing.older(jobs, filters.cursor) if filters.cursor else jobs.order_by(*listing.NEWEST_FIRST)
    items, cursor = listing.page(jobs, filters.limit)
    text = f'{{"items": [{", ".join(items)}], "next_cursor": {json.dumps(cursor and str(cursor))}}}'
    return HttpResponse(text, content_type="application/json", headers={"Cache-Control": "no-store"})


def _refuse_unknown_parameters(request: HttpRequest) -> None:
    """A misspelt filter would otherwise list everything."""
    errors = [
        {"field": name[:200], "why": "there is no such filter; remove it"}
        for name in request.GET
        if name not in schemas.JobFilters.model_fields
    ]
    if errors:
        known = ", ".join(schemas.JobFilters.model_fields)
        raise Problem(422, f"{errors[0]['field']} is not a filter; the filters are {known}.", errors)


@api.get("/jobs/{uuid:job_id}", response=schemas.JobOut, summary="One job", tags=["jobs"])
def get_job(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The job as it is now."""
    return _answer(as_json(_my(request, job_id)))


@api.post(
    "/jobs/{uuid:job_id}/cancel",
    response={200: schemas.JobOut, 202: schemas.JobOut},
    summary="Cancel a job",
    tags=["jobs"],
)
def cancel_job(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """200: it is cancelled. 202: it is running and has been asked to stop. 409: it had already ended otherwise."""
    _my(request, job_id)
    job = services.cancel(job_id)
    if job.state in (State.SUCCEEDED, State.FAILED):
        raise Problem(409, f"The job has already {job.state}; there is nothing left to cancel.")
    return _answer(as_json(job), 200 if job.finished else 202)


@api.get("/jobs/{uuid:job_id}/artifact", response={200: None, 304: None}, summary="The file a job left", tags=["jobs"])
def get_artifact(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse | StreamingHttpResponse:
    """Its bytes. A file never changes, so its ETag is its job's id; it is fetched only if the client lacks it."""
    job = _my(request, job_id)
    etag = f'"{job.pk}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    artifacts = JobArtifact.objects.filter(job=job)
    if etag in request.headers.get("If-None-Match", "") and artifacts.exists():
        return HttpResponse(status=304, headers=headers)
    artifact = artifacts.defer("content").annotate(size=Length("content")).first()
    if artifact is None:
        raise Problem(404, f"The job has left no file: it {_state_in_words(job)}.")
    return _file(artifact, headers)


def _state_in_words(job: Job) -> str:
    if job.note == services.FILE_DROPPED:
        return f"succeeded, and {job.note}, /api/jobs/{job.parent_id}"
    return f"is {job.state}" if job.state != State.SUCCEEDED else "succeeded with a result only"


def _pieces(job_id: uuid.UUID, size: int) -> Iterator[bytes]:
    """What is gone before its end breaks the connection, so that nobody takes a part for the whole."""
    rows = JobArtifact.objects.filter(pk=job_id)
    for offset in range(0, size, PIECE):
        piece = Substr("content", offset + 1, PIECE, output_field=BinaryField())
        yield bytes(rows.annotate(piece=piece).values_list("piece", flat=True).get())


def _file(artifact: JobArtifact, headers: dict[str, str]) -> StreamingHttpResponse:
    """The file, piece by piece, with headers that keep a browser from running anything in it."""
    size: int = artifact.size  # type: ignore[attr-defined]
    headers["Content-Length"] = str(size)
    response = StreamingHttpResponse(_pieces(artifact.pk, size), content_type=artifact.media_type, headers=headers)
    as_attachment = artifact.media_type not in INLINE
    response["Content-Disposition"] = content_disposition_header(as_attachment, artifact.filename) or "attachment"
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


@api.get("/jobs/{uuid:job_id}/events", response={200: None}, summary="Follow a job", tags=["jobs"])
def follow_job(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """A text/event-stream: the job now, then each change, until it has ended.

    Each event is named `job`, its id is the job's `version`, its data `{"type": "job", "job": ..., "sent_at": ...}`.
    """
    raise Problem(421, PUSH_SERVES)


@api.get("/events", response={200: None}, summary="Follow all of your jobs", tags=["jobs"])
def follow_jobs(request: HttpRequest, since: str = "") -> HttpResponse:
    """A text/event-stream without an end: each change of your jobs, but not of their parts, from now on.

    Events named `job` are those of one job. Now and then comes one named `cursor`: its id, and `cursor` in its data,
    says up to when everything was told. Connect again with the last one as `since` or `Last-Event-ID`, and nothing is
    missed, though some changes may be told twice (compare `version`). 410: it is more than ten minutes old, or none of
    ours; list your jobs, and follow without one.
    """
    raise Problem(421, PUSH_SERVES)


# ---- lanes and kinds ------------------------------------------------------------------------------------------------


@api.get("/lanes", response=schemas.LanesOut, summary="Lanes and workers", tags=["fleet"])
def list_lanes(request: HttpRequest) -> dict[str, Any]:
    """Every lane now: what waits, what runs, and which workers serve it."""
    return {"items": fleet_status.lanes()}


@api.get("/kinds", response=schemas.KindsOut, summary="Kinds of work", tags=["jobs"], by_alias=True)
def list_kinds(request: HttpRequest) -> dict[str, Any]:
    """What can be submitted, with the JSON schema of its params."""
    return {
        "items": [
            {
                "name": kind.name,
                "title": kind.title,
                "summary": kind.summary,
                "lane": kind.lane,
                "pool": settings.LANES[kind.lane].pool if kind.lane else None,
                "schema": kind.params.model_json_schema(),
            }
            for kind in submit.available_kinds().values()
        ]
    }


# ---- the document ---------------------------------------------------------------------------------------------------

EVERYWHERE = (400, 401, 405, 413, 415, 500, 503)
ALSO = {
    "submit_job": (403, 409, 422, 429),
    "submit_batch": (403, 409, 422, 429),
    "list_jobs": (422,),
    "get_job": (404,),
    "cancel_job": (403, 404, 409),
    "get_artifact": (404,),
    "follow_job": (404, 421, 429),
    "follow_jobs": (410, 421, 429),
}
EVENTS = ("text/event-stream", {"type": "string"})
BODIES = {"get_artifact": ("*/*", {}), "follow_job": EVENTS, "follow_jobs": EVENTS}


@cache
def _document(api: NinjaAPI) -> OpenAPISchema:
    document = NinjaAPI.get_openapi_schema(api)
    components = document["components"]["schemas"]
    components["ProblemOut"] = schemas.ProblemOut.model_json_schema(ref_template="#/components/schemas/{model}")
    components |= components["ProblemOut"].pop("$defs")
    components["SubmissionIn"] = _any_kind(components["SubmissionIn"])
    for path in document["paths"].values():
        for operation in path.values():
            _describe(operation)
    return document


def _any_kind(submission: dict[str, Any]) -> dict[str, Any]:
    """One alternative for each kind, so that the document says which params go with it."""
    kinds = [_of_kind(submission, kind) for kind in submit.available_kinds().values()]
    return {**submission, "anyOf": kinds, "example": {"kind": "digest", "params": {"text": "to be or not to be"}}}


def _of_kind(submission: dict[str, Any], kind: Kind) -> dict[str, Any]:
    params = kind.params.model_json_schema()
    narrowed = {"kind": {"const": kind.name, "type": "string"}, "params": params}
    return {
        "title": kind.title,
        "type": "object",
        "properties": submission["properties"] | narrowed,
        "required": ["kind", *(["params"] if params.get("required") else [])],
        "additionalProperties": False,
    }


def _describe(operation: dict[str, Any]) -> None:
    name = operation["operationId"] = operation["operationId"].removeprefix("jobs_api_")
    for status in sorted({*EVERYWHERE, *ALSO.get(name, ())}):
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
        operation["responses"][status] = {"description": body_of(status)["title"], "content": content}
    if name in BODIES:
        media_type, schema = BODIES[name]
        operation["responses"][200]["content"] = {media_type: {"schema": schema}}
