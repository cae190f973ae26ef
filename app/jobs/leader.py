"""One leader for each role, by a row in the database: it needs no broker, and a dead host's claim runs out."""

from datetime import timedelta

from django.db.models import Q
from django.db.models.functions import Now

from jobs.models import Leader


def lead(role: str, holder: str, seconds: float) -> bool:
    """Become or stay the leader of a role for some seconds; False: another holds it."""
    until = Now() + timedelta(seconds=seconds)
    free = Q(holder=holder) | Q(until__lt=Now())
    if Leader.objects.filter(free, role=role).update(holder=holder, until=until):
        return True
    _, first = Leader.objects.get_or_create(role=role, defaults={"holder": holder, "until": until})
    return first


def resign(role: str, holder: str) -> None:
    """Let the next one take over at once."""
    Leader.objects.filter(role=role, holder=holder).update(until=Now())
