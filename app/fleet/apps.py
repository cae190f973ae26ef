"""The fleet: the worker units and sweepers that are up, and how each lane is doing; the live page and the metrics."""

from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "fleet"
