"""Who asks: the holder of a bearer token or of a session, and whether a browser's page is one of ours."""

from collections.abc import Collection
from dataclasses import dataclass

from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db.models.functions import Now
from django.utils.http import is_same_domain

from jobs import tokens
from jobs.models import ApiToken
from push.answers import App, Receive, Scope, Send, headers_of


@dataclass(frozen=True)
class Identity:
    """A user, and the token or the session that proved it."""

    user_id: int
    token_id: int | None = None
    session_key: str | None = None
    session_hash: str | None = None  # another one since the password was changed


def signed_in(inner: App) -> App:
    """Puts an Identity (or None) into the scope: by the Authorization header if there is one, else by the session."""

    async def by_session(scope: Scope, receive: Receive, send: Send) -> None:
        user, session = scope["user"], scope["session"]
        known = user.is_authenticated
        identity = Identity(user.pk, None, session.session_key, session[HASH_SESSION_KEY]) if known else None
        await inner({**scope, "identity": identity}, receive, send)

    stack = AuthMiddlewareStack(by_session)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        header = headers_of(scope).get("authorization")
        if header is None:
            await stack(scope, receive, send)
        else:
            scope["identity"] = await _by_token(header)  # not in a copy: thousands of these would be kept
            await inner(scope, receive, send)

    return app


async def _by_token(header: str) -> Identity | None:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        return None
    found = tokens.known(token) or await database_sync_to_async(tokens.find)(token)
    return Identity(found.user_id, found.pk) if found else None


@database_sync_to_async  # type: ignore[untyped-decorator]
def signed_out(identities: Collection[Identity]) -> set[Identity]:
    """Those that prove nothing any more: token deleted, session over, user disabled, password changed."""
    users = User.objects.filter(is_active=True).in_bulk({one.user_id for one in identities})
    kept = ApiToken.objects.filter(pk__in={one.token_id for one in identities if one.token_id})
    sessions = Session.objects.filter(
        pk__in={one.session_key for one in identities if one.session_key}, expire_date__gt=Now()
    )
    hold = {None, *kept.values_list("pk", flat=True), *sessions.values_list("pk", flat=True)}
    hashes = {None: None} | {pk: user.get_session_auth_hash() for pk, user in users.items()}
    gone = {
        one
        for one in identities
        if one.user_id not in users
        or not {one.token_id, one.session_key} <= hold
        or (one.session_key and one.session_hash != hashes[one.user_id])
    }
    if gone:
        tokens.forget()  # they would be let in again for some seconds
    return gone


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
