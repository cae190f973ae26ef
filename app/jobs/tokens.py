"""Bearer tokens: only their hashes are stored.

Each process knows for KNOWN_FOR_S seconds what it has found of a token, and does not ask the database again. So a token
that is deleted, or whose user is disabled, may open something that much longer: not in the process in which it happens,
and in others not if they hear of it on CHANNEL and `forget`.
"""

import hashlib
import secrets
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import redis
import structlog
from django.contrib.auth.models import AbstractBaseUser, User
from django.db import transaction
from django.db.models.functions import Now
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from jobs.models import ApiToken
from jobs.redis_client import client

PREFIX = "hr_"  # so that people and secret scanners recognise a token
CHANNEL = "headrace:credentials"  # the id of a user of whom a token, or all that they have, opens nothing any more
KNOWN_FOR_S = 5.0
MOST_KNOWN = 10_000

log = structlog.get_logger(__name__)
_known: dict[str, tuple[float, ApiToken]] = {}  # by hash; each step on it is atomic, whichever thread takes it


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
    """What is stored of a token, if its user is active; as it was KNOWN_FOR_S seconds ago at most."""
    return known(token) or _look_up(_hash(token))


def known(token: str) -> ApiToken | None:
    """What this process knows of a token without asking the database."""
    until, found = _known.get(_hash(token), (0.0, None))
    return found if time.monotonic() < until else None


def _look_up(sha256: str) -> ApiToken | None:
    until = time.monotonic() + KNOWN_FOR_S
    found = _stored(sha256)
    if found:  # what is no token is not remembered: it may be one soon, and there is no end of them
        if len(_known) >= MOST_KNOWN:
            forget()
        _known[sha256] = (until, found)
    return found


def _stored(sha256: str) -> ApiToken | None:
    found = ApiToken.objects.select_related("user").filter(sha256=sha256, user__is_active=True).first()
    if found is None:
        return None
    if found.last_used_at is None or found.last_used_at < datetime.now(UTC) - timedelta(minutes=1):
        ApiToken.objects.filter(pk=found.pk).update(last_used_at=Now())  # not at each request: that would be a write
    return found


def forget() -> None:
    """Ask the database again about every token."""
    _known.clear()


@receiver(post_delete, sender=ApiToken)
def _token_deleted(sender: Any, instance: ApiToken, **_: Any) -> None:
    _revoked(instance.user_id)


@receiver(post_save, sender=User)
def _user_saved(sender: Any, instance: User, **_: Any) -> None:
    if not instance.is_active:
        _revoked(instance.pk)


def _revoked(user_id: int) -> None:
    forget()  # whoever goes on in this transaction
    transaction.on_commit(partial(_tell, user_id))


def _tell(user_id: int) -> None:
    forget()  # what another thread has read since, before the commit
    try:
        client(timeout_s=1).publish(CHANNEL, user_id)
    except redis.RedisError as error:
        log.warning(
            "revoked credentials not announced: processes notice within seconds", user=user_id, error=str(error)
        )
