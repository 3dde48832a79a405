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


# What Python 3.13 and newer ask of an authority (RFC 5280 §4.2.1): what its key is for.
AUTHORITY = ("-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def self_signed(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost that is its own authority, and its key."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-x509", "-days", "1",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", *AUTHORITY,
            "-keyout", key, "-out", certificate)  # fmt: skip
    return certificate, key


def make_certificates(directory: Path) -> Certificates:
    """A CA, a server's certificate for localhost, and a client's."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-x509", "-days", "2", *AUTHORITY, "-subj", "/CN=CA of the tests", "-keyout", ca_key, "-out", ca)
    made = []
    for name, names in (("server", "DNS:localhost,IP:127.0.0.1"), ("client", "DNS:uws4r")):
        key, request, certificate = (directory / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
        more = directory / f"{name}.ext"
        more.write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n")
        openssl(*new, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
                "-extfile", more, "-out", certificate)  # fmt: skip
        made += [certificate, key]
    return Certificates(ca, *made)
