"""Bearer tokens: made once, kept as a hash."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, cast

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import F
from django.db.models.functions import Now

from jobs.models import ApiToken
from jobs.once import Statement, write

PREFIX = "hr_"  # lets secret scanners and people recognise one


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def create_token(user: AbstractBaseUser, name: str = "") -> str:
    """Make a token of 256 random bits for a user; the caller shows it once."""
    token = PREFIX + secrets.token_urlsafe(32)
    ApiToken.objects.create(user_id=user.pk, name=name, sha256=_hash(token))
    return token


def user_of(token: str) -> AbstractBaseUser | None:
    """The active user whose token this is, if any."""
    statement = _owner()
    found: list[Any] = list(get_user_model().objects.raw(statement.sql, statement.bind(sha256=_hash(token))))
    for user in found:
        if user.token_used_at is None or user.token_used_at < datetime.now(UTC) - timedelta(minutes=1):
            ApiToken.objects.filter(pk=user.token_id).update(last_used_at=Now())  # not a write for each request
        return cast(AbstractBaseUser, user)
    return None


@cache
def _owner() -> Statement:
    """The active user of a token, with what must be known of the token."""
    users = get_user_model().objects.filter(is_active=True, api_tokens__sha256="a hash")
    token = {"token_id": F("api_tokens__pk"), "token_used_at": F("api_tokens__last_used_at")}
    return write(users.annotate(**token).query, {"sha256": "a hash"})
