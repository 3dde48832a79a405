"""A CA of the tests' own, and what it has signed."""

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificates(NamedTuple):
    ca: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_certificates(directory: Path) -> Certificates:
    """A CA, a server's certificate for localhost, and a client's."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=CA of the tests", "-keyout", ca_key, "-out", ca)
    made = []
    for name, names in (("server", "DNS:localhost,IP:127.0.0.1"), ("client", "DNS:uws4r")):
        key, request, certificate = (directory / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
        more = directory / f"{name}.ext"
        more.write_text(f"subjectAltName={names}")
        openssl(*new, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
                "-extfile", more, "-out", certificate)  # fmt: skip
        made += [certificate, key]
    return Certificates(ca, *made)
