"""A site for the tests; what a test varies comes from the environment, as JSON in ``TEST_SETTINGS``."""

import json
import os

SECRET_KEY = "not a secret: the tests' own"  # noqa: S105
DEBUG = False
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
ROOT_URLCONF = "testsite.urls"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1 << 30
STATIC_URL = "/static/"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "uws4r",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("TEST_DATABASE", ":memory:")},
}
SESSION_FILE_PATH = os.environ.get("TEST_SESSIONS")  # where a test keeps sessions in files
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
WS4REDIS_CONNECTION = os.environ.get("TEST_REDIS", "redis://localhost:6379/0")

globals().update(json.loads(os.environ.get("TEST_SETTINGS", "{}")))
