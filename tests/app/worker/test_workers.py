"""Real workers on all three pools."""

from typing import Any

import pytest

from harness.waiting import wait_until
from jobs.models import Job
from jobs.submit import Submission, submit

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("lane", ["cpu", "io", "quick"])
def test_job_runs_to_its_result(lane: str, user: Any, start_worker: Any, empty_broker: Any) -> None:
    start_worker(lane)
    [(job, new)] = submit(user.pk, [Submission("burn", {"lane": lane, "ms": 5})])
    assert new
    done = wait_until(lambda: Job.objects.get(pk=job.pk).finished and Job.objects.get(pk=job.pk), why="job ends")
    assert (done.state, done.attempt, done.worker.split("@")[0]) == ("succeeded", 1, f"{lane}-1"), done.error
