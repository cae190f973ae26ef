"""The threads pool gives up its worker rather than a slot; and a test that says when Celery's own pool does as well."""

from collections.abc import Callable
from typing import Any

import pytest
from celery.concurrency.thread import TaskPool as CelerysTaskPool

from config.celery import app
from harness.processes import Process
from harness.servers import Redis
from harness.waiting import wait_until
from jobs.models import Job
from jobs.submit import Submission, submit
from worker.threads import TaskPool

pytestmark = pytest.mark.django_db(transaction=True)


def test_worker_ends_warm_when_the_end_of_a_task_is_lost(
    user: Any, start_worker: Callable[..., Process], empty_broker: Redis
) -> None:
    """The job beside it finishes, and the message comes back to the queue."""
    worker = start_worker("io", slots=2, extra=("--include", "tests.app.worker.ailments"))
    [(job, _)] = submit(user.pk, [Submission("wait", {"lane": "io", "ms": 3000})])
    wait_until(lambda: Job.objects.get(pk=job.pk).state == "running", why="the job runs")
    app.send_task("ailments.unended", queue="io")
    assert worker.child.wait(30) == 0, worker.output()
    assert "the end of a task was lost" in worker.output()
    assert Job.objects.get(pk=job.pk).state == "succeeded"
    with app.connection_for_read() as connection:
        assert connection.default_channel.client.llen("io") == 1


def fail() -> None:
    raise RuntimeError("the result backend is away")


def test_celerys_pool_still_loses_what_escapes_a_task(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda *whom: killed.append(whom))
    ended: list[object] = []
    for pool in (CelerysTaskPool(1), TaskPool(1)):
        pool.on_apply(fail, callback=ended.append).wait()
        pool.on_stop()
        told = bool(ended or killed or caplog.records)
        assert told is isinstance(pool, TaskPool), "Celery tells of it now: app/worker/threads.py can go."
