"""
The WSGI application: an ordinary request comes in, an open websocket goes to the hub.

Every refusal is an HTTP status with one plain sentence; nothing of an exception reaches the client.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable
from http.client import responses
from typing import Any, Protocol

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import HttpRequest

from uws4r import access
from uws4r._connection import Connection
from uws4r._decoder import is_text
from uws4r.admission import census, check_capacity
from uws4r.attachment import Attachment
from uws4r.conf import callback, conf
from uws4r.cookies import mend
from uws4r.counters import REFUSED, counters
from uws4r.errors import ConfigurationError, HandshakeError
from uws4r.handshake import (
    EXTENSIONS,
    PROTOCOL,
    UPGRADE,
    Accepted,
    accept_headers,
    check_handshake,
    checked_headers,
    choose_compression,
    choose_protocol,
)
from uws4r.hub import Hub
from uws4r.logins import look, session_of
from uws4r.overrides import calls_of, encoded, opcode_of, overrides, release
from uws4r.quoting import brief, harmless, shown
from uws4r.redis_clients import redis_client
from uws4r.redis_store import raw
from uws4r.subscriber import Recorder, RedisSubscriber, facility_of

logger = logging.getLogger("uws4r.application")

HEALTH = "health"  # behind WEBSOCKET_URL: a plain GET there is a balancer's, which asks whether to send clients here
PATIENCE = 1.0  # seconds that such a GET waits for Redis

PLAIN_QUERY = re.compile("[a-z&-]{0,999}").fullmatch  # flags, and nothing to decode: no dictionary is made of it

StartResponse = Callable[..., Callable[[bytes], object]]

AWAY = "The message queue cannot be reached: come back later"


class Greeting:
    """The ``websocket`` of a subscriber's ``send_persisted_messages``: what is sent waits for the hub."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []

    def send(self, message: str | bytes) -> None:
        """
        Queue a message behind the 101, in front of what is persisted.

        Raises:
            TypeError: It is neither a text nor bytes.
        """
        message = raw(message)
        if not isinstance(message, (bytes, bytearray, memoryview)):
            raise TypeError(f"a message is a text or bytes, not {type(message).__name__}")
        payload = bytes(message)
        self.messages.append((opcode_of(is_text(payload)), payload))


class Way(Protocol):
    """From a handshake that is agreed on to an open websocket."""

    compresses: bool  # whether the 101 can agree on permessage-deflate

    def open(
        self,
        environ: dict[str, Any],
        start_response: StartResponse,
        hub: Hub,
        attachment: Attachment,
        accepted: Accepted,
    ) -> Iterable[bytes]:
        """Answer with the 101; return what WSGI is to be returned."""


class Application:
    """
    Args:
        get_hub: Returns this worker's hub.
        require_server: Raises ConfigurationError where the server of a request cannot do websockets.
        get_way: Returns how websockets are opened here.
        redis_connection: What subscribers are given as their connection; None for the site's Redis.

    A subclass may override :meth:`assure_protocol_requirements`, :meth:`process_request` and
    :meth:`process_subscriptions`.
    """

    def __init__(
        self,
        get_hub: Callable[[], Hub],
        require_server: Callable[[dict[str, Any]], None],
        get_way: Callable[[], Way],
        redis_connection: Any = None,
    ) -> None:
        self._get_hub = get_hub
        self._require_server = require_server
        self._get_way = get_way
        self._redis_connection = redis_connection
        self._hub: Hub | None = None  # that of the last handshake

    @property
    def Subscriber(self) -> type[RedisSubscriber]:
        """The class that ``WS4REDIS_SUBSCRIBER`` names."""
        return callback(conf.WS4REDIS_SUBSCRIBER)

    @property
    def possible_channels(self) -> list[str]:
        """The flags that a URL may carry, besides ``echo`` and ``changes``."""
        kind = self.Subscriber
        return [*kind.subscription_channels, *kind.publish_channels]

    @property
    def websockets(self) -> set[Connection]:
        """The open websockets of this worker, as they are now."""
        return set() if self._hub is None else set(self._hub.loop.connections)

    # ------------------------------------------------------------ what a subclass may do otherwise

    def assure_protocol_requirements(self, environ: dict[str, Any]) -> None:
        """
        Make sure that the request is an opening handshake.

        Raises:
            HandshakeError: It is not.
        """
        check_handshake(environ)

    def process_request(self, request: HttpRequest) -> None:
        """Set ``request.session`` and ``request.user``, where ``WS4REDIS_PROCESS_REQUEST`` does not do it."""
        access.attach_session_and_user(request)

    def process_subscriptions(self, request: HttpRequest) -> tuple[list[str], bool]:
        """Return which of :attr:`possible_channels` the URL asks for, and whether for ``echo``."""
        flags = flags_of(request)
        return [flag for flag in self.possible_channels if flag in flags], "echo" in flags

    def _is_the_sites(self) -> bool:
        """Whether one of these methods is the site's own."""
        return any(getattr(getattr(self, name), "__func__", None) is not ours for name, ours in _METHODS)

    # ------------------------------------------------------------ a request

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        began = time.monotonic()  # before anything is looked at that an order to the workers may change
        signals = access.RequestSignals(type(self), environ)
        try:
            return self._serve(environ, start_response, signals, began)
        finally:
            signals.finish()

    def _serve(
        self, environ: dict[str, Any], start_response: StartResponse, signals: access.RequestSignals, began: float
    ) -> Iterable[bytes]:
        try:
            if UPGRADE not in environ and is_health_check(environ):
                return self._tell_health(environ, start_response)
            mend(environ)
            if self._is_the_sites():
                signals.start()
                self.assure_protocol_requirements(environ)
            key = check_handshake(environ)  # a subclass may ask for more, not for less
            protocol = choose_protocol(environ, conf.UWS4R_SUBPROTOCOLS) if PROTOCOL in environ else None
            self._require_server(environ)
            way = self._get_way()
            compresses = EXTENSIONS in environ and way.compresses and conf.UWS4R_COMPRESSION is not None
            compression = choose_compression(environ) if compresses else None
            hub = self._hub = self._get_hub()
            check_capacity(hub)
            if not hub.keeper.connector.wait():
                raise HandshakeError(AWAY, status=503)
            attachment = self._negotiate(environ, hub, signals)
            try:
                attachment.began = began
                if compression is not None:
                    attachment.window = compression.window
                headers = accept_headers(key, protocol, compression and compression.header)
                attachment.left = census.admit(attachment.identity)
            except BaseException:
                attachment.abandon()
                raise
        except HandshakeError as error:
            return refuse(start_response, error)
        except SuspiciousOperation as error:
            logger.info("%s: %s", shown(environ.get("PATH_INFO")), shown(error))
            return refuse(start_response, HandshakeError("The request is not acceptable"))
        except PermissionDenied as error:
            logger.info("%s: permission denied: %s", shown(environ.get("PATH_INFO")), shown(error))
            return refuse(start_response, HandshakeError("Not allowed", status=403))
        except ConfigurationError as error:
            logger.error("a websocket is refused: %s", error)
            return refuse(start_response, HandshakeError("The server is not set up for websockets", status=500))
        except Exception as error:
            logger.error("a handshake at %s failed", shown(environ.get("PATH_INFO")), exc_info=harmless(error))
            return refuse(start_response, HandshakeError("The server could not open a websocket", status=500))
        return way.open(environ, start_response, hub, attachment, Accepted(key, protocol, headers))

    def _tell_health(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer whether this worker would take one more websocket: 200, or what that would be answered."""
        status, sentence = 200, "OK"
        try:
            self._require_server(environ)
            hub = self._get_hub()
            check_capacity(hub)
            if not hub.keeper.connector.wait(PATIENCE):
                status, sentence = 503, AWAY
        except HandshakeError as error:
            status, sentence = error.status, str(error)
        body = respond(start_response, status, sentence)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body

    def _negotiate(self, environ: dict[str, Any], hub: Hub, signals: access.RequestSignals) -> Attachment:
        kind = self.Subscriber
        if kind is not RedisSubscriber:
            # It may keep the request as long as its websocket lives; uWSGI empties its environ before.
            environ = dict(environ)
        request = access.build_request(environ, signals, self.process_request)
        access.check_origin(request)
        subscriber = self._make_subscriber(kind, hub, signals)
        try:
            return self._agree(request, subscriber, hub)
        except BaseException:
            release(subscriber, hub)
            raise

    def _agree(self, request: HttpRequest, subscriber: RedisSubscriber, hub: Hub) -> Attachment:
        channels, echo = self.process_subscriptions(request)
        granted = access.grant_channels(request, channels)
        look(request)  # before it joins its session's channels: that may be over
        subscriber.set_pubsub_channels(request, granted)
        greeting = Greeting()
        if overrides(subscriber, "send_persited_messages"):
            subscriber.send_persited_messages(greeting)
        else:
            subscriber.send_persisted_messages(greeting)
        if not isinstance(subscriber._subscription, Recorder):  # a class that makes its own, and did not
            subscriber._subscription = Recorder()
        subscribed = subscriber._subscription.names
        if overrides(subscriber, "get_file_descriptor") and not subscriber.get_file_descriptor():
            subscribed = []
        most = conf.UWS4R_MAX_CHANNELS
        if len(subscribed) + len(subscriber._publishers) > most:
            raise HandshakeError(f"A websocket may have at most {most} channels")
        identity = str(access.identify(request))
        if not subscribed and not subscriber._publishers:
            logger.warning(
                "%s neither receives nor publishes anything, with the flags %s: the flags are %s; "
                "users and groups need a login, sessions a session",
                brief(identity),
                shown(", ".join(flags_of(request))),
                ", ".join(self.possible_channels),
            )
        facility = facility_of(request.path_info)
        session, expires = session_of(request)
        attachment = Attachment(
            fd=-1,
            identity=identity,
            subscribe=tuple((encoded(name), facility) for name in subscribed),
            publish=tuple(sorted(map(encoded, subscriber._publishers))),
            expire=max(0, conf.WS4REDIS_EXPIRE),
            echo=echo,
            changes="changes" in flags_of(request),
            greeting=tuple(greeting.messages),
            fetch=subscriber.wants_persisted,
            session=session,
            expires=expires,
        )
        calls_of(subscriber, hub, attachment)
        return attachment

    def _make_subscriber(
        self, kind: type[RedisSubscriber], hub: Hub, signals: access.RequestSignals
    ) -> RedisSubscriber:
        connection = self._redis_connection
        if kind is not RedisSubscriber:
            signals.start()
            connection = redis_client() if connection is None else connection
        made = kind(connection)
        if not isinstance(made, RedisSubscriber):
            raise ConfigurationError("WS4REDIS_SUBSCRIBER must name a subclass of uws4r.subscriber.RedisSubscriber")
        made._link_descriptor = hub.keeper.descriptor
        return made


# What a subclass may do otherwise, as it is here.
_METHODS = [
    (method.__name__, method)
    for method in (
        Application.assure_protocol_requirements,
        Application.process_request,
        Application.process_subscriptions,
    )
]


def flags_of(request: HttpRequest) -> list[str]:
    """Return the names in the query of a websocket's URL."""
    query = request.META.get("QUERY_STRING", "")
    if PLAIN_QUERY(query) and "GET" not in vars(request):  # which the site may have replaced
        return [flag for flag in query.split("&") if flag]
    return [flag.strip().lower() for flag in request.GET]


def is_health_check(environ: dict[str, Any]) -> bool:
    """Whether a request that asks for no websocket asks how the worker is."""
    method, path = environ.get("REQUEST_METHOD"), environ.get("PATH_INFO")
    return method in ("GET", "HEAD") and path == conf.WEBSOCKET_URL + HEALTH


def refuse(start_response: StartResponse, error: HandshakeError) -> Iterable[bytes]:
    """Answer a request that does not become a websocket."""
    counters.add(REFUSED, f"{error.status} {error}")
    try:
        headers = checked_headers(error.headers)
    except ValueError as trouble:  # a site's own error; what it says is for the log
        logger.error("a refusal goes out without its headers: %s", shown(trouble))
        headers = []
    return respond(start_response, error.status, str(error), headers)


def respond(
    start_response: StartResponse, status: int, sentence: str, headers: Iterable[tuple[str, str]] = ()
) -> Iterable[bytes]:
    """Answer with one plain sentence; return the body."""
    body = f"{sentence}.\n".encode()
    head = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *headers,
    ]
    try:
        start_response(f"{status} {responses[status]}", [*head, ("Connection", "close")])
    except AssertionError:  # wsgiref wants to say that itself
        start_response(f"{status} {responses[status]}", head, sys.exc_info())
    return [body]
