"""Headrace's Celery app with a schedule that a test can wait for: `celery -A tests.app.jobs.every_second beat`."""

import os
import time
from typing import Any

from celery.signals import before_task_publish

from config.celery import app

app.conf.beat_schedule = {"tick": {"task": "jobs.expire", "schedule": 1.0}}


@before_task_publish.connect
def take_long(**_: Any) -> None:
    """So that a signal can arrive between a claim and its message."""
    time.sleep(float(os.environ.get("PUBLISH_TAKES_S", "0")))
