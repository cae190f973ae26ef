from django.db import migrations, models

from jobs.migrations._concurrently import AddIndex


class Migration(migrations.Migration):
    """What is stored already is not counted: that would write every row anew. It goes with its retention."""

    atomic = False
    dependencies = [("jobs", "0004_job_newest")]
    operations = [
        migrations.AddField("job", "stored_bytes", models.IntegerField(db_default=0, default=0)),
        AddIndex(
            "job",
            models.Index(
                fields=["owner", "finished_at", "stored_bytes"],
                condition=models.Q(stored_bytes__gt=0),
                name="job_stored",
            ),
        ),
    ]
