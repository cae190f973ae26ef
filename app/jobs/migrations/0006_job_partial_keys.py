from django.db import migrations, models

from jobs.migrations._concurrently import AddUnique


class Migration(migrations.Migration):
    """A job without a key, and one that is no part of another, have no entry in these two indexes."""

    atomic = False
    dependencies = [("jobs", "0005_job_stored_bytes")]
    operations = [
        AddUnique(
            "job",
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"],
                condition=models.Q(idempotency_key__isnull=False),
                name="job_key",
            ),
        ),
        AddUnique(
            "job",
            models.UniqueConstraint(
                fields=["parent", "part"], condition=models.Q(parent__isnull=False), name="job_child"
            ),
        ),
        migrations.RemoveConstraint("job", "job_idempotency"),
        migrations.RemoveConstraint("job", "job_part"),
    ]
