"""What came of a job."""

from typing import ClassVar

from django.db import models


class Result(models.Model):
    """One for each job that has ended well."""

    job_id = models.BigIntegerField(primary_key=True)
    result = models.JSONField()
    finished_at = models.DateTimeField()

    objects: "ClassVar[models.Manager[Result]]" = models.Manager()
