import os
from urllib.parse import urlsplit

SECRET_KEY = "not a secret"  # noqa: S105
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "oldsite.urls"
STATIC_URL = "/static/"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "ws4redis",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.common.CommonMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [os.path.dirname(__file__)],
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.static",
                "ws4redis.context_processors.default",
            ]
        },
    }
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["TEST_DATABASE"]}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
WSGI_APPLICATION = "ws4redis.django_runserver.application"

WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION = {"host": "127.0.0.1", "port": urlsplit(os.environ["TEST_REDIS"]).port, "db": 0, "password": None}
WS4REDIS_PREFIX = "old"
WS4REDIS_EXPIRE = 7200
WS4REDIS_HEARTBEAT = "--heartbeat--"
WS4REDIS_SUBSCRIBER = "oldsite.subscriber.Subscriber"
WS4REDIS_ALLOWED_CHANNELS = "oldsite.subscriber.get_allowed_channels"
