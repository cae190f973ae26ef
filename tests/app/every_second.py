"""Headrace's Celery app with a schedule that a test can wait for: `celery -A tests.app.every_second beat`."""

from config.celery import app

app.conf.beat_schedule = {"tick": {"task": "jobs.expire", "schedule": 1.0}}
