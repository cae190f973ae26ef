"""Django's settings, as `startproject` writes them, with PostgreSQL and Redis."""

import os

from psycopg.conninfo import conninfo_to_dict

_DATABASE = conninfo_to_dict(os.environ["BASELINE_DATABASE_URL"])

SECRET_KEY = os.environ["BASELINE_SECRET_KEY"]
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "benchmarks.baseline.views"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _DATABASE["dbname"],
        "USER": _DATABASE["user"],
        "PASSWORD": _DATABASE["password"],
        "HOST": _DATABASE["host"],
        "PORT": _DATABASE["port"],
        "CONN_MAX_AGE": int(os.environ["BASELINE_CONN_MAX_AGE"]),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
STATIC_URL = "static/"

CELERY_BROKER_URL = os.environ["BASELINE_BROKER_URL"]
CELERY_RESULT_BACKEND = CELERY_BROKER_URL
