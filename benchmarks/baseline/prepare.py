"""`python -m benchmarks.baseline.prepare`: makes the tables and a user, and prints the cookie of a session of its."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.baseline.settings")
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402  (Django's models need the line above)
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402


def main() -> None:
    """The last line printed is the cookie."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    browser = Client()
    browser.force_login(get_user_model().objects.create_user("bench"))
    print("; ".join(f"{name}={morsel.value}" for name, morsel in browser.cookies.items()))


if __name__ == "__main__":
    main()
