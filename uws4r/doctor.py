"""
The way of a message, walked step by step as an administrator would by hand: ``manage.py uws4r doctor``.

It asks; what the answers mean is said in ``diagnosis``, ``redis_probe`` and ``claims``. A site notices two websockets
on facilities that nobody else uses, a few messages there that are not kept, and two foreign Origins in its log.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

from django.conf import settings

from uws4r import checks
from uws4r._frames import parse_close
from uws4r.attachment import quoted_path
from uws4r.claims import of_claims
from uws4r.conf import conf
from uws4r.connector import PATIENCE
from uws4r.diagnosis import (
    FAILED,
    OK,
    WARNING,
    Asked,
    Finding,
    answered_by,
    of_answer,
    of_connecting,
    of_cut,
    of_end,
    of_no_answer,
    of_origin,
    of_silence,
    of_workers,
)
from uws4r.errors import ProtocolError
from uws4r.orders import ask, control_channel
from uws4r.probe import Answer, Probe, Target, parse_target, reach, resolve, secured
from uws4r.publisher import RedisPublisher
from uws4r.redis_probe import REDIS_ERRORS, forbidden, of_permissions, of_redis, of_server, other_prefixes
from uws4r.rfc6455 import Opcode
from uws4r.worker import told_settings

SLOW = 1.0  # seconds from publishing to receiving that are worth a word
LONG_MESSAGE = 1 << 16  # bytes; larger than the buffers of proxies
FIRST_PAUSE = 0.1  # seconds until a message is published again, for a websocket that had not joined yet

NETWORK_ERRORS = (OSError, EOFError, ProtocolError)


class Step(NamedTuple):
    """One step of the way, and what was found there."""

    name: str
    finding: Finding


class Options(NamedTuple):
    """What the doctor is asked to do."""

    url: str | None = None  # of the site; None: only what is behind it
    timeout: float = 5.0  # seconds for each thing that is asked
    idle: float = 0.0  # seconds for which the websocket is left alone; 0: that is not looked at
    insecure: bool = False  # take any certificate
    cookies: Sequence[str] = ()  # each ``name=value``
    origin: str | None = None  # None: that of the site's own pages


class Doctor:
    """One examination; :meth:`steps` does it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._timeout = options.timeout
        self._facility = f"uws4r-doctor-{uuid4().hex[:12]}"
        self._redis = False  # whether it can be worked with
        self._workers: list[dict[str, Any]] = []

    def steps(self) -> Iterator[Step]:
        """Do one step after the other, and yield what each has found."""
        try:
            for name, finding in self._steps():
                yield Step(name, Finding(*map(_readable, finding)))
        except Exception as error:  # an administrator who looks for an error shall not find ours
            means = "the doctor met something that it does not know"
            seen = _readable(f"{type(error).__name__}: {error}")
            yield Step("doctor", Finding(FAILED, seen, means, "please report it"))

    def _steps(self) -> Iterator[Step]:
        wrong = False
        for finding in self._settings():
            wrong = wrong or finding.state == FAILED
            yield Step("settings", finding)
        if wrong:  # nothing starts with these
            return
        yield from self._look_at_redis()
        if self._options.url is None:
            yield from self._look_at_workers(served=False)
            seen = "none was given: what is in front of the workers was not looked at"
            yield Step("URL", Finding(OK, seen, "", "python manage.py uws4r doctor https://www.example.com/"))
            return
        try:
            target = parse_target(self._options.url, conf.WEBSOCKET_URL)
        except ValueError as error:
            means = "this is no address of a site"
            seen = f"{self._options.url!r}: {error}"
            yield Step("URL", Finding(FAILED, seen, means, "python manage.py uws4r doctor https://www.example.com/"))
            return
        yield from self._walk(target)

    def _settings(self) -> Iterator[Finding]:
        messages = checks.found()
        for message in messages:
            state = FAILED if message.is_serious() else WARNING
            yield Finding(state, f"{message.msg} ({message.id})", "", f"settings.py: {message.hint}")
        if not messages:
            yield Finding(OK, "no complaints")

    # ------------------------------------------------------------ Redis and workers

    def _look_at_redis(self) -> Iterator[Step]:
        finding = of_server(self._timeout)
        yield Step("Redis", finding)
        if finding.state != FAILED:
            finding = of_permissions(self._facility, self._timeout)
            yield Step("Redis's permissions", finding)
        self._redis = finding.state != FAILED
        if self._redis and not settings.DEBUG:
            for message in checks.unlimited_memory():
                change = f"redis.conf: {message.hint}"
                yield Step("Redis's memory", Finding(WARNING, f"{message.msg} ({message.id})", "", change))

    def _look_at_workers(self, served: bool) -> Iterator[Step]:
        """
        Args:
            served: A worker serves the doctor's websocket, so that there is one.
        """
        if not self._redis:
            return
        try:
            silent = self._ask_workers(self._timeout if served else 0.0)
        except REDIS_ERRORS as error:
            yield Step("workers", self._of_order(error))
            return
        if silent:
            means = "its hub does not get to answer: a view or an override that computes for long, or a stopped process"
            yield Step(
                "workers", Finding(WARNING, silent, means, "uWSGI: websockets in workers of their own (vassals/)")
            )
        workers = self._workers
        if not workers:
            if not silent:
                yield Step("workers", self._no_workers(served))
            return
        troubles = of_workers(workers, told_settings())
        if not any(finding.state == FAILED for finding in troubles):
            yield Step("workers", Finding(OK, self._summary()))
        for finding in troubles:
            yield Step("workers", finding)

    def _ask_workers(self, patience: float) -> str:
        """Ask for the workers' figures, again while nobody is there; return which have not answered."""
        deadline = time.monotonic() + patience
        while True:
            silent = ""
            try:
                self._workers = ask(self._timeout, do="status")
            except TimeoutError as error:
                silent, self._workers = error.args
            # A hub subscribes to orders while its first websocket is opened already.
            if self._workers or silent or time.monotonic() >= deadline:
                return silent
            time.sleep(FIRST_PAUSE)

    def _of_order(self, error: Exception) -> Finding:
        if forbidden(error):
            means = f"an ACL of Redis forbids orders to the workers: {control_channel()}"
            return Finding(FAILED, str(error), means, f"redis-cli ACL SETUSER … &{control_channel()}*")
        return of_redis(error)

    def _no_workers(self, served: bool) -> Finding:
        others = other_prefixes("uws4r:control", self._timeout)
        seen = "no worker answers"
        if others:
            seen += f"; in this Redis there are workers with WS4REDIS_PREFIX {' or '.join(map(repr, others))}"
        if served:
            means = "the worker of this websocket uses another Redis or another WS4REDIS_PREFIX than this process"
            return Finding(FAILED, seen, means, self._agreement())
        means = (
            "none has served a websocket yet, or they use another Redis or another WS4REDIS_PREFIX than this process"
        )
        return Finding(
            WARNING, seen, means, f"open a page with a websocket, or give the doctor a URL; {self._agreement()}"
        )

    def _agreement(self) -> str:
        here = f"WS4REDIS_PREFIX is {conf.WS4REDIS_PREFIX!r} here"
        return f"settings.py: WS4REDIS_CONNECTION and WS4REDIS_PREFIX, the same for workers and manage.py ({here})"

    def _summary(self) -> str:
        workers = self._workers
        kinds = []
        for worker in workers:
            server = worker.get("server") or {}
            words = [str(server.get("name", "a server")), str(server.get("version", ""))]
            if "processes" in server:
                words.append(f"(processes = {server['processes']}, descriptors = {worker.get('descriptors')})")
            kinds.append(" ".join(filter(None, words)))
        count = sum(worker.get("connections", 0) for worker in workers)
        hosts = ", ".join(dict.fromkeys(str(worker.get("host")) for worker in workers))
        return f"{len(workers)} on {hosts}, with {count} websockets: {', '.join(dict.fromkeys(kinds))}"

    # ------------------------------------------------------------ the way through the front

    def _walk(self, target: Target) -> Iterator[Step]:
        try:
            addresses = resolve(target.host, target.port, self._timeout)
        except OSError as error:
            yield Step("address", of_connecting(error, target))
            yield from self._look_at_workers(served=False)
            return
        address, finding = self._reach(target, addresses)
        yield Step("address", finding)
        if address is None:
            yield from self._look_at_workers(served=False)
            return
        trusting = False
        if target.secure:
            finding = self._certificate(target, address)
            trusting = finding.state != OK
            yield Step("TLS", finding)
            if finding.state == FAILED:
                yield from self._look_at_workers(served=False)
                return
        asked = Asked(
            target, self._options.origin or target.origin, conf.WEBSOCKET_URL, cookie=bool(self._options.cookies)
        )
        dial = _Dial(target, address, trusting, self._timeout)
        probe, finding = self._shake_hands(dial, asked)
        yield Step("handshake", finding)
        if probe is None:
            yield from self._look_at_workers(served=False)
            return
        with closing(probe):
            yield from self._use(probe)
        if finding.state == OK and self._workers:
            yield from self._claim(dial, asked)

    def _reach(self, target: Target, addresses: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...] | None, Finding]:
        failures: list[tuple[str, Exception]] = []
        for address in addresses:
            name = str(address[4][0])
            try:
                reach(address, self._timeout).close()
            except OSError as error:
                failures.append((name, error))
                continue
            seen = f"{target.host} is {name}, connected to port {target.port}"
            if not failures:
                return address, Finding(OK, seen)
            others = ", ".join(f"{other} ({error})" for other, error in failures)
            means = "browsers try them one after the other, and some wait long for the first"
            change = "the DNS entry of the host, or NGiNX: listen [::]:80"
            return address, Finding(WARNING, f"{seen}; not to {others}", means, change)
        return None, of_connecting(failures[-1][1], target)

    def _certificate(self, target: Target, address: tuple[Any, ...]) -> Finding:
        try:
            with secured(reach(address, self._timeout), target.host, self._timeout) as connection:
                return Finding(OK, f"{connection.version()}, the certificate is trusted")
        except OSError as error:
            finding = of_connecting(error, target)
        if self._options.insecure:
            try:
                with secured(reach(address, self._timeout), target.host, self._timeout, trusting=True) as connection:
                    return finding._replace(state=WARNING, seen=f"{connection.version()}, {finding.seen} (--insecure)")
            except OSError as error:
                return of_connecting(error, target)
        return finding

    def _headers(self, asked: Asked) -> dict[str, str]:
        headers = {"Host": asked.target.authority, "Origin": asked.origin, "User-Agent": "uws4r-doctor"}
        if self._options.cookies:
            headers["Cookie"] = "; ".join(self._options.cookies)
        return headers

    def _shake_hands(self, dial: "_Dial", asked: Asked) -> tuple[Probe | None, Finding]:
        path = f"{asked.target.path}{quote(self._facility)}?subscribe-broadcast"
        headers = self._headers(asked)
        try:
            probe, answer = dial.ask(path, headers)
        except NETWORK_ERRORS as error:
            return None, of_no_answer(error)
        if probe is not None:
            return probe, Finding(OK, f"101 from {asked.target.url}, with the Origin {asked.origin}")
        if answered_by(answer) == "uws4r" and "This Origin may not" in answer.text:
            return None, self._try_origins(dial, asked, path, headers)
        return None, of_answer(answer, asked)

    def _try_origins(self, dial: "_Dial", asked: Asked, path: str, headers: dict[str, str]) -> Finding:
        """Find out which Origin would be let in, which tells what the site takes itself for."""
        listed = [*settings.CSRF_TRUSTED_ORIGINS, *conf.UWS4R_ALLOWED_ORIGINS]
        target = asked.target
        if asked.origin != target.origin:
            return of_origin(asked, (), listed)
        bare = target._replace(port=443 if target.secure else 80).authority
        accepted = []
        candidates = [f"{scheme}://{name}" for scheme in ("http", "https") for name in (target.authority, bare)]
        for origin in dict.fromkeys(candidates):
            if origin in listed or origin == asked.origin:
                continue
            try:
                probe, _ = dial.ask(path, {**headers, "Origin": origin})
            except NETWORK_ERRORS:
                continue
            if probe is not None:
                probe.close()
                accepted.append(origin)
        return of_origin(asked, accepted, listed)

    def _claim(self, dial: "_Dial", asked: Asked) -> Iterator[Step]:
        facility = f"{self._facility}-claims"

        def who() -> list[str]:
            try:
                found = ask(self._timeout, do="find", paths=[quoted_path(conf.WEBSOCKET_URL + facility)])
            except TimeoutError as error:
                found = error.args[1]
            return [identity for worker in found for identity in worker.get("identities") or ()]

        path = f"{asked.target.path}{quote(facility)}?subscribe-broadcast"
        try:
            for finding in of_claims(dial, asked.target, path, self._headers(asked), who, self._timeout):
                yield Step("claims", finding)
        except (*NETWORK_ERRORS, *REDIS_ERRORS) as error:
            yield Step("claims", Finding(WARNING, f"not checked: {error}", "it worked a moment ago", "ask again"))

    # ------------------------------------------------------------ the open websocket

    def _use(self, probe: Probe) -> Iterator[Step]:
        finding = self._ping(probe)
        yield Step("ping", finding)
        yield from self._look_at_workers(served=True)
        if finding.state == FAILED:
            return
        if not self._redis:
            means = "nothing could be published from here"
            yield Step("message", Finding(WARNING, "not checked", means, "Redis first, see above"))
        elif self._workers:
            finding = self._message(probe)
            yield Step("message", finding)
        if finding.state != FAILED and self._options.idle > 0:
            yield Step("idle", self._idle(probe))

    def _ping(self, probe: Probe) -> Finding:
        token = self._facility.encode()
        began = time.monotonic()
        try:
            probe.ping(token)
            while True:
                opcode, payload = probe.receive(began + self._timeout)
                if opcode == Opcode.CLOSE:
                    return self._ended(began, payload)
                if (opcode, payload) == (Opcode.PONG, token):
                    return Finding(OK, f"answered after {_milliseconds(began)}")
        except TimeoutError:
            return of_silence(self._push_through(probe))
        except NETWORK_ERRORS as error:
            return of_cut(error)

    def _push_through(self, probe: Probe) -> bool:
        """Publish long messages; return whether anything comes then."""
        if not self._redis:
            return False
        text = "uws4r doctor ".ljust(min(LONG_MESSAGE, conf.UWS4R_MAX_QUEUE // 2), ".")
        try:
            return any(found is not None for found in self._published(probe, lambda number: text))
        except (*REDIS_ERRORS, *NETWORK_ERRORS):
            return False

    def _published(self, probe: Probe, text: Callable[[int], str]) -> Iterator[tuple[int, bytes] | None]:
        """
        Publish until the time is over, and yield what comes; None for nothing.

        Again and again: a websocket is open before it has joined its channels.
        """
        publisher = RedisPublisher(facility=self._facility, broadcast=True)
        deadline = time.monotonic() + self._timeout
        pause = FIRST_PAUSE
        number = 0
        self._reached = 0
        while (now := time.monotonic()) < deadline:
            try:
                self._reached = max(self._reached, publisher.publish_message(text(number), expire=0))
                yield probe.receive(min(deadline, now + pause))
            except TimeoutError:
                yield None
            number += 1
            pause *= 2

    def _message(self, probe: Probe) -> Finding:
        began = time.monotonic()
        sent: dict[str, float] = {}

        def text(number: int) -> str:
            message = f"{self._facility} {number}"
            sent[message] = time.monotonic()
            return message

        try:
            for found in self._published(probe, text):
                if found is None:
                    continue
                opcode, payload = found
                if opcode == Opcode.CLOSE:
                    return self._ended(began, payload)
                words = payload.decode("utf-8", "replace")
                if self._facility in words.lower():  # a subscriber class may have changed it
                    return self._arrived(time.monotonic() - sent.get(words, began), len(sent))
        except REDIS_ERRORS as error:
            return of_cut(error) if isinstance(error, OSError) else of_redis(error)
        except NETWORK_ERRORS as error:
            return of_cut(error)
        return self._lost()

    def _arrived(self, seconds: float, count: int) -> Finding:
        seen = f"published, and received after {1000 * seconds:.1f} ms"
        if seconds > SLOW or count > 3:
            means = "that is slow: workers that compute, or a front that collects"
            return Finding(WARNING, f"{seen}, the {count}. time", means, "uWSGI: websockets in workers of their own")
        return Finding(OK, seen)

    def _lost(self) -> Finding:
        if self._reached:
            means = "the worker got it from Redis: the class of WS4REDIS_SUBSCRIBER swallows it (parse_response)"
            return Finding(FAILED, "published, not received", means, "settings.py: WS4REDIS_SUBSCRIBER")
        try:
            found = ask(self._timeout, do="find", paths=[quoted_path(conf.WEBSOCKET_URL + self._facility)])
        except TimeoutError as error:
            found = error.args[1]
        except REDIS_ERRORS as error:
            return self._of_order(error)
        seen = "published, and no worker listened"
        if any(worker.get("met") for worker in found):
            means = "WS4REDIS_ALLOWED_CHANNELS does not grant subscribe-broadcast, or WS4REDIS_SUBSCRIBER is at fault"
            change = "--cookie sessionid=… of a user who may; uWSGI's log says what was asked for"
            return Finding(FAILED if self._options.cookies else WARNING, seen, means, change)
        others = other_prefixes(f"broadcast:{self._facility}", self._timeout)
        if others:
            seen += f" here; one with WS4REDIS_PREFIX {others[0]!r} does"
        means = "the worker of this websocket uses another Redis or another WS4REDIS_PREFIX than those that answered"
        return Finding(FAILED, seen, means, self._agreement())

    def _idle(self, probe: Probe) -> Finding:
        began = heard = time.monotonic()
        pings = probe.pings
        try:
            while True:
                opcode, payload = probe.receive(began + self._options.idle)
                if opcode == Opcode.CLOSE:
                    return self._ended(heard, payload)
                heard = time.monotonic()
        except TimeoutError:
            count = probe.pings - pings
            return Finding(OK, f"still open after {self._options.idle:g} s, with {count} pings of the server")
        except NETWORK_ERRORS as error:
            if isinstance(error, ProtocolError):
                return of_cut(error)
            return of_end(time.monotonic() - max(heard, probe.pinged), None, "", self._ping_interval())

    def _ended(self, since: float, payload: bytes) -> Finding:
        code, reason = parse_close(payload)
        return of_end(time.monotonic() - since, code, reason, self._ping_interval())

    def _ping_interval(self) -> float:
        told: Iterable[Any] = ((worker.get("settings") or {}).get("UWS4R_PING_INTERVAL") for worker in self._workers)
        return next((each for each in told if isinstance(each, (int, float))), conf.UWS4R_PING_INTERVAL)


class _Dial(NamedTuple):
    """How the site is called: each time on a connection of its own."""

    target: Target
    address: tuple[Any, ...]
    trusting: bool
    timeout: float

    def ask(self, path: str, headers: dict[str, str]) -> tuple[Probe | None, Answer]:
        """Return the answer to a handshake, with the websocket where there is one."""
        connection = reach(self.address, self.timeout)
        if self.target.secure:
            connection = secured(connection, self.target.host, self.timeout, self.trusting)
        probe = Probe(connection, self.timeout)
        try:
            # A worker that waits for Redis says so after a while.
            answer = probe.ask(path, headers, self.timeout + PATIENCE)
        except BaseException:
            connection.close()
            raise
        if answer.status == 101:
            return probe, answer
        connection.close()
        return None, answer


def _readable(text: str) -> str:
    # Servers have a say in it, and terminals obey control characters.
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _milliseconds(since: float) -> str:
    return f"{1000 * (time.monotonic() - since):.1f} ms"
