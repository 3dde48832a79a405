"""
The Autobahn|Testsuite in an environment of its own, below ``build/``.

What is on PyPI is Python 2. Its fuzzing client is downloaded, made into Python 3 by :data:`CHANGES`, and kept
until the recipe, which is this file, or the interpreter is another one. Nothing of it is in this tree.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
HOME = BUILD / "autobahn"
PYTHON = HOME / "bin" / "python"
CONVERTED = HOME / "converted"  # the directory of the package `autobahntestsuite`

TESTSUITE = "autobahntestsuite==25.10.1"
# Autobahn's setup.py needs a setuptools that has the command `test`, and that one needs `wheel`.
BUILDERS = ("setuptools==69.5.1", "wheel")
# The Autobahn that the test suite is made for, and a Twisted that runs it on every Python from 3.10 to 3.13.
LIBRARIES = ("autobahn==0.10.9", "txaio==2.1.0", "Twisted==24.11.0")
CASES = 517  # which are in these files of the package:
NEEDED = ("_version.py", "caseset.py", "fuzzing.py", "report.py", "case", "testdata")


class Change(NamedTuple):
    """A substitution; that it matches nothing in one of the files it is for is an error."""

    files: str  # a glob below the package
    pattern: str  # a regular expression; ^ and $ are those of a line
    replacement: str
    every: bool = True  # in every file of the glob, or in some of them


CHANGES = (
    # Syntax of Python 2.
    Change("**/*.py", r"^(\s*)print (.*)$", r"\1print(\2)", every=False),
    Change("**/*.py", r"([\w.\[\]]+)\.has_key\(([^)]+)\)", r"(\2 in \1)", every=False),
    Change("case/*.py", r"\bxrange\(", "range(", every=False),
    Change("case/*.py", r"^from (case\w*) import", r"from .\1 import", every=False),
    Change("fuzzing.py", r"^from (case|caseset|report) import", r"from .\1 import"),
    Change("caseset.py", r"'\\\.'", r"r'\\.'"),  # an escape that is none
    # Classes of the old style had an order of bases that is none today.
    Change("case/*.py", r"\(object, Case, ?\)", "(Case,)", every=False),
    # A division that is one of integers.
    Change("case/case10_1_1.py", r"len\(self\.payload\) / ", "len(self.payload) // "),
    # Of the HTML report only the styles; what follows them is for another program, and needs Jinja.
    Change("report.py", r"^import jinja2$", ""),
    Change("report.py", r"^REPORT_DIR_PERMISSIONS(?s:.*)", ""),
    # Not one of the 517 cases, and of a library that is gone.
    Change("case/__init__.py", r"^from \.case9_9_1 import \*$", ""),
    # TLS is not tested here; its libraries are many.
    Change("fuzzing.py", r"^from twisted\.internet import reactor, ssl$", "from twisted.internet import reactor"),
    # setuptools is no part of an environment any more.
    Change("fuzzing.py", r", pkg_resources$", ""),
    Change("case/case12_x_x.py", r"\bpkg_resources, ", ""),
    Change(
        "case/case12_x_x.py",
        r'pkg_resources\.resource_filename\("autobahntestsuite", "testdata/%s" % (.+)\)$',
        r'os.path.join(os.path.dirname(__file__), "..", "testdata", \1)',
    ),
    # Strings that hold octets (octets.py).
    Change("case/*.py", r"^import binascii$", "from octets import hexlify", every=False),
    Change("case/case[67]*.py", r"\bbinascii\.b2a_hex\(", "hexlify(", every=False),
    Change("case/case6_x_x.py", r"v\.validate\(vss\[:i\]\)", 'v.validate(vss[:i].encode("latin-1"))'),
    Change("fuzzing.py", r"\bbinascii\.b2a_hex\(", "hexlify("),
    Change("fuzzing.py", r"^import os, json, binascii,", "from octets import hexlify, octets\nimport os, json,"),
    Change("fuzzing.py", r"\bdd\.decode\('utf8',", "octets(dd).decode('utf8',"),
    Change("fuzzing.py", r"dd = data\[:maxlen\] \+ ellipses", "dd = octets(data[:maxlen]) + octets(ellipses)"),
    Change("fuzzing.py", r"p = ''\.join\(payload\)", "p = b''.join(payload)"),
    Change("fuzzing.py", r"(open\(os\.path\.join\(outdir, report_filename\), 'w')\)", r'\1, encoding="latin-1")'),
    Change("fuzzing.py", r'(\)\.encode\("utf-8"\))\)$', r'\1.decode("latin-1"))'),
    Change("fuzzing.py", r"ll\.encode\('utf8'\)", "ll.encode('utf8').decode('latin-1')"),
    Change("fuzzing.py", r"ss = str\(s\)", "ss = ascii(s)"),
    # Two equal values, one of which contains an object twice, are pickled differently.
    Change("case/case.py", r"pickle\.dumps\(obj1\) == pickle\.dumps\(obj2\)", "obj1 == obj2"),
)


def recipe() -> str:
    """Return what the environment is made of; another string, another environment."""
    return f"{sys.version}\n{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}\n"


def provide() -> None:
    """
    Make the environment, unless it is there.

    Raises:
        RuntimeError: A download failed, or what came is not what :data:`CHANGES` are for.
    """
    stamp = HOME / "recipe.stamp"
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "autobahn.lock").open("w") as lock:
        flock(lock, LOCK_EX)  # another test run may be making it now
        if stamp.exists() and stamp.read_text() == recipe():
            return
        shutil.rmtree(HOME, ignore_errors=True)
        run(sys.executable, "-m", "venv", HOME)
        pip = (PYTHON, "-m", "pip", "--disable-pip-version-check")
        run(*pip, "install", *BUILDERS)
        run(*pip, "install", "--no-build-isolation", *LIBRARIES)
        run(*pip, "download", "--no-deps", "--no-build-isolation", "--dest", HOME, TESTSUITE)
        (archive,) = HOME.glob("autobahntestsuite-*.tar.gz")
        unpack(archive)
        convert(CONVERTED / "autobahntestsuite")
        if (number := len(cases("*"))) != CASES:
            raise RuntimeError(f"{TESTSUITE} has {number} cases, not {CASES}")
        stamp.write_text(recipe())


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """
    Run a step; return what it prints.

    Raises:
        RuntimeError: It fails; with all that it has said.
    """
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def unpack(archive: Path) -> None:
    """Take out of an sdist what is needed of the package."""
    with tarfile.open(archive) as sdist:
        for member in sdist:
            path = Path(*Path(member.name).parts[1:])
            if member.isfile() and path.parts[0] == "autobahntestsuite" and path.parts[1] in NEEDED:
                content = sdist.extractfile(member)
                assert content is not None
                (CONVERTED / path).parent.mkdir(parents=True, exist_ok=True)
                data = content.read()
                if path.suffix == ".py":
                    # To Python 2 a character in a string is the octets it has in the file.
                    data = data.decode("latin-1").encode("utf-8")
                (CONVERTED / path).write_bytes(data)
    # Its own imports all that it has.
    (CONVERTED / "autobahntestsuite" / "__init__.py").write_text("from ._version import __version__ as version\n")


def convert(package: Path) -> None:
    """
    Make Python 3 of a package.

    Raises:
        RuntimeError: A change does not fit.
    """
    for change in CHANGES:
        pattern = re.compile(change.pattern, re.MULTILINE)
        unchanged = []
        files = sorted(package.glob(change.files))
        for path in files:
            text, times = pattern.subn(change.replacement, path.read_text(encoding="utf-8"))
            if times:
                path.write_text(text, encoding="utf-8")
            else:
                unchanged.append(path.name)
        if len(unchanged) == len(files) or (change.every and unchanged):
            raise RuntimeError(f"nothing to change in {', '.join(unchanged) or change.files}: {change.pattern}")


def command(*arguments: str | Path) -> list[str | Path]:
    """Return the command line of the fuzzing client."""
    # Without bytecode, which would be written into our tree by another Python than its own.
    return [PYTHON, "-B", HERE / "fuzzer.py", *arguments]


def environment() -> dict[str, str]:
    """Return the environment of the fuzzing client."""
    return {**os.environ, "PYTHONPATH": str(CONVERTED), "PYTHONDEVMODE": "", "PYTHONUTF8": "1"}


def cases(*patterns: str) -> list[str]:
    """
    Return the cases that match Autobahn's patterns.

    Raises:
        RuntimeError: No case matches one of them.
    """
    return run(*command("list", *patterns)).split()
