"""The pages."""
app_name = "jobs"
urlpatterns: list[object] = []
