"""Hands jobs to Celery. A job that cannot be published waits in the ledger; the sweeper publishes it later."""

import uuid
from collections.abc import Iterable, Sequence

import structlog
from django.conf import settings
from kombu.exceptions import OperationalError

from config.celery import app
from jobs.models import Job, State

log = structlog.get_logger(__name__)
TASK = "jobs.run"


def route(lane: str, name: str) -> dict[str, str]:
    """Where Celery sends a message: the exchange, and the routing key that a lane's queue is bound to."""
    return {"exchange": settings.LANES.exchange.name, "routing_key": f"{lane}.{name}"}


def publish(jobs: Sequence[Job]) -> bool:
    """Publish queued jobs with `task_id = job.id`; False, and marked as unpublished, when the broker does not take them.

    Duplicates do no harm: only one claim of a job can win.
    """
    if not jobs:
        return True
    try:
        with app.producer_pool.acquire(block=True, timeout=1) as producer, producer.batch():
            for job in jobs:
                _send(job, producer)
    except (OperationalError, OSError, TimeoutError) as error:
        log.warning("broker refused, the sweeper will publish", jobs=len(jobs), error=str(error))
        mark_unpublished(job.pk for job in jobs)
        return False
    return True


def _send(job: Job, producer: object) -> None:
    at = job.published_at.timestamp() if job.published_at else None
    app.send_task(
        TASK,
        (str(job.pk),),
        task_id=str(job.pk),
        producer=producer,
        retry=False,
        ignore_result=True,
        headers={"published_at": at},  # the sweeper compares it with older jobs: queues are first in, first out
        **route(job.lane, job.kind),
    )


def mark_unpublished(ids: Iterable[uuid.UUID]) -> None:
    """Leave these queued jobs to the sweeper's next round."""
    Job.objects.filter(pk__in=list(ids), state=State.QUEUED).update(published_at=None)
