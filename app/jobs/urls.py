"""The pages about jobs. Each `live` address answers with a piece of HTML that live.js or job.js puts into its page."""

from django.urls import path

from jobs import views

app_name = "jobs"
urlpatterns = [
    path("", views.mine, name="list"),
    path("jobs/live", views.mine_live, name="list_live"),
    path("new/", views.kinds_page, name="kinds"),
    path("new/<slug:name>/", views.create, name="create"),
    path("jobs/<uuid:job_id>/", views.detail, name="detail"),
    path("jobs/<uuid:job_id>/live", views.detail_live, name="detail_live"),
    path("jobs/<uuid:job_id>/cancel", views.cancel, name="cancel"),
    path("jobs/<uuid:job_id>/again", views.run_again, name="run_again"),
]
