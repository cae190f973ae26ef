"""Web: `gunicorn config.wsgi -k gthread`. Everything but WebSockets and event streams (config/asgi.py)."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
application = get_wsgi_application()
