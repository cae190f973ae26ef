"""The Celery tasks: thin, with ids as arguments. A task may be delivered twice; the second run does nothing."""

import time
import uuid
from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings

from config.celery import app
from jobs import services, sign_in
from jobs.publish import SCHEMA, TASK, route
from worker.attempt import execute

log = structlog.get_logger(__name__)


@app.task(name=TASK, bind=True, ignore_result=True, Request="worker.lease:LedgerRequest")  # type: ignore[untyped-decorator]
def run(self: Any, *job_ids: str) -> None:
    """Run one attempt of each of these jobs that is still to be run."""
    if (schema := self.request.get("schema") or SCHEMA) > SCHEMA:
        log.warning("message left to a newer release: the sweeper publishes its jobs again", schema=schema)
        return
    execute([uuid.UUID(job_id) for job_id in job_ids], worker=self.request.hostname)


@app.task(name="jobs.expire", ignore_result=True, **route("quick", "expire"))  # type: ignore[untyped-decorator]
def expire() -> None:
    """Delete what is past its retention, for three quarters of the time that its lane gives a task; beat sends this."""
    began, quarter_s = time.monotonic(), settings.LANES["quick"].soft_time_limit / 4
    while time.monotonic() < began + 2 * quarter_s and services.expire(timedelta(days=settings.ENV.retention_days)):
        pass
    while time.monotonic() < began + 3 * quarter_s and sign_in.forget():
        pass


@app.task(name="jobs.ping", bind=True, ignore_result=False, **route("quick", "ping"))  # type: ignore[untyped-decorator]
def ping(self: Any) -> str:
    """The smoke task of a deploy: says which worker answered, through the result backend."""
    return str(self.request.hostname)
