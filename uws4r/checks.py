"""
Django system checks: every wrong setting, with a stable id and what to write instead.

``manage.py check`` shows them; uWSGI refuses to start with one of the errors.
"""

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from redis.connection import parse_url

from uws4r.access import OPAQUE
from uws4r.channels import AUDIENCES, in_cookies
from uws4r.conf import SETTINGS, callback, conf
from uws4r.errors import ConfigurationError
from uws4r.handshake import TOKEN
from uws4r.logins import session_store
from uws4r.redis_arguments import WrongKind, WrongUrl
from uws4r.redis_clients import make_client
from uws4r.subscriber import RedisSubscriber
from uws4r.threads import within

Problem = str | None  # what is wrong with a value

PATIENCE = 2.0  # seconds for a Redis that a check asks


class Rule(NamedTuple):
    """What a setting has to be."""

    id: str
    name: str
    problem: Callable[[Any], Problem]
    hint: str  # what to write instead


# ---------------------------------------------------------------- kinds of values


def url_prefix(value: Any) -> Problem:
    if isinstance(value, str) and value.startswith("/") and value.endswith("/"):
        return None
    return "is not a path with a slash at both ends"


def form_of(value: Any) -> str:
    """Which form of ``WS4REDIS_CONNECTION`` is meant: each has a rule of its own."""
    if isinstance(value, dict) and "cache" in value:
        return "cache"
    if isinstance(value, dict) and ("sentinels" in value or "service_name" in value):
        return "sentinels"
    return "address"


def connection_in(form: str) -> Callable[[Any], Problem]:
    def problem(value: Any) -> Problem:
        if form_of(value) != form:
            return None
        try:
            make_client(value)
        except (WrongUrl, WrongKind):
            return None  # other rules tell
        except ConfigurationError as error:
            return f"is no connection: {error}"
        except Exception as error:  # a wrong value may raise anything
            return f"is no connection: {error}"
        return None

    return problem


def connection_without(kind: type[ConfigurationError]) -> Callable[[Any], Problem]:
    def problem(value: Any) -> Problem:
        try:
            make_client(value)
        except kind as error:
            return str(error).removeprefix("WS4REDIS_CONNECTION")
        except ConfigurationError:
            pass  # another rule tells
        return None

    return problem


def certificates(value: Any) -> Problem:
    try:
        arguments = make_client(value).connection_pool.connection_kwargs
    except ConfigurationError:
        return None  # another rule tells
    for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"):
        path = arguments.get(name)
        if path is not None and not os.access(path, os.R_OK):
            return f"names a file that cannot be read: {name!r} is {path!r}"
    return None


def text(value: Any) -> Problem:
    return None if value is None or isinstance(value, str) else "is no text"


def number(least: float, *kinds: type) -> Callable[[Any], Problem]:
    def problem(value: Any) -> Problem:
        if isinstance(value, kinds) and not isinstance(value, bool) and value >= least:  # type: ignore[operator]
            return None
        return f"is no {'whole ' if float not in kinds else ''}number" + (f" of at least {least}" if least > -1 else "")

    return problem


def yes_or_no(value: Any) -> Problem:
    return None if isinstance(value, bool) else "is neither True nor False"


def mode(value: Any) -> Problem:
    return None if value in ("detached", "native") else "is no mode"


def compression(value: Any) -> Problem:
    return None if value is None else number(0, int)(value)


def subprotocols(value: Any) -> Problem:
    if not isinstance(value, (list, tuple)):
        return "is no list"
    for name in value:
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            return f"contains {name!r}, which is no token of HTTP"
    return None


def function(*arguments: str) -> Callable[[Any], Problem]:
    """A callable, or its dotted path, that takes so many arguments."""

    def problem(value: Any) -> Problem:
        if value is None:
            return None
        try:
            found = callback(value)
        except Exception as error:  # importing a site's module may raise anything
            return f"cannot be imported: {error}"
        if not callable(found):
            return "is not callable"
        try:
            inspect.signature(found).bind(*arguments)
        except TypeError:
            return f"cannot be called with {' and '.join(arguments)}"
        except ValueError:  # a callable without a signature to ask for
            pass
        return None

    return problem


def subscriber(value: Any) -> Problem:
    if (trouble := function("connection")(value)) is not None:
        return trouble
    found = callback(value)
    if isinstance(found, type) and issubclass(found, RedisSubscriber):
        return None
    return "is no subclass of uws4r.subscriber.RedisSubscriber"


def origins(value: Any) -> Problem:
    if not isinstance(value, (list, tuple, set)):
        return "is no list"
    for origin in value:
        if origin == "*" or origin in OPAQUE:
            continue
        if not isinstance(origin, str):
            return f"contains {origin!r}"
        parts = urlsplit(origin)
        if not (parts.scheme and parts.netloc) or origin != f"{parts.scheme}://{parts.netloc}":
            return f"contains {origin!r}, which is no origin"
    return None


def proxies(value: Any) -> Problem:
    if not isinstance(value, (list, tuple, set)):
        return "is no list"
    for proxy in value:
        if proxy != "unix":
            try:
                ip_network(proxy, strict=False)
            except ValueError as error:
                return f"contains {proxy!r}: {error}"
    return None


RULES = (
    Rule("uws4r.E001", "WEBSOCKET_URL", url_prefix, 'a path such as "/ws/"'),
    Rule(
        "uws4r.E002",
        "WS4REDIS_CONNECTION",
        connection_in("address"),
        'a URL such as "redis://localhost:6379/0", or a dictionary such as {"host": "localhost", "port": 6379}',
    ),
    Rule("uws4r.E003", "WS4REDIS_PREFIX", text, 'a text such as "mysite", or None'),
    Rule("uws4r.E004", "WS4REDIS_EXPIRE", number(float("-inf"), int), "seconds such as 3600, or 0 to keep nothing"),
    Rule(
        "uws4r.E005",
        "WS4REDIS_SUBSCRIBER",
        subscriber,
        'the dotted path of a class, such as "uws4r.subscriber.RedisSubscriber"',
    ),
    Rule("uws4r.E006", "WS4REDIS_HEARTBEAT", text, 'a text such as "--heartbeat--", or None'),
    Rule(
        "uws4r.E007",
        "WS4REDIS_ALLOWED_CHANNELS",
        function("request", "channels"),
        'a function f(request, channels), or its dotted path such as "mysite.access.allowed_channels"',
    ),
    Rule(
        "uws4r.E008",
        "WS4REDIS_PROCESS_REQUEST",
        function("request"),
        'a function f(request), or its dotted path such as "mysite.access.process_request"',
    ),
    Rule("uws4r.E009", "UWS4R_ALLOWED_ORIGINS", origins, 'a list such as ["https://www.example.com"]'),
    Rule("uws4r.E010", "UWS4R_PROXIES", proxies, 'a list of addresses and networks such as ["unix", "10.0.0.0/8"]'),
    Rule("uws4r.E011", "UWS4R_PING_INTERVAL", number(0, int, float), "seconds such as 25, or 0 for no pings"),
    Rule("uws4r.E012", "UWS4R_PING_TIMEOUT", number(0.1, int, float), "seconds such as 20"),
    Rule("uws4r.E013", "UWS4R_MAX_MESSAGE_SIZE", number(1, int), "bytes such as 1048576"),
    Rule("uws4r.E014", "UWS4R_MAX_QUEUE", number(1, int), "bytes such as 1048576"),
    Rule("uws4r.E015", "UWS4R_PUBLISH_BUFFER", number(0, int), "messages such as 1000"),
    Rule("uws4r.E016", "UWS4R_MAX_CONNECTIONS", number(0, int), "websockets such as 10000, or 0 for no limit"),
    Rule("uws4r.E017", "UWS4R_THREADS", number(1, int), "threads such as 64"),
    Rule("uws4r.E018", "UWS4R_COMPRESSION", compression, "bytes such as 512, or None to compress nothing"),
    Rule("uws4r.E019", "UWS4R_SUBPROTOCOLS", subprotocols, 'a list such as ["chat.v2", "chat.v1"]'),
    Rule("uws4r.E020", "UWS4R_REQUIRE_ORIGIN", yes_or_no, "True or False"),
    Rule("uws4r.E021", "UWS4R_MAX_MESSAGE_RATE", number(0, int, float), "messages a second such as 1000, or 0"),
    Rule("uws4r.E022", "UWS4R_MAX_BYTE_RATE", number(0, int, float), "bytes a second such as 10485760, or 0"),
    Rule("uws4r.E023", "UWS4R_FRAME_TIMEOUT", number(0, int, float), "seconds such as 60, or 0 for any time"),
    Rule("uws4r.E024", "UWS4R_MAX_CONNECTIONS_PER_IP", number(0, int), "websockets such as 100, or 0 for any number"),
    Rule("uws4r.E025", "UWS4R_MAX_CONNECTIONS_PER_USER", number(0, int), "websockets such as 20, or 0 for any number"),
    Rule("uws4r.E026", "UWS4R_MAX_FACILITY_LENGTH", number(1, int), "characters such as 1024"),
    Rule("uws4r.E027", "UWS4R_MAX_CHANNELS", number(1, int), "channels such as 1000"),
    Rule("uws4r.E028", "UWS4R_SESSION_CHECK", number(0, int, float), "seconds such as 60, or 0 for no looks"),
    Rule(
        "uws4r.E029",
        "WS4REDIS_CONNECTION",
        connection_in("sentinels"),
        '{"sentinels": [("10.0.0.1", 26379), …], "service_name": "mymaster"}, and further arguments of redis.Redis',
    ),
    Rule(
        "uws4r.E030",
        "WS4REDIS_CONNECTION",
        connection_in("cache"),
        '{"cache": "default"}, the name of an entry of CACHES that is a Redis',
    ),
    Rule("uws4r.E031", "WS4REDIS_CONNECTION", certificates, "the path of a file that the workers' user can read"),
    Rule(
        "uws4r.E041",
        "WS4REDIS_CONNECTION",
        connection_without(WrongUrl),
        'a URL such as "redis://user:pass%23word@localhost:6379/0", or a dictionary with the password as it is',
    ),
    Rule(
        "uws4r.E042",
        "WS4REDIS_CONNECTION",
        connection_without(WrongKind),
        'a dictionary such as {"host": "localhost", "port": 6379, "db": 0, "socket_timeout": 5, "ssl": False}',
    ),
    Rule("uws4r.E032", "UWS4R_MODE", mode, '"detached" or "native"'),
    Rule("uws4r.E036", "UWS4R_MESSAGE_TIMEOUT", number(0, int, float), "seconds such as 60, or 0 for any time"),
    Rule("uws4r.E037", "UWS4R_RECEIVE_BUFFER", number(1, int), "bytes such as 67108864"),
    Rule("uws4r.E038", "UWS4R_PUBLISH_BUFFER_SIZE", number(1, int), "bytes such as 16777216"),
    Rule(
        "uws4r.E039",
        "UWS4R_LOGIN_CHECKER",
        function("key", "user"),
        'a function f(key, user), or its dotted path such as "mysite.logins.still_holds"',
    ),
    Rule("uws4r.E033", "UWS4R_KEEP_RATE", number(0, int, float), "bytes a second such as 65536, or 0 for no limit"),
    Rule(
        "uws4r.E034",
        "UWS4R_KEEP_RATE_PER_IP",
        number(0, int, float),
        "bytes a second such as 262144, or 0 for no limit",
    ),
    Rule(
        "uws4r.E035",
        "UWS4R_KEEP_RATE_PER_WORKER",
        number(0, int, float),
        "bytes a second such as 1048576, or 0 for no limit",
    ),
)


# ---------------------------------------------------------------- the checks


def wrong_values(**kwargs: Any) -> list[CheckMessage]:
    """Every setting against its rule."""
    return list(_wrong_values())


def _wrong_values() -> Iterator[CheckMessage]:
    for rule in RULES:
        value = getattr(conf, rule.name)
        problem = rule.problem(value)
        if problem is None:
            continue
        hint = f"Write {rule.hint}."
        if isinstance(value, str) and re.match(r"ws4redis\b", value):
            hint = f"Write {value.replace('ws4redis', 'uws4r', 1)!r}."
        # A connection may hold a password.
        shown = f" = {value!r:.80}" if rule.name != "WS4REDIS_CONNECTION" else ""
        space = "" if problem.startswith(":") else " "
        yield Error(f"{rule.name}{shown}{space}{problem}", hint=hint, id=rule.id)


def unknown_settings(**kwargs: Any) -> list[CheckMessage]:
    """A misspelt name has no effect, which for a callback that restricts means: no restriction."""
    known = {name: re.sub("^WS4REDIS", "UWS4R", name) for name in SETTINGS}
    found = []
    for name in dir(settings):
        family, _, rest = name.partition("_")
        if family not in ("WS4REDIS", "UWS4R") or name in known or name in known.values():
            continue
        # Compared without the families, which would make any two names look alike.
        near = difflib.get_close_matches(rest, [other.partition("_")[2] for other in known], 1)
        names = [*known, *known.values()]
        meant = [name for name in (f"{family}_{near[0]}", f"UWS4R_{near[0]}") if name in names] if near else []
        hint = f"Write {meant[0]}." if meant else "Remove it; docs/reference/settings.md lists what there is."
        found.append(Warning(f"uws4r has no setting {name}", hint=hint, id="uws4r.W001"))
    return found


def leftovers(**kwargs: Any) -> list[CheckMessage]:
    """What still names ws4redis after the switch."""
    processors = [
        path for template in settings.TEMPLATES for path in template.get("OPTIONS", {}).get("context_processors", ())
    ]
    places = {
        "INSTALLED_APPS": settings.INSTALLED_APPS,
        "TEMPLATES": processors,
        "WSGI_APPLICATION": [settings.WSGI_APPLICATION or ""],
    }
    return [
        Warning(
            f"{place} still has {entry!r}",
            hint=f"Write {entry.replace('ws4redis', 'uws4r', 1)!r}.",
            id="uws4r.W002",
        )
        for place, entries in places.items()
        for entry in entries
        if re.match(r"ws4redis\b", entry)
    ]


def ambiguous_prefix(**kwargs: Any) -> list[CheckMessage]:
    """``"user"`` and the channel ``user:mary:news`` of it read like a user's channel of a site without a prefix."""
    prefix = conf.WS4REDIS_PREFIX
    parts = prefix.split(":") if isinstance(prefix, str) else []
    return [
        Warning(
            f"WS4REDIS_PREFIX = {prefix!r} contains the name of an audience, {part!r}: "
            "channels of this site can have the names of another site's in the same Redis",
            hint='Write a name of this site, such as "mysite".',
            id="uws4r.W003",
        )
        for part in AUDIENCES
        if part in parts
    ]


def sessions_in_cookies(**kwargs: Any) -> list[CheckMessage]:
    """Only the browser knows such a session: nothing names it, and nothing ends it."""
    try:
        store = session_store(settings.SESSION_ENGINE)
    except Exception:  # Django tells
        return []
    if not in_cookies(store):
        return []
    return [
        Warning(
            "SESSION_ENGINE keeps sessions in cookies: nobody can subscribe or publish to a session, and a logout "
            "closes only the websockets that were opened with the very cookie that it ends",
            hint='Choose another one, such as "django.contrib.sessions.backends.cached_db", or silence uws4r.W016.',
            id="uws4r.W016",
        )
    ]


def open_to_everybody(**kwargs: Any) -> list[CheckMessage]:
    """What is convenient while developing, and not when strangers come."""
    found = []
    if conf.WS4REDIS_ALLOWED_CHANNELS is None:
        found.append(
            Warning(
                "every client may subscribe and publish everywhere",
                hint="Set WS4REDIS_ALLOWED_CHANNELS to a function that returns what a request may do.",
                id="uws4r.W011",
            )
        )
    if "*" in conf.UWS4R_ALLOWED_ORIGINS:
        found.append(
            Warning(
                "pages of every other site may open websockets here, with the cookies of their visitors",
                hint='List the origins in UWS4R_ALLOWED_ORIGINS instead of "*".',
                id="uws4r.W012",
            )
        )
    for origin in OPAQUE:
        if origin in conf.UWS4R_ALLOWED_ORIGINS:
            found.append(
                Warning(
                    f"UWS4R_ALLOWED_ORIGINS lists {origin!r}, which is no app's own: any downloaded file, and any page "
                    "in a sandboxed frame, may open websockets here, with the cookies of whoever opens it",
                    hint="Give the app an origin of its own, such as app://mysite, or let it log in with a token.",
                    id="uws4r.W017",
                )
            )
    return found


def shared_redis(**kwargs: Any) -> list[CheckMessage]:
    """Pub/sub does not know databases: with another ``db`` two sites still hear each other."""
    if conf.WS4REDIS_PREFIX:
        return []
    try:
        db = make_client(conf.WS4REDIS_CONNECTION).connection_pool.connection_kwargs.get("db", 0)
    except ConfigurationError:
        return []
    if not db:
        return []
    return [
        Warning(
            f"database {db} of Redis is used without WS4REDIS_PREFIX: messages reach the sites in its other databases",
            hint='Set WS4REDIS_PREFIX to a name of this site, such as "mysite".',
            id="uws4r.W013",
        )
    ]


def unlimited_memory(**kwargs: Any) -> list[CheckMessage]:
    """Without ``maxmemory`` Redis takes all that its machine has, and some of what it keeps comes from clients."""
    if wrong_values() or conf.WS4REDIS_EXPIRE <= 0 or not callback(conf.WS4REDIS_SUBSCRIBER).publish_channels:
        return []
    try:
        limit = within(PATIENCE, _maxmemory)
    except Exception:  # away, or may not tell, or of a name that no resolver takes: nothing is known, nothing is said
        return []
    if limit != 0:
        return []
    return [
        Warning(
            "Redis has no maxmemory: it keeps clients' messages until its machine is out of memory",
            hint="Set maxmemory, and maxmemory-policy volatile-ttl, in redis.conf.",
            id="uws4r.W014",
        )
    ]


def _server(arguments: Mapping[str, Any]) -> str:
    """Return where a Redis is, of the arguments of a client, so that two of them can be compared."""
    if path := arguments.get("path") or arguments.get("unix_socket_path"):
        return str(path)
    host = arguments.get("host") or "localhost"
    return f"{'localhost' if host in ('127.0.0.1', '::1') else host}:{arguments.get('port') or 6379}"


def _servers_in(value: Any, depth: int = 6) -> Iterator[str]:
    """The Redis servers that a setting names, however it is nested: in URLs, or as pairs of host and port."""
    if isinstance(value, str) and value.startswith(("redis://", "rediss://", "unix://")):
        for url in re.split(r"[,;]", value):
            try:
                yield _server(parse_url(url))
            except ValueError:  # none of ours to judge
                continue
    elif isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int:
        yield _server({"host": value[0], "port": value[1]})
    elif isinstance(value, (dict, list, tuple)) and depth:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _servers_in(each, depth - 1)


def foreign_keys(**kwargs: Any) -> list[CheckMessage]:
    """
    Channels are keys, and clients choose facilities: without a prefix one can be the name of another program's key.

    A Redis that nothing else of the site uses is taken for one of its own.
    """
    form = form_of(conf.WS4REDIS_CONNECTION)
    if conf.WS4REDIS_PREFIX or conf.WS4REDIS_ALLOWED_CHANNELS is not None or form == "sentinels":
        return []
    try:
        own = _server(make_client(conf.WS4REDIS_CONNECTION).connection_pool.connection_kwargs)
    except ConfigurationError:
        return []
    others = [
        name for name in dir(settings) if name.isupper() and not name.startswith(("WS4REDIS_", "UWS4R_", "SECRET_"))
    ]
    sharing = [name for name in others if own in _servers_in(getattr(settings, name))]
    if form == "cache" and "CACHES" not in sharing:
        sharing.append("CACHES")
    if not sharing:
        return []
    return [
        Warning(
            f"{', '.join(sharing)} names the Redis of the websockets too, and clients may choose any facility: without "
            "WS4REDIS_PREFIX they read and overwrite every key that is called like a channel, such as broadcast:config",
            hint='Set WS4REDIS_PREFIX to a name of this site, such as "mysite".',
            id="uws4r.W015",
        )
    ]


def _maxmemory() -> Any:
    """Return the limit in bytes, 0 for none; None where this Redis does not tell."""
    client = make_client(conf.WS4REDIS_CONNECTION)
    client.connection_pool.connection_kwargs.update(socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    try:
        told: Any = client.info("memory")
        return told.get("maxmemory")
    finally:
        client.close()


def require_right_settings() -> None:
    """
    Make sure that there is no error in the settings.

    Raises:
        ConfigurationError: There is; says what to write instead.
    """
    errors = wrong_values()
    if errors:
        raise ConfigurationError("; ".join(f"{error.msg}. {error.hint} ({error.id})" for error in errors))


ALWAYS = (wrong_values, unknown_settings, leftovers, ambiguous_prefix, sessions_in_cookies)
DEPLOYED = (open_to_everybody, shared_redis, foreign_keys)
CONNECTING = (unlimited_memory,)  # of a deployment, too


def connect() -> None:
    """Register the checks; safe to call again."""
    for check in ALWAYS:
        register(check, Tags.compatibility if check is leftovers else "uws4r")
    for check in (*DEPLOYED, *CONNECTING):
        register(check, Tags.security, deploy=True)


def found() -> list[CheckMessage]:
    """
    Return what all of these checks say of the settings as they are; those of a deployment where DEBUG is off.

    Those that connect to Redis are not among them.
    """
    errors = wrong_values()
    if errors:  # the others take the settings for right
        return errors
    return [message for check in (*ALWAYS, *(() if settings.DEBUG else DEPLOYED)) for message in check()]
