"""Push: `gunicorn -k asgi config.asgi:application`. WebSockets and event streams; config/wsgi.py serves the rest."""

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402  (Django's models need the line above)
from django.urls import path, re_path  # noqa: E402

from push import process, sockets, streams  # noqa: E402
from push.answers import App  # noqa: E402
from push.identity import signed_in  # noqa: E402
from push.outages import wait_for_database  # noqa: E402


def at(route: str, app: Any) -> Any:
    """An address. Channels uses Django's patterns for ASGI applications, which Django's types do not allow."""
    return path(route, app)


def elsewhere(app: Any) -> Any:
    """Every other address."""
    return re_path("", app)


def for_users(app: Any) -> App:
    """An application that finds the user in its scope."""
    return wait_for_database(signed_in(app))


HTTP = [
    at("api/jobs/<uuid:job_id>/events", for_users(streams.one_job)),
    at("api/events", for_users(streams.all_jobs)),
    at("healthz", process.healthz),
    at("metrics", process.metrics),
    elsewhere(process.not_here),
]
WEBSOCKETS = [
    at("ws/jobs/<uuid:job_id>", for_users(sockets.one_job)),
    at("ws/jobs", for_users(sockets.all_jobs)),
    elsewhere(sockets.no_such_socket),
]
application = ProtocolTypeRouter(
    {"http": URLRouter(HTTP), "websocket": URLRouter(WEBSOCKETS), "lifespan": process.lifespan}
)
