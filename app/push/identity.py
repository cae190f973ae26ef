"""Who asks: the user of a bearer token or of a session, and whether a browser's page is one of ours."""

from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.utils.http import is_same_domain

from jobs import tokens
from push.answers import App, Receive, Scope, Send, headers_of


def signed_in(inner: App) -> App:
    """Puts the user into the scope: the bearer token's if there is an Authorization header, else the session's."""
    by_session = AuthMiddlewareStack(inner)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        header = headers_of(scope).get("authorization")
        if header is None:
            await by_session(scope, receive, send)
        else:
            await inner({**scope, "user": await _user_of(header)}, receive, send)

    return app


@database_sync_to_async  # type: ignore[untyped-decorator]
def _user_of(header: str) -> Any:
    scheme, _, token = header.partition(" ")
    return (tokens.user_of(token) if scheme.lower() == "bearer" else None) or AnonymousUser()


def origin_is_ours(headers: dict[str, str]) -> bool:
    """Browsers send our cookie with WebSockets of any site, and name the site in Origin; other clients send none."""
    origin = headers.get("origin")
    if origin is None:
        return True
    scheme, _, host = origin.lower().partition("://")
    if host and host == headers.get("host", "").lower():
        return True
    trusted = (one.lower().partition("://") for one in settings.CSRF_TRUSTED_ORIGINS)
    return any(scheme == one and is_same_domain(host, pattern.lstrip("*")) for one, _, pattern in trusted)
