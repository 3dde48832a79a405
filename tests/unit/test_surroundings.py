"""What the tests make sure of before they start anything."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.sessions.backends.file import SessionStore

from tests import pythons
from tests.support.certificates import make_certificates, self_signed
from tests.support.servers import ROOT

TOLD = """
import signal, subprocess, sys
for name in ("SIGINT", "SIGQUIT", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
from tests.conftest import ready_for_signals
ready_for_signals()
child = "import signal; print([signal.getsignal(each) == signal.SIG_IGN for each in (2, 3, 1)])"
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout)
"""


def test_what_the_tests_start_gets_its_signals_though_the_tests_are_run_in_the_background() -> None:
    assert signal.SIGHUP == 1
    done = subprocess.run([sys.executable, "-c", TOLD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False, False]"


def test_sessions_in_files_are_not_left_in_the_systems_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SessionStore, "_storage_path", raising=False)  # of another test
    session = SessionStore()
    session.create()
    assert tempfile.gettempdir() != settings.SESSION_FILE_PATH
    assert Path(settings.SESSION_FILE_PATH, f"{settings.SESSION_COOKIE_NAME}{session.session_key}").exists()


def test_the_authorities_of_the_tests_are_what_newer_pythons_ask_for(tmp_path: Path) -> None:
    """X509_V_FLAG_X509_STRICT, which Python 3.13 and newer set."""
    made = make_certificates(tmp_path)
    own, _ = self_signed(tmp_path)
    for authority, certificate in ((made.ca, made.certificate), (made.ca, made.client_certificate), (own, own)):
        command = ["openssl", "verify", "-x509_strict", "-CAfile", authority, certificate]
        subprocess.run(command, check=True, capture_output=True)


def test_build_sh_pythons_tries_every_django_that_the_package_names() -> None:
    versions, djangos = pythons.classified("Programming Language :: Python"), pythons.classified("Framework :: Django")
    tried = [" ".join(pythons.dependencies(version, "")) for version in versions]
    assert [django for django in djangos if not any(f"django=={django}" in needs for needs in tried)] == []
    assert f"django=={djangos[-1]}.*" in tried[-1]
    assert pythons.dependencies(versions[-1], djangos[0]) == [f"django=={djangos[0]}.*"]
