"""As ws4redis' manual has it, with a server class of the site's own."""

from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest

from uws4r.exceptions import HandshakeError, UpgradeRequiredError
from uws4r.uwsgi_runserver import uWSGIWebsocketServer


class Server(uWSGIWebsocketServer):
    def assure_protocol_requirements(self, environ: dict[str, Any]) -> None:
        super().assure_protocol_requirements(environ)
        if "no-cookies" in environ.get("HTTP_COOKIE", ""):
            raise HandshakeError("No such cookies")
        if "old-client" in environ.get("HTTP_COOKIE", ""):
            raise UpgradeRequiredError("Update your client")

    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)
        if request.GET.get("token") == "johns":
            from django.contrib.auth.models import User

            request.user = User.objects.get(username="john")

    def process_subscriptions(self, request: HttpRequest) -> tuple[list[str], bool]:
        channels, echo = super().process_subscriptions(request)
        assert set(channels) <= set(self.possible_channels)
        assert isinstance(self.websockets, set)
        return [*channels, "subscribe-broadcast"], echo

    def select(self, rlist: Any, wlist: Any, xlist: Any, timeout: Any = None) -> Any:
        raise AssertionError("nobody calls this")


_django_app = get_wsgi_application()
_websocket_app = Server()


def application(environ: dict[str, Any], start_response: Any) -> Any:
    if environ["PATH_INFO"].startswith(getattr(settings, "WEBSOCKET_URL", "/ws/")):
        return _websocket_app(environ, start_response)
    if environ["PATH_INFO"] == "/websockets/":
        body = str(len(_websocket_app.websockets)).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    return _django_app(environ, start_response)
