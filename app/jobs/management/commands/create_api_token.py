"""`manage.py create_api_token USER`: a bearer token for the API."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.tokens import create_token


class Command(BaseCommand):
    """Makes a token and prints it; it cannot be shown later."""

    help = "Makes a bearer token for a user and prints it; only its hash is kept, so it cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        """The user, and a name to tell tokens apart."""
        parser.add_argument("username")
        parser.add_argument("--name", default="", help="what the token is for")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the token as the last line, so that scripts can take it."""
        users = get_user_model().objects.filter(username=options["username"], is_active=True)
        user = users.first()
        if user is None:
            raise CommandError(f"There is no active user {options['username']!r}; make one with createsuperuser.")
        self.stdout.write(create_token(user, options["name"]))
