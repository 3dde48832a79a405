"""
The package on every Python that is here: ``./build.sh pythons [3.12 3.13:6.0 …]``.

For each interpreter a wheel is made of the sdist and installed, uWSGI included, into an environment of its own; then
the unit tests run there, and some of those on a real server, against what is installed. The newest Python gets the
newest Django of the classifiers, the one before the one before, unless the argument names another; the oldest gets the
oldest Django, redis and hiredis that the package says it works with. Interpreters are looked for in PATH and where
pyenv has them. Not part of the test run: uWSGI is compiled for each.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text()
EXTRAS = "uwsgi,native,embedded,test"
# The client's own tests run in Node, whatever Python there is.
TESTS = (
    "tests/unit", "--ignore=tests/unit/test_js_client.py", "tests/e2e/test_audiences.py", "tests/e2e/test_runserver.py",
    "tests/e2e/test_native.py",
)  # fmt: skip
USABLE = """
import ensurepip, os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": ""}


def succeeds(*command: str | Path) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def interpreters() -> dict[str, Path]:
    """The first usable interpreter of each version that the package is for."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    oldest = int(re.findall(r'requires-python = ">=3\.(\d+)"', PROJECT)[0])
    found = {}
    for minor in range(oldest, oldest + 20):
        name = f"python3.{minor}"
        candidates = [Path(path) / name for path in os.get_exec_path()]
        candidates += sorted(pyenv.glob(f"3.{minor}.*/bin/{name}"), reverse=True)
        for candidate in candidates:
            if candidate.exists() and succeeds(candidate, "-c", USABLE):
                found[f"3.{minor}"] = candidate
                break
    return found


def run(*command: str | Path, cwd: Path) -> None:
    """
    Run a step.

    Raises:
        RuntimeError: It fails; with all that it has said.
    """
    done = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}")


def oldest_dependencies() -> list[str]:
    """What the package needs, in the oldest versions that it takes."""
    (line,) = re.findall(r"^dependencies = \[(.*)\]$", PROJECT, re.MULTILINE)
    return [requirement.replace(">=", "==") for requirement in re.findall('"(.*?)"', line)]


def classified(what: str) -> list[str]:
    """The versions of Python, or of Django, that the classifiers name, in their order."""
    return re.findall(rf'"{what} :: (\d+\.\d+)"', PROJECT)


def dependencies(version: str, django: str) -> list[str]:
    """What is installed beside the package; ``django`` may be empty."""
    pythons, djangos = classified("Programming Language :: Python"), classified("Framework :: Django")
    if not django and version == pythons[0]:
        return oldest_dependencies()
    if not django and version in pythons:
        django = djangos[max(-len(djangos), pythons.index(version) - len(pythons))]
    return [f"django=={django}.*"] if django else []


def try_on(python: Path, needs: list[str], sdist: Path, tree: Path, directory: Path) -> bool:
    """Install and test with one interpreter."""
    venv = directory / "venv"
    run(python, "-m", "venv", venv, cwd=directory)
    run(venv / "bin" / "pip", "wheel", "--no-deps", "--wheel-dir", directory, sdist, cwd=directory)
    (wheel,) = directory.glob("uws4r-*.whl")
    run(venv / "bin" / "pip", "install", f"{wheel}[{EXTRAS}]", *needs, cwd=directory)
    run(venv / "bin" / "python", tree / "plugin" / "build.py", cwd=directory)
    (installed,) = venv.glob("lib/python3.*/site-packages/uws4r")
    # In the place of the sources, which the tests look at and would import.
    (tree / "uws4r").unlink(missing_ok=True)
    (tree / "uws4r").symlink_to(installed)
    environment = {**ENVIRONMENT, "PYTHONDEVMODE": "1"}
    command = [venv / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run(command, cwd=tree, env=environment, check=False).returncode == 0


def main() -> None:
    there = interpreters()
    wanted = sys.argv[1:] or list(there)
    if missing := [version for version in wanted if version.partition(":")[0] not in there]:
        sys.exit(f"no usable Python {', '.join(missing)}; there is {', '.join(there) or 'none'}")
    results = {}
    with tempfile.TemporaryDirectory(prefix="uws4r-pythons-") as name:
        tree = Path(name) / "tree"
        left = shutil.ignore_patterns(".git", ".venv", "node_modules", "build", "*.so", "_*.c", "*.egg-info")
        shutil.copytree(ROOT, tree, ignore=left)
        run(sys.executable, "-m", "build", "--sdist", "--outdir", name, cwd=tree)
        (sdist,) = Path(name).glob("*.tar.gz")
        shutil.rmtree(tree / "uws4r")
        for one in wanted:
            version, _, django = one.partition(":")
            needs = dependencies(version, django)
            print(f"== Python {version}: {there[version]}", *needs, flush=True)
            directory = Path(name) / one.replace(":", "-")
            directory.mkdir()
            begin = time.monotonic()
            try:
                passed = try_on(there[version], needs, sdist, tree, directory)
            except RuntimeError as error:
                print(error)
                passed = False
            result = f"{'passed' if passed else 'FAILED'} after {time.monotonic() - begin:.0f} s"
            results[one] = f"Python {version} with {' '.join(needs) or 'the newest Django'} {result}"
    for result in results.values():
        print(result)
    sys.exit(any("FAILED" in result for result in results.values()))


if __name__ == "__main__":
    main()
