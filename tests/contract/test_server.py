"""H: the server class of ws4redis, as its manual has a site use it."""

from collections.abc import Callable

import pytest

from tests.support.site import Site
from tests.support.wire import Client, Refused

pytestmark = pytest.mark.e2e


@pytest.fixture
def old(served: Callable[..., Site]) -> Site:
    return served(module="testsite.old_wsgi:application")


def test_h_a_sites_own_server_class(old: Site) -> None:
    client = old.join("/ws/f?subscribe-user&token=johns", channel="broadcast:f")
    for channel in ("user:john:f", "broadcast:f"):  # the second one from process_subscriptions
        old.redis.client.publish(channel, channel)
    assert [client.receive() for _ in range(2)] == ["user:john:f", "broadcast:f"]
    assert old.request("POST", "/login/", "username=john").status == 200
    assert "Server.select is never called" in old.uwsgi.log


@pytest.mark.parametrize(
    ("cookie", "answer"), [("no-cookies=1", "400: b'No such cookies"), ("old-client=1", "426: b'Update your client")]
)
def test_h_assure_protocol_requirements_may_refuse(old: Site, cookie: str, answer: str) -> None:
    with pytest.raises(Refused, match=answer):
        old.connect("/ws/f", {"Cookie": cookie})


def test_h_names() -> None:
    from uws4r import exceptions
    from uws4r.uwsgi_runserver import uWSGIWebSocketServer, uWSGIWebsocketServer
    from uws4r.wsgi_server import WebsocketWSGIServer

    assert uWSGIWebsocketServer is uWSGIWebSocketServer is WebsocketWSGIServer
    connection = object()
    server = uWSGIWebsocketServer(connection)
    assert server.possible_channels == server.Subscriber.subscription_channels + server.Subscriber.publish_channels
    assert server.websockets == set()
    assert server.Subscriber(connection)._connection._client is connection
    assert issubclass(exceptions.FrameTooLargeException, exceptions.WebSocketError)
    assert issubclass(exceptions.WebSocketError, OSError)
    assert issubclass(exceptions.UpgradeRequiredError, exceptions.HandshakeError)
    assert exceptions.UpgradeRequiredError("x").status == 426


@pytest.mark.parametrize(
    ("method", "version", "change", "status", "sentence"),
    [
        ("POST", "HTTP/1.1", {"Content-Length": "0"}, 400, "HTTP method must be a GET"),
        ("GET", "HTTP/1.0", {}, 400, "HTTP server protocol must be 1.1"),
        ("GET", "HTTP/1.1", {"Upgrade": None}, 400, "Client does not wish to upgrade to a websocket"),
        ("GET", "HTTP/1.1", {"Sec-WebSocket-Version": None}, 426, "13"),
        ("GET", "HTTP/1.1", {"Sec-WebSocket-Version": "8"}, 426, "13"),
        ("GET", "HTTP/1.1", {"Sec-WebSocket-Key": None}, 400, "Sec-WebSocket-Key"),
        ("GET", "HTTP/1.1", {"Sec-WebSocket-Key": "YWJj"}, 400, "Sec-WebSocket-Key"),
    ],
)
def test_h_refusals(
    site: Site, method: str, version: str, change: dict[str, str | None], status: int, sentence: str
) -> None:
    with Client(site.address) as client:
        response = client.request("/ws/f", change, method=method, version=version)
        assert response is not None
        assert response.status == status
        assert sentence in response.body.decode()


def test_h_close_codes(site: Site) -> None:
    """What the client says is answered with the same code (RFC 6455 §5.5.1), and nothing follows."""
    from tests.support.wire import CLOSE, close_frame, masked_frame

    for sent, answered in ((close_frame(1000), 1000), (close_frame(4321, "x"), 4321), (masked_frame(CLOSE), 1000)):
        client = site.connect("/ws/f?subscribe-broadcast")
        client.send_raw(sent)
        close = client.receive_close()
        assert close.close_code == answered
        assert len(close.payload) == 2
        assert client.ended()
