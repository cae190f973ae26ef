"""Django's settings for procrastinate."""

from benchmarks.baseline.settings import *  # noqa: F403
from benchmarks.baseline.settings import INSTALLED_APPS

INSTALLED_APPS += ["procrastinate.contrib.django", "benchmarks.peers.procrastinated"]
