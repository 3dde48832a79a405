"""As a site does that lives under gevent: everything is patched before anything else is imported."""

from gevent import monkey

monkey.patch_all()

from testsite.wsgi import application  # noqa: E402, F401
