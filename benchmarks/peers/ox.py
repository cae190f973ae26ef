"""Django's settings for django-ox: a lease in PostgreSQL, taken from a worker that has been silent for 15 seconds (its
own benchmark of killed workers has it so; the default is 300).
"""

from benchmarks.baseline.settings import *  # noqa: F403
from benchmarks.baseline.settings import INSTALLED_APPS

INSTALLED_APPS += ["django_ox"]
TASKS = {
    "default": {
        "BACKEND": "django_ox.backend.OxBackend",
        "QUEUES": ["cpu", "io"],
        "OPTIONS": {"LOCK_TIMEOUT": 15},
    }
}
