"""Settings of the example site."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parents[1]

SECRET_KEY = "an example has no secrets"  # noqa: S105
DEBUG = False
# This machine's names, where the server listens, and what CHAT_HOSTS adds: "chat.example.com,192.0.2.7".
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
ALLOWED_HOSTS += [host for host in (os.environ.get("UWS4R_HOST", ""),) if host not in ("", "0.0.0.0", "[::]")]
ALLOWED_HOSTS += [host.strip() for host in os.environ.get("CHAT_HOSTS", "").split(",") if host.strip()]
ROOT_URLCONF = "chat.urls"
USE_TZ = True
TIME_ZONE = "UTC"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "uws4r",
    "chat",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
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
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("CHAT_DATABASE", BASE_DIR / "chat.sqlite3"),
    }
}
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "lobby"
STATIC_URL = "/static/"
STATIC_ROOT = os.environ.get("UWS4R_STATIC", BASE_DIR / "static")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Redis, and for how long the last message of a channel is kept for those who come later.
WS4REDIS_CONNECTION = os.environ.get("UWS4R_REDIS", "redis://localhost:6379/0")
WS4REDIS_PREFIX = "chat"
WS4REDIS_EXPIRE = 600
WS4REDIS_ALLOWED_CHANNELS = "chat.access.allowed_channels"
UWS4R_MODE = os.environ.get("UWS4R_MODE", "detached")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {process} {levelname} {name} {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"uws4r": {"handlers": ["console"], "level": "INFO"}},
}
