"""Certificates of clients: one names an API key, and stands for a token of it.

That a certificate was signed by an authority that is trusted, and that the peer has its private key, has been verified
by TLS before anything here is asked.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from flowgate.auth.keys import Keyring
from flowgate.auth.permissions import Principal
from flowgate.errors import InsufficientScope, InvalidToken


def of_peer(transport: Any) -> x509.Certificate | None:
    """The certificate that the peer has presented, if its connection is one with TLS and it has.

    :raises InvalidToken: if it is of a form that OpenSSL takes and we do not.
    """
    if not hasattr(transport, "getPeerCertificate"):
        return None
    presented = transport.getPeerCertificate()
    if presented is None:
        return None
    try:
        certificate: x509.Certificate = presented.to_cryptography()
    except ValueError:
        raise InvalidToken("the certificate cannot be read") from None
    return certificate


def key_id_of(certificate: x509.Certificate) -> str:
    """The id of the API key that a certificate names: the common name of its subject.

    :raises InvalidToken: if it has none, or more than one.
    """
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        raise InvalidToken("the certificate's subject cannot be read") from None
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise InvalidToken("the certificate's subject has to have one common name, the id of an API key")
    return names[0].value


def principal_of(certificate: x509.Certificate, keyring: Keyring, now: float) -> Principal:
    """Find whose certificate this is: who presents it may do what the API key may, until the first of both expires.

    :param now: seconds since 1970 UTC.
    :raises InvalidToken: if the key is not known, or the key or the certificate has expired.
    :raises KeyDisabled: if the key was revoked.
    :raises AccountSuspended: if its user is suspended.
    """
    key = keyring.find(key_id_of(certificate))
    if key is None:
        raise InvalidToken("the certificate's API key is not known")
    keyring.check(key)
    expires_at = certificate.not_valid_after_utc.timestamp()
    if expires_at <= now:
        raise InvalidToken("the certificate has expired")
    if key.expires_at is not None:
        expires_at = min(expires_at, key.expires_at)
    return Principal(
        user=key.user,
        app=key.app,
        home=key.home,
        key_id=key.id,
        grants=key.grants,
        expires_at=expires_at,
        token_id=f"certificate {certificate.serial_number:x}",
        issued_at=certificate.not_valid_before_utc.timestamp(),
    )


def check_owner(certificate: x509.Certificate, principal: Principal) -> None:
    """Check that a token came over a connection of its own key.

    :raises InvalidToken: if the certificate names no key.
    :raises InsufficientScope: if it names another one.
    """
    if key_id_of(certificate) != principal.key_id:
        raise InsufficientScope("the token is of another API key than the certificate")
