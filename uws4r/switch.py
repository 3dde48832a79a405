"""
A site of django-websocket-redis ("ws4redis") becomes one of uws4r: ``python -m uws4r.switch DIRECTORY``.

It shows what it would change; with ``--write`` it does so. It changes names of modules and of the package, and nothing
that is only spelled alike: paths of files, keys in Redis and in sessions, prefixes, variables. What it leaves alone it
lists.
"""

import argparse
import ast
import difflib
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from io import BytesIO, StringIO
from pathlib import Path
from typing import NamedTuple

OLD, NEW = "ws4redis", "uws4r"
PACKAGE = "django-websocket-redis"
MODULES = (
    "context_processors", "django_runserver", "exceptions", "management", "publisher", "redis_store", "settings",
    "subscriber", "utf8validator", "uwsgi_runserver", "websocket", "wsgi_server",
)  # fmt: skip
DOTTED = re.compile(rf"\b{OLD}(?=\.(?:{'|'.join(MODULES)})\b)")
# In all spellings that pip takes for the same, with extras and versions: none of them is one of ours.
REQUIREMENT = re.compile(
    r"(?<![\w.-])django[-_.]websocket[-_.]redis(?![\w.-])(\[[^\]]*\])?( *[=~!<>]{1,3} *[\w.*+!-]+,?)*", re.IGNORECASE
)
# Of files that are no Python: what is read as configuration by uWSGI, pip, systemd, a shell, a container.
OTHERS = (".ini", ".cfg", ".toml", ".txt", ".in", ".yml", ".yaml", ".sh", ".service", ".env")
NAMED = ("Dockerfile", "Makefile", "Pipfile", "Procfile")
LARGEST = 1 << 20  # bytes; a larger file was not written by hand
# What takes the package's name alone for the package; elsewhere that is anybody's word.
FUNCTIONS = ("getLogger", "is_installed", "get_app_config", "import_module", "find_spec", "importorskip")
ALIKE = re.compile(rf"(?<![\w/]){OLD}\b(?!\.(?:js|css)\b)")


class Change(NamedTuple):
    """A file as it is, and as it is to be."""

    path: Path
    before: str
    after: str


def files(directory: Path) -> Iterator[Path]:
    """Yield the files of a site that may name ws4redis: not those of an environment, of a repository, of node."""
    for place, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if is_the_sites(Path(place, name)))
        for name in sorted(names):
            path = Path(place, name)
            known = path.suffix in (".py", *OTHERS) or name in NAMED
            if known and path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST:
                yield path


def is_the_sites(directory: Path) -> bool:
    """Whether what is in a directory was written for the site."""
    name = directory.name
    others = name.startswith(".") or name in ("node_modules", "site-packages", "__pycache__")
    return not others and not (directory / "pyvenv.cfg").exists()


def changed(name: str, text: str) -> str:
    """
    Return what a file is to be.

    Args:
        name: Of the file.
    Raises:
        SyntaxError: It is no Python that this Python knows.
    """
    if name.endswith(".py"):
        return _python(text)
    return REQUIREMENT.sub(NEW, DOTTED.sub(NEW, text))


def _python(text: str) -> str:
    if OLD not in text and not REQUIREMENT.search(text):
        return text
    tree = ast.parse(text)
    lines = list(StringIO(text, newline=""))  # as Python splits them, and no others
    packages, strings = _packages(tree), _strings(tree)
    edits = []  # (line, column, end of it, what is there then)
    previous = ""
    for token in tokenize.generate_tokens(StringIO(text, newline="").readline):
        (line, column), (last, end) = token.start, token.end
        place = line, len(token.line[:column].encode())  # as ast counts
        after = token.string
        if token.type == tokenize.NAME and after == OLD:
            if place in packages or (previous == "from" and (line, 0) in packages):
                after = NEW
        elif token.type == tokenize.STRING and line == last:
            after = REQUIREMENT.sub(NEW, DOTTED.sub(NEW, after))
            if place in strings:
                after = after.replace(OLD, NEW)
        if after != token.string:
            edits.append((line, column, end, after))
        previous = token.string
    for line, column, end, after in reversed(edits):
        lines[line - 1] = lines[line - 1][:column] + after + lines[line - 1][end:]
    return "".join(lines)


def _packages(tree: ast.AST) -> set[tuple[int, int]]:
    """
    Return where ``ws4redis`` is the package: line and column.

    That is in imports (column 0 where one comes from it), and wherever ``import ws4redis`` has bound the name.
    """
    places = set()
    bound = False
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == OLD:
            places.add((node.lineno, 0))
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == OLD:
                    places.add((alias.lineno, alias.col_offset))
                    bound = bound or alias.asname is None
    names = [node for node in ast.walk(tree) if bound and isinstance(node, ast.Name) and node.id == OLD]
    return places | {(node.lineno, node.col_offset) for node in names}


def _strings(tree: ast.AST) -> set[tuple[int, int]]:
    """Return where a string that is nothing but the name means the package: among apps, as a logger's."""
    found: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [node.value] * any(map(_is_apps, targets))
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in FUNCTIONS or (isinstance(node.func, ast.Attribute) and _is_apps(node.func.value)):
                found.extend(node.args)
            found.extend(keyword.value for keyword in node.keywords if (keyword.arg or "").endswith("APPS"))
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "loggers" and isinstance(value, ast.Dict):
                    found.extend(value.keys)
    strings = [each for node in found if node is not None for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return {(each.lineno, each.col_offset) for each in strings if each.value == OLD}


def _is_apps(target: ast.AST) -> bool:
    """``INSTALLED_APPS``, or what a site puts it together from."""
    return isinstance(target, ast.Name) and target.id.endswith("APPS")


def read(path: Path) -> tuple[str, str]:
    """
    Return a file's text, with the ends of lines that it has, and its encoding.

    Raises:
        ValueError: It is no text, or Python that names an encoding nobody knows.
    """
    data = path.read_bytes()
    encoding = "utf-8"
    if path.suffix == ".py":
        try:
            encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
        except SyntaxError as error:
            raise ValueError(str(error)) from None
    return data.decode(encoding), encoding


def plan(directory: Path) -> tuple[list[Change], list[str]]:
    """Return what is to be changed below a directory, and what is left alone, line by line."""
    changes, left = [], []
    for path in files(directory):
        try:
            before, _ = read(path)
            after = changed(path.name, before)
        except (SyntaxError, ValueError) as error:
            left.append(f"{path}: not read: {error}")
            continue
        if after != before:
            changes.append(Change(path, before, after))
        for number, line in enumerate(after.splitlines(), 1):
            if ALIKE.search(line):
                left.append(f"{path}:{number}: {line.strip():.150}")
    return changes, left


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m uws4r.switch", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIRECTORY", help="of the site")
    parser.add_argument("--write", action="store_true", help="change the files; without it they are only shown")
    told = parser.parse_args(arguments)
    if not told.directory.is_dir():
        parser.error(f"no such directory: {told.directory}")
    changes, left = plan(told.directory)
    for change in changes:
        name = str(change.path)
        before, after = (text.splitlines() for text in (change.before, change.after))
        print("\n".join(difflib.unified_diff(before, after, name, name, lineterm="", n=1)))
        if told.write:
            _, encoding = read(change.path)
            change.path.write_bytes(change.after.encode(encoding))
    if left:
        print("\nLeft alone, for you to look at:", *left, sep="\n  ")
    what = "file" if len(changes) == 1 else "files"
    print(f"\n{len(changes)} {what} {'changed' if told.write else 'to change'}.", end="")
    print("" if told.write or not changes else " Do it with --write.")
    if any(REQUIREMENT.search(change.before) for change in changes):
        print(f"{PACKAGE} is uws4r among the requirements: pip install '/path/to/uws4r[uwsgi]', a checkout of it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
