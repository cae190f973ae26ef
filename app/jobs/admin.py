"""The ledger in the admin, read-only: only jobs.services changes it."""

import uuid
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

import kinds
from jobs.models import ApiToken, Job, Leader

admin.site.site_header = "Headrace"
admin.site.site_title = "Headrace"
admin.site.index_title = "Administration"


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that people may read, and not change."""

    actions: tuple[str, ...] | None = None
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class Known(admin.SimpleListFilter):
    """A filter whose choices come from the code, so that a large table need not be asked for its distinct values."""

    names: dict[str, Any]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in self.names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset


class KindFilter(Known):
    title = parameter_name = "kind"
    names = kinds.ALL


class LaneFilter(Known):
    title = parameter_name = "lane"
    names = settings.LANES.lanes


@admin.register(Job)
class JobAdmin(ReadOnly):
    list_display = ("id", "kind", "lane", "state", "owner", "attempt", "worker", "created_at", "finished_at")
    list_filter = ("state", KindFilter, LaneFilter, ("parent", admin.EmptyFieldListFilter))
    list_select_related = ("owner",)
    list_per_page = 50
    ordering = ("-id",)
    search_fields = ("id",)
    search_help_text = "A job's id, or the name of its owner."

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        """Whole ids and names only: both have an index."""
        try:
            return queryset.filter(pk=uuid.UUID(search_term.strip())), False
        except ValueError:
            by_name = queryset.filter(owner__username=search_term.strip())
            return (by_name if search_term.strip() else queryset), False


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnly):
    """Deleting a token revokes it. Tokens are made by `manage.py create_api_token`, which shows the token once."""

    list_display = ("user", "name", "created_at", "last_used_at")
    list_select_related = ("user",)
    search_fields = ("user__username", "name")
    fields = ("user", "name", "created_at", "last_used_at")
    actions = ("delete_selected",)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)


@admin.register(Leader)
class LeaderAdmin(ReadOnly):
    list_display = ("role", "holder", "until")
