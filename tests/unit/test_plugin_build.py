"""plugin/build.py: nothing is compiled that is not what sources.txt says, and nothing unpacked that is no source."""

import hashlib
import importlib.util
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.servers import ROOT


@pytest.fixture
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plugin_build", ROOT / "plugin" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o6777) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    info.size = 3 if kind == tarfile.REGTYPE else 0
    return info


@pytest.fixture(params=["with a data filter", "without one"])
def unpack(
    request: pytest.FixtureRequest, build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path, Path], Path]:
    """As it is, and as in a Python 3.10 that has no filter yet."""
    if request.param == "without one":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    return build.unpack


def test_sources_are_unpacked(unpack: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    members = member("uwsgi-9", tarfile.DIRTYPE), member("uwsgi-9/core/uwsgi.c")
    source = unpack(archive(tmp_path / "a.tar.gz", *members), tmp_path / "here")
    assert source == tmp_path / "here" / "uwsgi-9"
    assert (source / "core" / "uwsgi.c").read_bytes() == b"xxx"
    assert (source / "core" / "uwsgi.c").stat().st_mode & 0o7777 == 0o644


@pytest.mark.parametrize(
    "bad",
    [
        member("/tmp/evil"),
        member("../evil"),
        member("uwsgi-9/../../evil"),
        member("uwsgi-9/link", tarfile.SYMTYPE, "/etc"),
        member("uwsgi-9/link", tarfile.LNKTYPE, "uwsgi-9/other"),
        member("uwsgi-9/pipe", tarfile.FIFOTYPE),
        member("uwsgi-9/device", tarfile.CHRTYPE),
    ],
    ids=lambda info: f"{info.name} {info.linkname}".strip(),
)
def test_what_is_no_source_is_not(unpack: Callable[[Path, Path], Path], tmp_path: Path, bad: tarfile.TarInfo) -> None:
    with pytest.raises(ValueError, match="has no business in uWSGI's sources"):
        unpack(archive(tmp_path / "a.tar.gz", member("uwsgi-9/good"), bad), tmp_path / "here")
    assert not (tmp_path / "here").exists()
    assert not (tmp_path / "evil").exists()


def test_an_unknown_version_says_how_to_add_it(build: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"(?s)uWSGI 9\.9.*only of 2\.0\.28, .*or add the version as that file says"):
        build.requirement("9.9")
    # Not the beginning of a known one either.
    with pytest.raises(SystemExit):
        build.requirement("2.0.2")


def test_an_archive_with_another_checksum_is_refused(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    setup = b"from setuptools import setup\nsetup(name='uwsgi', version='9.9')\n"
    info = tarfile.TarInfo("uwsgi-9.9/setup.py")
    info.size = len(setup)
    path = tmp_path / "uwsgi-9.9.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(info, io.BytesIO(setup))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(build, "SOURCES", tmp_path / "sources.txt")
    for right in (True, False):
        directory = tmp_path / str(right)
        directory.mkdir()
        build.SOURCES.write_text(f"uwsgi==9.9 --hash=sha256:{digest if right else '0' * 64}\n")
        if right:
            assert build.download("9.9", directory).read_bytes() == path.read_bytes()
        else:
            with pytest.raises(SystemExit, match="DO NOT MATCH THE HASHES"):
                build.download("9.9", directory)


def test_every_line_of_the_pinned_files_has_a_checksum() -> None:
    sources = [line for line in (ROOT / "plugin" / "sources.txt").read_text().splitlines() if line[0] != "#"]
    assert all(" --hash=sha256:" in line for line in sources)
    tools = (ROOT / "requirements" / "build.txt").read_text().replace("\\\n", "").splitlines()[1:]
    assert all(" --hash=sha256:" in line and "==" in line for line in tools)
    assert {line.partition("==")[0] for line in tools} >= {"pip", "setuptools", "wheel", "Cython"}
