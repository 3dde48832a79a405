"""
Builds what native mode needs of uWSGI: its greenlet plugin, which pip leaves out, and ours beside it.

    python plugin/build.py [DIRECTORY]

To be run by the Python that uWSGI is installed in; the plugins, which work with no other Python or uWSGI, go into the
directory, this one unless given. Needs a C compiler, Python's headers, and pip, which fetches uWSGI's sources.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a step and return what it prints; end with that where it fails."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(target: Path) -> None:
    """Put ``greenlet_plugin.so`` and ``uws4r_plugin.so`` into a directory."""
    uwsgi = Path(sys.executable).parent / "uwsgi"
    if not uwsgi.exists() or find_spec("greenlet") is None:
        sys.exit(f"{sys.executable} has no uWSGI, or no greenlet: pip install 'uws4r[uwsgi,native]'")
    with tempfile.TemporaryDirectory(prefix="uws4r-plugin-") as name:
        directory = Path(name)
        version = run(uwsgi, "--version", cwd=directory).strip()
        run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", "uwsgi", f"uwsgi=={version}"),
            cwd=directory,
        )
        with tarfile.open(next(directory.glob("*.tar.gz"))) as sources:
            sources.extractall(directory)
        source = next(path for path in directory.iterdir() if path.is_dir())
        headers = Path(sys.prefix) / "include" / "site" / f"python{sysconfig.get_python_version()}"
        env = {
            "PYTHON": sys.executable,  # or uWSGI takes the headers of the first Python in PATH
            "UWSGI_SOURCE": str(source),
            "CFLAGS": f"-I{headers} {os.environ.get('CFLAGS', '')}",  # where greenlet has put its own
        }
        for plugin in (source / "plugins" / "greenlet", HERE):
            run(uwsgi, "--build-plugin", plugin, cwd=directory, env=env)
        for built in directory.glob("*_plugin.so"):
            # A new file: a running uWSGI has the old one mapped.
            (target / built.name).unlink(missing_ok=True)
            (target / built.name).write_bytes(built.read_bytes())
            print(target / built.name)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE)
