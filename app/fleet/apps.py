"""The live page: lanes, workers, depth."""

from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "fleet"
