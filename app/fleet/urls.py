"""The pages."""

from django.urls import path

from fleet import views

app_name = "fleet"
urlpatterns = [
    path("", views.fleet, name="fleet"),
    path("live", views.live, name="live"),
]
