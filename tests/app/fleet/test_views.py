"""The fleet page: every lane, its workers, and what is wrong with it in words."""

import re
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

import kinds
from fleet import history
from fleet.history import count_ended
from fleet.records import swept
from jobs import services
from jobs.models import Job
from tests.app.ledger import job_of, running, succeeded, worker

pytestmark = pytest.mark.django_db
KINDS = sorted(name for name, kind in kinds.ALL.items() if not kind.internal)
KEY = "0123456789abcdef" * 2


def lane_of(response: Any, name: str) -> str:
    return response.content.decode().partition(f'data-lane="{name}"')[2].partition("</article>")[0]


def test_fleet_shows_every_lane_and_its_workers(page: Client, settings: Any) -> None:
    worker("io-7@host-nine", "io", 6, 2)
    response = page.get("/fleet/")
    assert re.findall(r'data-lane="(\w+)"', response.content.decode()) == list(settings.LANES.lanes)
    lane = lane_of(response, "io")
    for words in ("io-7", "host-nine", "2 of 6 slots busy", "threads pool", "Ready"):
        assert words in lane
    assert (lane.count('<i class="busy">'), lane.count("<i>")) == (2, 4)


def test_lane_with_jobs_and_no_worker_is_loud(page: Client, user: Any) -> None:
    job_of(user)
    lane = lane_of(page.get("/fleet/live"), "quick")
    assert "1 queued job and no worker: start a worker of the quick lane." in lane
    assert page.get("/fleet/live").content.decode().count("lane alarm") == 1


def test_lane_that_keeps_users_waiting_is_loud(page: Client, user: Any) -> None:
    worker("quick-1@host", "quick", 1, 1)
    job = job_of(user)
    Job.objects.filter(pk=job.pk).update(created_at=timezone.now() - timezone.timedelta(seconds=30))
    assert "times as long as this lane" in lane_of(page.get("/fleet/live"), "quick")


def test_chart_counts_what_ended_in_each_minute_once(page: Client, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SETTLED_S", 0)
    swept(0.1)
    succeeded(user, {})
    services.fail(running(user), "no")
    old = succeeded(user, {})
    Job.objects.filter(pk=old).update(finished_at=timezone.now() - timezone.timedelta(minutes=3))
    count_ended()
    count_ended()
    minutes = history.per_minute()["quick"]
    assert len(minutes) == history.MINUTES
    assert sum(minute.ended for minute in minutes) == 3
    assert sum(minute.failed for minute in minutes) == 1
    assert minutes[-4].ended == 1
    assert "1 ended, 0 failed" in lane_of(page.get("/fleet/live"), "quick")
