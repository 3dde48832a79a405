"""Reading order is import order: a module imports only from those above it."""

import ast
from pathlib import Path

import uws4r

PACKAGE = Path(uws4r.__file__).parent

ORDER = [
    "rfc6455", "errors", "refusals", "greeting", "quoting", "shares", "_deflate", "_decoder", "_frames", "channels",
    "conf", "redis_arguments", "redis_clients", "threads", "offloop", "redis_store", "publisher",
    "subscriber", "orders",
    "_connection", "_channel", "_fanout", "_pipeline", "_intake", "_hub", "link", "connector", "attachment",
    "counters", "_outbox", "heartbeat", "fetches", "keeping", "keeper", "hub", "sessions", "recent", "control",
    "engines.thread", "engines.turns",
    "engines.gevent", "shield", "engines.native", "engines", "worker",
    "_descriptors",
    "handshake", "detached", "native", "proxies", "cookies", "logins", "access", "admission", "mailbox", "overrides",
    "application", "checks",
    "uwsgi_server", "wsgi",
    "settings", "exceptions", "uwsgi_runserver", "wsgi_server",
    "wsgiref_server", "django_runserver", "embedded_redis",
    "probe", "diagnosis", "claims", "redis_probe", "doctor",
    "management", "management.order", "management.commands", "management.commands.runserver",
    "management.commands.uws4r", "management.checks",
    "signals", "context_processors", "templatetags", "templatetags.uws4r", "apps", "testing", "switch",
]  # fmt: skip

# Below this line Django's web part and the ORM may be used; above it nothing imports them.
WEB = ORDER.index("_descriptors")


# What moves the bytes knows nothing of Django at all.
SERVER = ORDER[ORDER.index("_connection") : ORDER.index("engines")]


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """The modules of uws4r, and of Django, that a file imports, in functions too or only when it is loaded."""
    found: set[str] = set()
    if path.suffix == ".pyx":
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] == ["from"] and words[2:3] in (["import"], ["cimport"]):
                found.add(words[1])
        return found
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def modules() -> dict[str, Path]:
    files = [path for suffix in ("py", "pyx") for path in PACKAGE.rglob(f"*.{suffix}")]
    named = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in files
    }
    named.pop("__init__")
    return named


def test_the_list_is_complete() -> None:
    assert set(modules()) == set(ORDER)


def test_imports_go_upwards_only() -> None:
    for name, path in modules().items():
        for other in imported(path):
            short = other.removeprefix("uws4r.")
            if other.startswith("uws4r.") and short in ORDER:
                assert ORDER.index(short) < ORDER.index(name), f"{name} imports {short}"


def test_only_the_web_part_knows_the_web() -> None:
    for name in ORDER[:WEB]:
        # The publisher asks Django for the present transaction, where somebody wants to publish on commit.
        for other in imported(modules()[name], everywhere=name != "redis_store"):
            assert not other.startswith(("django.db", "django.http", "django.contrib", "django.core.handlers")), name
            assert not (
                name in ("hub", "keeper", "_hub", "_fanout", "_channel", "link", "connector", "_connection")
                and other.startswith("django")
            ), name


def test_join_name_has_one_caller() -> None:
    assert [name for name, path in modules().items() if "uws4r._frames.join_name" in imported(path)] == ["channels"]
