"""What has to be done before anything else starts: `python -m deploy.images.app.set_up`.

Brings the tables up to date, and makes the user of the laptop, whose password is a secret like the others. What is
wrong with the secrets or the servers is said here, in one sentence, and nothing else starts.
"""

import os
import sys
from pathlib import Path

import django
import redis
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import OperationalError

USER = "headrace"


def broker_lets_us_in() -> None:
    """Raises RedisError when it does not. Nobody else would say so: a submit is accepted without a broker."""
    from django.conf import settings

    redis.Redis.from_url(settings.ENV.broker_url, socket_connect_timeout=5, socket_timeout=5).ping()


def keep_user(password: str) -> None:
    """There is one user who may do everything, and its password is the secret's."""
    from django.contrib.auth import get_user_model

    users = get_user_model().objects
    user = users.filter(username=USER).first() or users.create_superuser(USER)
    if not user.check_password(password):
        user.set_password(password)
        user.save()


def set_up() -> None:
    """In the order in which one needs the other."""
    django.setup()
    call_command("migrate", interactive=False)
    broker_lets_us_in()
    keep_user(Path(os.environ["LOGIN_PASSWORD_FILE"]).read_text().strip())


def main() -> None:
    """Ends with 1 and a sentence when it cannot be done."""
    fresh = "put the old secrets back, or start afresh, without the old data: make compose ARGS='down -v'"
    try:
        set_up()
    except ImproperlyConfigured as error:
        sys.exit(str(error))
    except OperationalError as error:
        last = str(error).strip().splitlines()[-1]
        sys.exit(f"PostgreSQL does not let us in ({last}); if its volume was made with another password, {fresh}.")
    except redis.RedisError as error:
        sys.exit(f"Redis does not let us in ({error}); give it the secrets that it was made with: make compose.")


if __name__ == "__main__":
    main()
