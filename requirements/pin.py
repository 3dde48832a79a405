"""
Writes build.txt anew: what ./build.sh compiles with, each in one version, with the checksums of its wheels.

    ./build.sh pins                     the newest versions
    ./build.sh pins setuptools==80.9.0  this one, and the newest of the others

pip finds and downloads the wheels; look at the difference before you commit it.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = "pip", "setuptools", "wheel", "packaging", "Cython"  # wheel needs packaging
PYTHONS = "3.10", "3.11", "3.12", "3.13"
MACHINES = "x86_64", "aarch64"
PIP_DOWNLOAD = sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"
HEAD = """\
# What ./build.sh compiles with. Made by `./build.sh pins`: do not edit. pip refuses whatever has another checksum.
"""


def wheels(wanted: list[str], directory: Path) -> None:
    """Download the wheels of these for all Pythons and machines that are supported, and those that fit everywhere."""
    # Of the first Python, so that the version is one that all of them can have.
    everywhere = ["--platform", "any", "--implementation", "py", "--abi", "none"]
    places = [everywhere, *(["--platform", f"manylinux_2_28_{machine}"] for machine in MACHINES)]
    for python in PYTHONS:
        for place in places:
            subprocess.run(
                [*PIP_DOWNLOAD, "--dest", directory, "--python-version", python, *place, *wanted], check=True
            )
        versions = {path.name.split("-")[0].lower(): path.name.split("-")[1] for path in directory.iterdir()}
        wanted = [f"{name}=={versions[name.lower()]}" for name in NAMES]


def main() -> None:
    chosen = {argument.partition("==")[0].lower(): argument for argument in sys.argv[1:]}
    if unknown := set(chosen) - {name.lower() for name in NAMES}:
        sys.exit(f"not among {', '.join(NAMES)}: {', '.join(sorted(unknown))}")
    lines = [HEAD]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        wheels([chosen.get(name.lower(), name) for name in NAMES], directory)
        for name in NAMES:
            paths = sorted(path for path in directory.iterdir() if path.name.lower().startswith(f"{name.lower()}-"))
            hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
            lines.append(f"{name}=={paths[0].name.split('-')[1]}")
            lines += [f"    --hash=sha256:{digest}" for digest in hashes]
    text = lines[0] + "\n".join(lines[1:]).replace("\n    --hash", " \\\n    --hash") + "\n"
    (Path(__file__).parent / "build.txt").write_text(text)


if __name__ == "__main__":
    main()
