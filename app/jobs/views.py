"""The pages about jobs: thin, over submit.py and services.py. What they show of a job is in the templates."""

import re
import secrets
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.db.models.functions import Length, Now
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

import kinds
from jobs import listing, services
from jobs.forms import KindForm, form_for
from jobs.models import Job, JobArtifact, State
from jobs.submit import InvalidSubmission, KeyConflict, Refused, Submission, available_kinds, submit
from kinds.base import Kind

PAGE = 25
PARTS_SHOWN = 400
ONE_TIME_KEY = "one-time-key"  # a form field; not a Python name, so no parameter of a kind can be called the same
ENDED: dict[str, str] = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "been cancelled"}


class Request(HttpRequest):
    """A request behind `login_required`."""

    user: User


# ---- my jobs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """Some jobs, newest first, and the queries that lead to the pages around them."""

    jobs: list[Job]
    newer: str
    older: str


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None


def _page(rows: QuerySet[Job], query: dict[str, str], before: uuid.UUID | None, after: uuid.UUID | None) -> Page:
    """Pages by the job at their edge, so that a job that arrives meanwhile does not shift them."""
    if after:
        found = list(listing.newer(rows, after)[: PAGE + 1])
        shown, newer, older = found[:PAGE][::-1], len(found) > PAGE, bool(found)
    else:
        rows = listing.older(rows, before) if before else rows.order_by(*listing.NEWEST_FIRST)
        found = list(rows[: PAGE + 1])
        shown, newer, older = found[:PAGE], bool(before and found), len(found) > PAGE
    return Page(
        shown,
        newer=urlencode({**query, "after": str(shown[0].pk)}) if newer else "",
        older=urlencode({**query, "before": str(shown[-1].pk)}) if older else "",
    )


def _mine(request: Request) -> dict[str, Any]:
    state, kind = request.GET.get("state", ""), request.GET.get("kind", "")
    rows = Job.objects.filter(owner=request.user, parent=None).annotate(now=Now()).defer("result", "error")
    query = {}
    if state in State.values:
        rows, query["state"] = rows.filter(state=state), state
    if kind in kinds.ALL:
        rows, query["kind"] = rows.filter(kind=kind), kind
    page = _page(rows, query, _uuid(request.GET.get("before")), _uuid(request.GET.get("after")))
    return {"page": page, "query": query, "live": any(not job.finished for job in page.jobs)}


@login_required
@require_safe
@never_cache
def mine(request: Request) -> HttpResponse:
    """The user's jobs, newest first."""
    offered = [kind for kind in kinds.ALL.values() if not kind.internal]
    return render(request, "jobs/list.html", {**_mine(request), "states": State, "kinds": offered})


@login_required
@require_safe
@never_cache
def mine_live(request: Request) -> HttpResponse:
    """The rows of `mine` as they are now, for live.js."""
    return render(request, "jobs/_list.html", _mine(request))


# ---- a new job ------------------------------------------------------------------------------------------------------


@login_required
@require_safe
def kinds_page(request: Request) -> HttpResponse:
    """The kinds of work that a user may ask for."""
    return render(
        request, "jobs/kinds.html", {"kinds": sorted(available_kinds().values(), key=lambda kind: kind.synthetic)}
    )


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def create(request: Request, name: str) -> HttpResponse:
    """The form of one kind; `?from=<job>` fills it with the params of an earlier job."""
    kind = available_kinds().get(name)
    if kind is None:
        raise Http404(f"There is no kind {name!r}.")
    if request.method == "POST":
        return _created(request, kind, form_for(kind)(request.POST))
    return _form(request, kind, form_for(kind)(initial=_earlier_params(request, kind)))


def _earlier_params(request: Request, kind: Kind) -> dict[str, Any]:
    job_id = _uuid(request.GET.get("from"))
    earlier = job_id and Job.objects.filter(pk=job_id, owner=request.user, kind=kind.name).first()
    return earlier.params if earlier else {}


def _form(request: Request, kind: Kind, form: KindForm, status: int = 200) -> HttpResponse:
    lane = settings.LANES[kind.lane] if kind.lane else None
    context = {"kind": kind, "lane": lane, "form": form, "one_time_key": secrets.token_hex(16)}
    return render(request, "jobs/create.html", context, status=status)


def _created(request: Request, kind: Kind, form: KindForm) -> HttpResponse:
    if not form.is_valid():
        return _form(request, kind, form, 422)
    try:
        return redirect("jobs:detail", _submitted(request, kind.name, form.params()).pk)
    except InvalidSubmission as refused:
        form.show_errors(refused)
        return _form(request, kind, form, 422)
    except Refused as refused:
        form.add_error(None, refused.detail)
        return _with_retry_after(_form(request, kind, form, refused.http_status))


def _submitted(request: Request, kind: str, params: dict[str, Any]) -> Job:
    """Submit one job, however often the button was pressed; a form that was changed after "back" makes a new one."""
    sent, fresh = request.POST.get(ONE_TIME_KEY, ""), secrets.token_hex(16)
    key = sent if re.fullmatch(r"[0-9a-f]{32}", sent) else fresh
    try:
        job, new = submit(request.user.pk, [Submission(kind, params, f"page:{key}")])[0]
    except KeyConflict:
        job, new = submit(request.user.pk, [Submission(kind, params, f"page:{fresh}")])[0]
    if not new:
        messages.info(request, "This was sent before; here is the job that it made.")
    return job


def _with_retry_after(response: HttpResponse) -> HttpResponse:
    if response.status_code in (429, 503):
        response.headers["Retry-After"] = str(settings.RETRY_AFTER_S)
    return response


# ---- one job --------------------------------------------------------------------------------------------------------


def _own(request: Request, job_id: uuid.UUID) -> Job:
    """The job, if it is the user's; to others it does not exist."""
    return get_object_or_404(Job.objects.annotate(now=Now()), pk=job_id, owner=request.user)


def _facts(job: Job) -> dict[str, Any]:
    """What the templates of one job need."""
    kind = kinds.ALL.get(job.kind)  # None: it has since been taken out of the application
    files = JobArtifact.objects.filter(job=job).defer("content").annotate(size=Length("content"))
    parts = Job.objects.filter(parent=job).order_by("part").defer("result")[:PARTS_SHOWN] if job.parts_total else ()
    return {
        "job": job,
        "kind": kind,
        "labels": {name: field.title or name for name, field in kind.params.model_fields.items()} if kind else {},
        "file": files.first() if job.finished else None,
        "id_text": str(job.pk),
        "parts": parts,
        "parts_template": [f"jobs/parts/{job.kind}.html", "jobs/parts/_any.html"],
        "result_template": [f"jobs/results/{job.kind}.html", "jobs/results/_any.html"],
        "may_run_again": job.kind in available_kinds(),
        "one_time_key": secrets.token_hex(16),
    }


def _shown(request: Request, job: Job, status: int = 200) -> HttpResponse:
    return render(request, "jobs/detail.html", _facts(job), status=status)


@login_required
@require_safe
@never_cache
def detail(request: Request, job_id: uuid.UUID) -> HttpResponse:
    """One job: its progress, its timings, its result."""
    return _shown(request, _own(request, job_id))


@login_required
@require_safe
@never_cache
def detail_live(request: Request, job_id: uuid.UUID) -> HttpResponse:
    """What `detail` shows of the job as it is now, for job.js."""
    return render(request, "jobs/_job.html", _facts(_own(request, job_id)))


@login_required
@require_POST
def cancel(request: Request, job_id: uuid.UUID) -> HttpResponse:
    """Stop a job."""
    before = _own(request, job_id)
    now = services.cancel(before.pk)
    if before.finished:
        messages.info(request, f"Nothing to cancel: the job had already {ENDED[before.state]}.")
    elif now.finished:
        messages.success(request, "Cancelled.")
    else:
        messages.info(request, "Asked to stop; the job ends as soon as its worker has stopped it.")
    return redirect("jobs:detail", job_id)


@login_required
@require_POST
def run_again(request: Request, job_id: uuid.UUID) -> HttpResponse:
    """A new job with the same params."""
    job = _own(request, job_id)
    try:
        return redirect("jobs:detail", _submitted(request, job.kind, job.params).pk)
    except Refused as refused:
        messages.error(request, refused.detail)
        return _with_retry_after(_shown(request, job, refused.http_status))


# ---- refusals -------------------------------------------------------------------------------------------------------


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form that cannot be trusted: of a page at an address that is not known as ours, or open for too long."""
    strange = reason.endswith("does not match any trusted origins.")
    origin = request.headers.get("Origin") or request.headers.get("Referer") if strange else None
    return render(request, "403_csrf.html", {"origin": origin}, status=403)
