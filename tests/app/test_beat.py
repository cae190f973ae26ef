"""Beat has no single point of failure: real beats on a schedule of one second, a real broker, real signals."""

import json
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import beat
from celery.schedules import crontab
from django.db import OperationalError, connection
from django.db.models import F
from django.db.models.functions import Now

from config.celery import app
from jobs.beat import ROLE, TERM_S, Scheduler
from jobs.models import Leader, ScheduleEntry
from servers import Process, Redis, free_port, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
TAKEOVER_S = TERM_S + 5  # the term, a round, and a busy machine
StartBeat = Callable[..., Process]


@pytest.fixture
def start_beat(launch: Callable[..., Process], empty_broker: Redis) -> StartBeat:
    """Start a beat, and wait until it ticks."""

    def start(name: str, **env: str) -> Process:
        process = launch(name, "celery", "-A", "tests.app.every_second", "beat", "-l", "INFO", "--pidfile=", **env)
        wait_until(lambda: process.alive() and "beat: Starting" in process.output(), why=f"{name} starts")
        return process

    return start


def leader() -> int:
    """The process that leads, or 0."""
    row = Leader.objects.filter(role=ROLE, until__gt=Now()).first()
    return int(row.holder.rpartition(":")[2]) if row else 0


def leads(process: Process) -> None:
    wait_until(lambda: process.alive() and leader() == process.child.pid, TAKEOVER_S, f"{process.name} leads")


def runs() -> int:
    """How often the entry has been claimed."""
    return sum(ScheduleEntry.objects.values_list("total_run_count", flat=True))


def fires_on(more: int = 2) -> None:
    goal = runs() + more
    wait_until(lambda: runs() >= goal, TAKEOVER_S, "beat fires")


def sent(broker: Redis) -> list[str]:
    """The messages in the queue, first sent first, by the run that they say they are."""
    raw = redis.Redis.from_url(broker.url).lrange("quick", 0, -1)
    return [json.loads(message)["headers"]["id"] for message in reversed(raw)]


def each_run_was_sent_once(broker: Redis) -> None:
    def all_sent() -> bool:
        return len(sent(broker)) >= runs()

    wait_until(all_sent, why="what is claimed is sent")
    assert [run for run, times in Counter(sent(broker)).items() if times > 1] == []
    assert sent(broker) == [f"tick #{number}" for number in range(1, len(sent(broker)) + 1)]


@pytest.fixture
def pair(start_beat: StartBeat) -> tuple[Process, Process]:
    """One that leads and one that stands by."""
    first = start_beat("first")
    leads(first)
    second = start_beat("second")
    fires_on()
    return first, second


def test_second_beat_fires_nothing(pair: tuple[Process, Process], empty_broker: Redis) -> None:
    first, second = pair
    assert "Sending due task" in first.output()
    assert "Sending due task" not in second.output()
    each_run_was_sent_once(empty_broker)
