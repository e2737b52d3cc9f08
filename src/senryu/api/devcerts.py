"""Certificates for development: an authority that signs one certificate for names of this machine and is then forgotten."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from senryu.errors import SenryuError

if TYPE_CHECKING:
    from cryptography import x509

LOCAL = ("localhost", "127.0.0.1", "::1")
LIFETIME = timedelta(days=397)  # some clients refuse longer ones
SKEW = timedelta(hours=1)  # of clocks in containers and virtual machines


@dataclass(frozen=True, slots=True)
class DevCertificates:
    """Files in PEM: the authority that clients must trust, and what a server needs."""

    ca: Path
    cert: Path
    key: Path
    hosts: tuple[str, ...]
    until: datetime


def write_dev_certificates(folder: Path, hosts: Sequence[str] = ()) -> DevCertificates:
    """Write ca.pem, cert.pem and key.pem for localhost, 127.0.0.1, ::1 and `hosts`, in place of what is there.

    The authority's own key is never written: nothing else can be signed in its name, so that whoever trusts ca.pem trusts
    this one certificate. Only the owner can read key.pem. Raises SenryuError without `cryptography`, for a name that cannot
    be in a certificate, and when the folder cannot be written.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as error:
        raise SenryuError("no_cryptography") from error

    every = tuple(dict.fromkeys((*LOCAL, *hosts)))
    names = x509.SubjectAlternativeName([_general_name(host) for host in every])
    now = datetime.now(UTC).replace(microsecond=0)
    until = now + LIFETIME
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def builder(name: str, owner: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Senryu development CA")]))
            .public_key(owner)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(owner), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )

    ca = (
        builder("Senryu development CA", ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    cert = (
        builder("localhost", key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made = DevCertificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem", every, until)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(made.key, private, 0o600)
        _write(made.cert, cert.public_bytes(pem), 0o644)
        _write(made.ca, ca.public_bytes(pem), 0o644)
    except OSError as error:
        raise SenryuError("certs_unwritable", folder=folder, why=error.strerror or error) from error
    return made


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    if len(host) > 253 or not all(0 < len(label) <= 63 and _is_label(label) for label in labels):
        raise SenryuError("cert_host", host=host[:128])
    return x509.DNSName(host)


def _is_label(label: str) -> bool:
    return label.isascii() and label.replace("-", "a").replace("_", "a").isalnum() and label.strip("-") == label


def _usage(sign: bool) -> x509.KeyUsage:
    """An authority signs certificates, a server its handshakes."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by more than `mode` allows."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    new.replace(path)
