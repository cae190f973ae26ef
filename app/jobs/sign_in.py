"""Sign-in: after some wrong passwords for an account, the address that they come from must wait (django-axes)."""

from ipaddress import ip_address
from typing import Any

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db.models import Model, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def client_address(request: HttpRequest) -> str | None:
    """The client's, by the last word of X-Forwarded-For, which is the edge's own; without an edge, who connects."""
    said = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    try:
        return str(ip_address(said))
    except ValueError:
        return request.META.get("REMOTE_ADDR") or None


def must_wait(request: HttpRequest, response: HttpResponse | None, credentials: dict[str, Any] | None) -> HttpResponse:
    """The answer to whoever has tried too often, whether this password was right or wrong."""
    seconds = int(settings.AXES_COOLOFF_TIME.total_seconds())
    page = render(request, "429.html", {"minutes": seconds // 60}, status=429)
    page.headers["Retry-After"], page.headers["Cache-Control"] = str(seconds), "no-store"
    return page


def forget(limit: int = 1000) -> int:
    """Delete sessions and wrong attempts whose time is over; how many went, `limit` of each at most."""
    old_attempts = AccessAttempt.objects.filter(attempt_time__lt=Now() - settings.AXES_COOLOFF_TIME)
    return _delete(Session.objects.filter(expire_date__lt=Now()), limit) + _delete(old_attempts, limit)


def _delete(rows: QuerySet[Any], limit: int) -> int:
    model: type[Model] = rows.model
    return model._default_manager.filter(pk__in=list(rows.values_list("pk", flat=True)[:limit])).delete()[0]
