"""Django's settings for django-tasks-db."""

from benchmarks.baseline.settings import *  # noqa: F403
from benchmarks.baseline.settings import INSTALLED_APPS

INSTALLED_APPS += ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": ["cpu", "io"]}}
