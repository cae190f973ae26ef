"""The app of the ledger and its web face."""

from django.apps import AppConfig
from django.conf import settings

import kinds


class JobsConfig(AppConfig):
    name = "jobs"

    def ready(self) -> None:
        """A kind that no lane serves stops every process here, before it can lose a job."""
        from jobs import tokens  # noqa: F401  (its signals: a token may be deleted in any process)
        from jobs.publish import route

        for kind in kinds.ALL.values():
            for lane in [kind.lane] if kind.lane is not None else settings.LANES.lanes:
                route(lane, kind.name)
