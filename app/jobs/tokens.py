"""Bearer tokens: only their hashes are stored."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser
from django.db.models.functions import Now

from jobs.models import ApiToken

PREFIX = "hr_"  # so that people and secret scanners recognise a token


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def create_token(user: AbstractBaseUser, name: str = "") -> str:
    """Make a token of 256 random bits for a user; the caller must show it, because nobody can read it later."""
    token = PREFIX + secrets.token_urlsafe(32)
    ApiToken.objects.create(user_id=user.pk, name=name, sha256=_hash(token))
    return token


def user_of(token: str) -> AbstractBaseUser | None:
    """The active user whose token this is, if any."""
    found = find(token)
    return found.user if found else None


def find(token: str) -> ApiToken | None:
    """What is stored of a token, if its user is active."""
    found = ApiToken.objects.select_related("user").filter(sha256=_hash(token), user__is_active=True).first()
    if found is None:
        return None
    if found.last_used_at is None or found.last_used_at < datetime.now(UTC) - timedelta(minutes=1):
        ApiToken.objects.filter(pk=found.pk).update(last_used_at=Now())  # not at each request: that would be a write
    return found
