"""What ``python -m uws4r.switch`` changes, and what it leaves alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from uws4r.switch import changed, main, plan

CHANGED = [
    ("from ws4redis.publisher import RedisPublisher\n", "from uws4r.publisher import RedisPublisher\n"),
    ("from  ws4redis import settings as private\n", "from  uws4r import settings as private\n"),
    ("import os, ws4redis.redis_store\nws4redis.redis_store.SELF\n",
     "import os, uws4r.redis_store\nuws4r.redis_store.SELF\n"),
    ("import ws4redis.settings as s\nws4redis = 1\n", "import uws4r.settings as s\nws4redis = 1\n"),
    ("# -*- coding: latin-1 -*-\né = 'é\u2028'; import ws4redis\n",
     "# -*- coding: latin-1 -*-\né = 'é\u2028'; import uws4r\n"),
    ("if x:\n    é = 1; import ws4redis\n", "if x:\n    é = 1; import uws4r\n"),
    ("INSTALLED_APPS = ('django', 'ws4redis',)\n", "INSTALLED_APPS = ('django', 'uws4r',)\n"),
    ('THIRD_PARTY_APPS: list = ["ws4redis"]\n', 'THIRD_PARTY_APPS: list = ["uws4r"]\n'),
    ('INSTALLED_APPS += ["é", "ws4redis"]\n', 'INSTALLED_APPS += ["é", "uws4r"]\n'),
    ("INSTALLED_APPS.append('ws4redis')\n", "INSTALLED_APPS.append('uws4r')\n"),
    ("@modify_settings(INSTALLED_APPS={'append': 'ws4redis'})\ndef f(): ...\n",
     "@modify_settings(INSTALLED_APPS={'append': 'uws4r'})\ndef f(): ...\n"),
    ("TEMPLATES = ['ws4redis.context_processors.default']\n", "TEMPLATES = ['uws4r.context_processors.default']\n"),
    ("WSGI_APPLICATION = 'ws4redis.django_runserver.application'\n",
     "WSGI_APPLICATION = 'uws4r.django_runserver.application'\n"),
    ("logger = logging.getLogger('ws4redis')\n", "logger = logging.getLogger('uws4r')\n"),
    ("LOGGING = {'loggers': {'ws4redis': {'handlers': ['ws4redis']}}, 'handlers': {'ws4redis': {}}}\n",
     "LOGGING = {'loggers': {'uws4r': {'handlers': ['ws4redis']}}, 'handlers': {'ws4redis': {}}}\n"),
    ("@patch('ws4redis.publisher.RedisPublisher')\ndef f(): ...\n",
     "@patch('uws4r.publisher.RedisPublisher')\ndef f(): ...\n"),
    ("install_requires=['django-websocket-redis>=0.6,<1', 'x']\n", "install_requires=['uws4r', 'x']\n"),
]  # fmt: skip

LEFT = [
    "WS4REDIS_PREFIX = 'ws4redis'\n",
    "class Media:\n    js = ['js/ws4redis.js', 'ws4redis.js']\n",
    "names = request.session['ws4redis:memberof']\n",
    "CACHES = {'ws4redis': {}}\n",
    "ws4redis = WS4Redis()\nws4redis.settings\n",
    "raise Error from ws4redis\n",
    "from .ws4redis import mine\n",
    "import my.ws4redis\n",
    "# ws4redis is no more\n",
    "'''\nws4redis.publisher\n'''\n",
    "my_ws4redis.settings = 'x.ws4redis2.settings'\n",
]


@pytest.mark.parametrize(("before", "after"), CHANGED)
def test_names_are_changed(before: str, after: str) -> None:
    assert changed("settings.py", before) == after
    assert changed("settings.py", after) == after


@pytest.mark.parametrize("text", LEFT)
def test_what_is_only_spelled_alike_is_left_alone(text: str) -> None:
    assert changed("views.py", text) == text


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("requirements.txt", "Django==1.8\ndjango-websocket-redis[django-redis-sessions]==0.6.0  # push\n",
         "Django==1.8\nuws4r  # push\n"),
        ("requirements.in", "Django_Websocket.Redis\n", "uws4r\n"),
        ("requirements.txt", "my-django-websocket-redis\ndjango-websocket-redis-x\n", None),
        ("uwsgi.ini", "module = ws4redis.uwsgi_runserver\npidfile = /run/ws4redis.pid\n",
         "module = uws4r.uwsgi_runserver\npidfile = /run/ws4redis.pid\n"),
        ("Dockerfile", "RUN pip install 'django-websocket-redis>=0.5'\n", "RUN pip install 'uws4r'\n"),
        ("uwsgi.ini", "socket = /run/ws4redis.socket\r\n", None),
    ],
)  # fmt: skip
def test_other_files(name: str, before: str, after: str | None) -> None:
    assert changed(name, before) == (before if after is None else after)


def site(directory: Path) -> Path:
    """A site with an environment, in a directory with a space."""
    root = directory / "my site"
    for name, text in {
        "app/settings.py": "INSTALLED_APPS = ['ws4redis']\r\nWS4REDIS_PREFIX = 'ws4redis'\r\n",
        "app/old views.py": "# -*- coding: latin-1 -*-\nfrom ws4redis import publisher  # \xe9\n",
        "app/python2.py": "print 'from ws4redis'\n",
        "requirements.txt": "django-websocket-redis\n",
        "env/pyvenv.cfg": "",
        "env/lib/ws4redis/x.py": "import ws4redis\n",
        ".git/config.py": "import ws4redis\n",
        "node_modules/x/setup.py": "import ws4redis\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    (root / "link.py").symlink_to(root / "app" / "settings.py")
    return root


def test_a_site_is_shown_first_and_then_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = site(tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert main([str(root)]) == 0
    said = capsys.readouterr().out
    assert "+INSTALLED_APPS = ['uws4r']" in said
    assert "settings.py:2: WS4REDIS_PREFIX = 'ws4redis'" in said
    assert "python2.py: not read:" in said
    assert "3 files to change. Do it with --write." in said
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert main([str(root), "--write"]) == 0
    said = capsys.readouterr().out
    assert "3 files changed." in said
    assert "pip install '/path/to/uws4r[uwsgi]'" in said
    changes = {
        path.name: path.read_bytes() for path in root.rglob("*") if path.is_file() and before[path] != path.read_bytes()
    }
    assert changes == {
        "settings.py": b"INSTALLED_APPS = ['uws4r']\r\nWS4REDIS_PREFIX = 'ws4redis'\r\n",
        "link.py": b"INSTALLED_APPS = ['uws4r']\r\nWS4REDIS_PREFIX = 'ws4redis'\r\n",
        "old views.py": b"# -*- coding: latin-1 -*-\nfrom uws4r import publisher  # \xe9\n",
        "requirements.txt": b"uws4r\n",
    }
    assert plan(root)[0] == []


def test_it_needs_no_settings_and_says_what_is_wrong(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    command = [sys.executable, "-m", "uws4r.switch"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "\n0 files to change.\n"
    done = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert "no such directory" in done.stderr
