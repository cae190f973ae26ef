"""One leader for each role, by a row in the database: it needs no broker, and a dead leader's term runs out."""

import os
import socket
from datetime import timedelta

from django.db.models import Q
from django.db.models.functions import Now

from jobs.models import Leader

SWEEPER, BEAT = "sweeper", "beat"  # the roles
TERM_S = 5.0  # a leader leads for this long, and renews its term each round: so soon another takes over from a dead one


def this_process() -> str:
    """Its name as a holder of a role: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def lead(role: str, holder: str, seconds: float = TERM_S) -> bool:
    """Become or stay the leader of a role for one term; False: another process leads."""
    until = Now() + timedelta(seconds=seconds)
    free = Q(holder=holder) | Q(until__lt=Now())
    if Leader.objects.filter(free, role=role).update(holder=holder, until=until):
        return True
    _, first = Leader.objects.get_or_create(role=role, defaults={"holder": holder, "until": until})
    return first


def resign(role: str, holder: str) -> None:
    """End the term now, so that the next one may take over at once."""
    Leader.objects.filter(role=role, holder=holder).update(until=Now())
