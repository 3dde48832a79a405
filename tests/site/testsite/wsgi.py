"""The site and its websockets in one application."""

from django.core.wsgi import get_wsgi_application

from uws4r.wsgi import wrap

application = wrap(get_wsgi_application())
