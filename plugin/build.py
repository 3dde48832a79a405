"""
Builds uWSGI's plugins for uws4r.

    python plugin/build.py [--front] [--uwsgi FILE] [DIRECTORY]

To be run by the Python that uWSGI is installed in, or that it is compiled for; the plugins, which work with no other
Python or uWSGI, go into the directory, this one unless given. All need a C compiler.

``uws4r_front`` is for a uWSGI that faces the Internet, as the emperor does. With ``--front`` it is the only one, and
nothing is downloaded: uWSGI's own binary carries what it needs.

The others are for native mode: uWSGI's greenlet plugin, which pip leaves out, and ``uws4r`` beside it. They need
Python's headers, and uWSGI's sources, which pip fetches. ``sources.txt`` has their checksums.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "sources.txt"
UWSGI = Path(sys.executable).parent / "uwsgi"


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a step and return what it prints; end with that where it fails."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def requirement(version: str) -> str:
    """Return the line of ``sources.txt`` for a version of uWSGI; end where there is none."""
    lines = [line for line in SOURCES.read_text().splitlines() if line.startswith("uwsgi==")]
    for line in lines:
        if line.split()[0] == f"uwsgi=={version}":
            return line
    known = ", ".join(line.split()[0].partition("==")[2] for line in lines)
    sys.exit(
        f"The plugins for native mode cannot be built for uWSGI {version}: {SOURCES} has no checksum of its sources,\n"
        f"only of {known}. Install one of these, or add the version as that file says."
    )


def download(version: str, directory: Path) -> Path:
    """Have pip fetch uWSGI's sources, and check them; return the archive."""
    if find_spec("setuptools") is None:
        # Without build isolation, or pip would fetch a setuptools of its own that nobody has checked.
        sys.exit(f"{sys.executable} has no setuptools, which pip needs for uWSGI's sources: pip install setuptools")
    wanted = directory / "wanted.txt"
    wanted.write_text(requirement(version))
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--no-binary", "uwsgi", "--require-hashes", "--requirement", wanted),
        cwd=directory,
    )
    return next(directory.glob("*.tar.gz"))


def harmless(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Its files and directories, all of them below the directory in which they are unpacked; ValueError for others."""
    for member in archive:
        path = Path(member.name)
        if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
            raise ValueError(f"{member.name!r} has no business in uWSGI's sources")
        member.mode = 0o755 if member.isdir() else 0o644
        yield member


def unpack(archive: Path, directory: Path) -> Path:
    """Unpack the sources; return where they are."""
    with tarfile.open(archive) as sources:
        members = list(harmless(sources))
        if hasattr(tarfile, "data_filter"):
            sources.extractall(directory, members, filter="data")
        else:  # Python 3.10 before 3.10.12, 3.11 before 3.11.4
            sources.extractall(directory, members)
    return directory / Path(members[0].name).parts[0]


def build(target: Path, front_only: bool = False, uwsgi: Path = UWSGI) -> None:
    """Put ``uws4r_front_plugin.so`` into a directory, and the two plugins for native mode unless told otherwise."""
    if not uwsgi.exists():
        sys.exit(f"there is no {uwsgi}: pip install uwsgi, or --uwsgi says where it is")
    if find_spec("greenlet") is None and not front_only:
        sys.exit(f"{sys.executable} has no greenlet: pip install greenlet")
    with tempfile.TemporaryDirectory(prefix="uws4r-plugin-") as name:
        directory = Path(name)
        env = {"PYTHON": sys.executable}  # or uWSGI takes the headers of the first Python in PATH
        # A copy without spaces: uWSGI takes what follows a space in a path for another argument.
        ours = shutil.copytree(HERE, directory / "ours", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        plugins = [ours / "front"]
        if not front_only:
            version = run(uwsgi, "--version", cwd=directory).strip()
            source = unpack(download(version, directory), directory)
            headers = Path(sys.prefix) / "include" / "site" / f"python{sysconfig.get_python_version()}"
            env["UWSGI_SOURCE"] = str(source)
            env["CFLAGS"] = f"-I{headers} {os.environ.get('CFLAGS', '')}"  # where greenlet has put its own
            plugins += [source / "plugins" / "greenlet", ours]
        for plugin in plugins:
            run(uwsgi, "--build-plugin", plugin, cwd=directory, env=env)
        for built in directory.glob("*_plugin.so"):
            # A new file: a running uWSGI has the old one mapped.
            (target / built.name).unlink(missing_ok=True)
            (target / built.name).write_bytes(built.read_bytes())
            print(target / built.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=HERE)
    parser.add_argument("--front", action="store_true", help="only the plugin for a uWSGI that faces the Internet")
    parser.add_argument("--uwsgi", type=Path, default=UWSGI, help="uWSGI, where it is not beside this Python")
    arguments = parser.parse_args()
    build(arguments.directory.resolve(), arguments.front, arguments.uwsgi)


if __name__ == "__main__":
    main()
