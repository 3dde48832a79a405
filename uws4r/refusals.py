"""
What an error of Redis means, and what to change: one table for log, doctor and exceptions.

Redis begins an error with a word in capitals; redis-py strips it from most, and makes a class of it. Nothing here asks
anybody, and no text contains what a site has sent.
"""

import re
from typing import NamedTuple

import redis

CONNECTION = "WS4REDIS_CONNECTION"
MANUAL = "docs/how-to/redis.md"

CLUSTER = "this Redis runs in cluster mode (cluster-enabled yes), and uws4r needs all names of a site on one node"
NO_CLUSTER = (
    f"{CONNECTION}: a Redis without cluster mode; or have one node take all names, with braces in the prefix: "
    f'WS4REDIS_PREFIX = "{{mysite}}" ({MANUAL})'
)


class Advice(NamedTuple):
    """What an error means, and what to change."""

    means: str
    change: str


ADVICE = {
    "NOAUTH": Advice("Redis wants a password", f"{CONNECTION}: password, and username where it is not the default one"),
    "WRONGPASS": Advice(
        "Redis knows no such user, or another password",
        f"{CONNECTION}: username, password; in a URL percent-encoded: urllib.parse.quote(password, safe='')",
    ),
    "NOPASS": Advice("Redis has no password, and is given one", f"{CONNECTION}: leave password out"),
    "NOPERM": Advice("an ACL of Redis forbids it to this user", f"redis-cli ACL SETUSER; the rights are in {MANUAL}"),
    "OOM": Advice("the memory of Redis is full", "redis.conf: a larger maxmemory; maxmemory-policy volatile-ttl"),
    "MISCONF": Advice(
        "Redis cannot save to its disk, and takes nothing until it can",
        'make room on its disk; where nothing has to be saved, redis.conf: save ""',
    ),
    "READONLY": Advice("this is a replica, and only a master will do", f"{CONNECTION}: the master, or the sentinels"),
    "LOADING": Advice("Redis is still loading its data", "nothing: it will be ready in a moment"),
    "BUSY": Advice("a script blocks Redis", "redis-cli SCRIPT KILL (FUNCTION KILL), and look for what runs it"),
    "MASTERDOWN": Advice(
        "this is a replica that has lost its master", f"its master; {CONNECTION}: the master, or the sentinels"
    ),
    "NOREPLICAS": Advice(
        "Redis has fewer replicas than it wants, and takes nothing until they are back",
        "the replicas; or redis.conf: min-replicas-to-write",
    ),
    "MOVED": Advice(CLUSTER, NO_CLUSTER),
    "CLUSTERDOWN": Advice(
        "this Redis runs in cluster mode, and its cluster is incomplete", f"redis-cli CLUSTER INFO; {NO_CLUSTER}"
    ),
    "DENIED": Advice("Redis is in protected mode", "redis.conf: a password or a user, and bind"),
    "MAXCLIENTS": Advice("Redis has as many clients as it takes", "redis.conf: maxclients"),
    "NODB": Advice("Redis has no database of this number", f"{CONNECTION}: db; redis.conf: databases"),
    "NOCOMMAND": Advice(
        "this Redis does not have a command that uws4r needs, or hides it",
        f"redis.conf: rename-command; where somebody else runs it, {CONNECTION}: a Redis that has those in {MANUAL}",
    ),
    "NOMULTI": Advice(
        "Redis refuses MULTI, so that the message may have been published and not kept",
        f"redis-cli ACL SETUSER … +multi +exec; redis.conf: rename-command; the rights are in {MANUAL}",
    ),
    "NOPROTO": Advice(
        "uws4r needs Redis 6 or newer (RESP3)", f"a newer Redis, or Valkey; {CONNECTION} where it is another one"
    ),
    "NOMASTER": Advice(
        "no sentinel knows a master of this name, or none answers",
        f"redis-cli -p 26379 SENTINEL MASTERS; {CONNECTION}: sentinels, service_name, sentinel_kwargs",
    ),
}  # fmt: skip
ALIASES = {"CROSSSLOT": "MOVED", "ASK": "MOVED", "TRYAGAIN": "CLUSTERDOWN"}

# Classes of redis-py by name: older versions have not all of them.
CLASSES = {
    "NoPermissionError": "NOPERM", "OutOfMemoryError": "OOM", "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING", "MovedError": "MOVED", "AskError": "MOVED", "ClusterCrossSlotError": "MOVED",
    "TryAgainError": "CLUSTERDOWN", "ClusterDownError": "CLUSTERDOWN", "MasterDownError": "MASTERDOWN",
    "MasterNotFoundError": "NOMASTER", "MaxClientsError": "MAXCLIENTS",
    "AuthenticationWrongNumberOfArgsError": "NOPROTO",
}  # fmt: skip

# What tells by its text alone. The first that fits counts.
TEXTS = tuple(
    (re.compile(pattern, re.IGNORECASE), code)
    for pattern, code in (
        (r"in cluster mode", "MOVED"),
        (r"unknown command .?HELLO|HELLO.* unknown|unsupported protocol", "NOPROTO"),
        (r"unknown (sub)?command|command is not allowed|command.* not supported", "NOCOMMAND"),
        (r"EXEC without MULTI", "NOMULTI"),
        (r"without any password configured|no password is set", "NOPASS"),
        (r"authentication required|must be called with the client already authenticated", "NOAUTH"),
        (r"invalid username-password|invalid password|invalid username or password", "WRONGPASS"),
        (r"no permissions|ACL failure|can't run this command or subcommand|the user executing the script", "NOPERM"),
        (r"used memory > 'maxmemory'", "OOM"),
        (r"keys in request don't hash to the same slot", "MOVED"),
        (r"max number of clients", "MAXCLIENTS"),
        (r"DB index is out of range|invalid DB index", "NODB"),
    )
)

# A pipeline of redis-py puts the command in front, with what the site publishes in it.
WRAPPED = re.compile(r".*of pipeline caused error: ", re.DOTALL)


def said(error: object) -> str:
    """Return what Redis has said, in one line, without what redis-py has put in front of it."""
    return " ".join(WRAPPED.sub("", str(error)).split()) or type(error).__name__


def code_of(error: object) -> str:
    """Return the key of :data:`ADVICE` for an exception of redis-py or hiredis, or a text of Redis; else ``""``."""
    for kind in type(error).__mro__:
        if kind.__name__ in CLASSES:
            return CLASSES[kind.__name__]
    text = said(error)
    # A script has the word of what has failed in it further back, behind a hyphen.
    for word in re.findall(r"^[A-Z]+\b|(?<= -)[A-Z]+\b|^-[A-Z]+\b", text):
        code = word.lstrip("-")
        if (code := ALIASES.get(code, code)) in ADVICE:
            return code
    if isinstance(error, (redis.TimeoutError, OSError)):
        return ""
    unknown = "WRONGPASS" if isinstance(error, redis.AuthenticationError) else ""
    return next((code for pattern, code in TEXTS if pattern.search(text)), unknown)


def advice(error: object) -> Advice | None:
    """Return what an error means; None for one that says it all, or that is no answer of Redis."""
    return ADVICE.get(code_of(error))


def explained(error: object) -> str:
    """Return what Redis has said, and what that means, in one line."""
    known = advice(error)
    text = said(error)
    return text if known is None else f"{text.rstrip('.')}: {known.means}. Change: {known.change}"
