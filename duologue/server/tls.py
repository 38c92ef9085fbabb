"""Certificates: from a folder, or made on the spot.

A folder holds `cert.pem` and `key.pem`, as the published servers have it. A self-made certificate
lives in memory and in a private folder while the server runs, so its fingerprint changes with each
start; browsers show a warning for it that has to be accepted once.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from duologue.errors import DuologueError

CERTIFICATE, KEY = "cert.pem", "key.pem"
VALID_DAYS = 397
"""Longest validity that browsers accept."""


class TlsError(DuologueError):
    """There is no certificate where one should be, or none can be made."""


@dataclass(frozen=True)
class TlsFiles:
    certificate: Path
    key: Path
    fingerprint: str = ""
    """SHA-256 of a self-made certificate, to compare with what a browser shows."""


@contextmanager
def tls_files(setting: str, host: str) -> Iterator[TlsFiles | None]:
    """The files for `off`, `self-signed` or a folder; private ones are removed at the end."""
    if setting == "off":
        yield None
    elif setting == "self-signed":
        with tempfile.TemporaryDirectory(prefix="duologue-tls-") as folder:
            yield make_certificate(Path(folder), _names(host))
    else:
        files = TlsFiles(Path(setting) / CERTIFICATE, Path(setting) / KEY)
        for path in (files.certificate, files.key):
            if not path.is_file():
                raise TlsError(
                    f"{path}: not there; --tls takes `off`, `self-signed` "
                    f"or a folder with {CERTIFICATE} and {KEY}"
                )
        yield files


def make_certificate(folder: Path, names: Iterable[str]) -> TlsFiles:
    """Write a self-signed certificate for these names and addresses."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        raise TlsError("a self-signed certificate needs: pip install 'duologue[tls]'") from None

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "duologue")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(
        folder / CERTIFICATE, folder / KEY, certificate.fingerprint(hashes.SHA256()).hex(":")
    )
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.touch(mode=0o600)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def _names(host: str) -> list[str]:
    """Names the server goes by: loopback, its machine's name and addresses, and what it binds."""
    names = ["localhost", "127.0.0.1", "::1"]
    machine = socket.gethostname()
    if machine.isascii() and machine:
        names.append(machine)
        try:
            found = socket.getaddrinfo(machine, None, type=socket.SOCK_STREAM)
            names += [str(address[0]).split("%")[0] for *_, address in found]
        except OSError:
            pass
    unspecified = host in ("", "0.0.0.0", "::", "*")
    return names if unspecified or not host.isascii() else [*names, host]
