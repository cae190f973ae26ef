"""The pages."""
app_name = "fleet"
urlpatterns: list[object] = []
