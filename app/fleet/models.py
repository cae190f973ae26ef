"""What the processes of the fleet write: worker units of themselves, and the sweeper that leads, for all."""

from django.db import models
from django.db.models.functions import Now


class Worker(models.Model):
    """One worker unit, as of its last heartbeat."""

    name = models.CharField(max_length=120, primary_key=True)
    host = models.CharField(max_length=120)
    lane = models.CharField(max_length=40)
    pool = models.CharField(max_length=10)
    concurrency = models.PositiveIntegerField()
    running = models.PositiveIntegerField()
    holds = models.JSONField(default=list, db_default=[])  # the ids of the jobs that it runs
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["lane", "name"]

    def __str__(self) -> str:
        return self.name


class Sweeps(models.Model):
    """What all sweepers together have done, and their last round: one row."""

    rounds = models.PositiveBigIntegerField(default=0)
    lost = models.PositiveBigIntegerField(default=0)
    due = models.PositiveBigIntegerField(default=0)
    overtaken = models.PositiveBigIntegerField(default=0)
    poisoned = models.PositiveBigIntegerField(default=0)
    round_s = models.FloatField(default=0)
    swept_at = models.DateTimeField(null=True)
    counted_until = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "sweeps"

    def __str__(self) -> str:
        return f"{self.rounds} rounds"


class Minute(models.Model):
    """How many jobs of a lane ended within one minute."""

    lane = models.CharField(max_length=40)
    start = models.DateTimeField()
    ended = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["start", "lane"], name="minute_of_lane")]

    def __str__(self) -> str:
        return f"{self.lane} {self.start:%H:%M}"
