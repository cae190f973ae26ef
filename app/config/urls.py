"""Every address of the web tier. The push process serves what follows jobs (config/asgi.py)."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from fleet import health
from jobs.api import api

urlpatterns = [
    path("api/", api.urls),  # what most requests are for is tried first
    path("", include("jobs.urls")),
    path("fleet/", include("fleet.urls")),
    path("admin/", admin.site.urls),
    path("login/", LoginView.as_view(template_name="login.html", redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
]
