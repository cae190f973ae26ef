"""Which worker units are there: each says so itself, every few seconds."""

from django.db import models
from django.db.models.functions import Now


class Worker(models.Model):
    """One worker unit, as it last described itself."""

    name = models.CharField(max_length=120, primary_key=True)
    host = models.CharField(max_length=120)
    lane = models.CharField(max_length=40)
    pool = models.CharField(max_length=10)
    concurrency = models.PositiveIntegerField()
    running = models.PositiveIntegerField()
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["lane", "name"]

    def __str__(self) -> str:
        return self.name
