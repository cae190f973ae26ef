"""The life of a job."""

from django.apps import AppConfig
from django.conf import settings

import kinds


class JobsConfig(AppConfig):
    name = "jobs"

    def ready(self) -> None:
        """In every process: a kind that no lane serves stops it here, instead of losing jobs later."""
        from jobs.publish import route

        for kind in kinds.ALL.values():
            for lane in [kind.lane] if kind.lane is not None else settings.LANES.lanes:
                route(lane, kind.name)
