"""Push: `gunicorn -k asgi config.asgi:application`. WebSockets and event streams only; wsgi.py serves the rest."""

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402  (Django's models need the line above)
from django.urls import path, re_path  # noqa: E402

from jobs import push  # noqa: E402


def at(route: str, app: Any) -> Any:
    """An address. Channels borrows Django's patterns for ASGI applications, which Django's types do not know."""
    return path(route, app)


def elsewhere(app: Any) -> Any:
    """Every other address."""
    return re_path("", app)


def for_users(app: Any) -> push.App:
    """An application that knows who asks."""
    return push.database_may_be_away(push.signed_in(app))


HTTP = [
    at("api/jobs/<uuid:job_id>/events", for_users(push.events)),
    at("healthz", push.healthz),
    at("metrics", push.metrics),
    elsewhere(push.not_here),
]
WEBSOCKETS = [
    at("ws/jobs/<uuid:job_id>", for_users(push.JobSocket.as_asgi())),
    elsewhere(push.no_such_socket),
]
application = ProtocolTypeRouter(
    {"http": URLRouter(HTTP), "websocket": URLRouter(WEBSOCKETS), "lifespan": push.lifespan}
)
