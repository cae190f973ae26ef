"""Workers in the admin, read-only: each worker writes its own row."""

from django.contrib import admin

from fleet.models import Worker
from jobs.admin import ReadOnly


@admin.register(Worker)
class WorkerAdmin(ReadOnly):
    list_display = ("name", "lane", "pool", "host", "running", "concurrency", "seen_at")
    list_filter = ("lane", "pool")
    search_fields = ("name", "host")
