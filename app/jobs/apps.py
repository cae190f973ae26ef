"""The life of a job."""

from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "jobs"

    def ready(self) -> None:
        """In every process: refuse to start on a lane table that would lose jobs."""
        from jobs.checks import refuse_unbound_routing_keys

        refuse_unbound_routing_keys()
