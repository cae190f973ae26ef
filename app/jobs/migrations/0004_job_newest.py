from django.db import migrations, models

from jobs.migrations._concurrently import AddIndex, RemoveIndex


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("jobs", "0003_job_shared_deaths")]
    operations = [
        AddIndex("job", models.Index(fields=["owner", "-created_at", "-id"], name="job_newest")),
        RemoveIndex("job", "job_mine"),
    ]
