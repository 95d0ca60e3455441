"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import datetime
from ipaddress import IPv4Address
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)
_CURVE = ec.SECP256R1()


def _name(*common_names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in common_names])


@attrs.frozen
class Signed:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def save(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write both; return the paths of certificate and key."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.write_bytes(self.key_pem)
        return certificate, key


class Authority:
    """Signs certificates; its own is ``signed``."""

    def __init__(self, name: str = "authority") -> None:
        self._issuer = _name(name)
        self._key = ec.generate_private_key(_CURVE)
        self.signed = Signed(self._sign(self._issuer, self._key.public_key(), DAY, None), self._key)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, life: datetime.timedelta, host: str | None
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(subject == self._issuer, None), True)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(host))]), False)
        return builder.sign(self._key, hashes.SHA256())

    def sign(self, *common_names: str, life: datetime.timedelta = DAY, host: str | None = None) -> Signed:
        """Make a certificate, for clients or for a host.

        :param life: from now to its end; it began two days ago.
        :param host: an address that it is good for.
        """
        key = ec.generate_private_key(_CURVE)
        return Signed(self._sign(_name(*common_names), key.public_key(), life, host), key)
