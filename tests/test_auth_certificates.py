"""Certificates of clients: whose they are, and until when."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

from typing import Any

import attrs
from cryptography import x509
from OpenSSL import crypto
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth import certificates
from flowgate.auth.certificates import check_owner, key_id_of, of_peer, principal_of
from flowgate.auth.keys import Keyring
from flowgate.auth.permissions import Principal
from flowgate.auth.signing import SigningKeys
from flowgate.auth.tokens import TokenService
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import AccountSuspended, InsufficientScope, InvalidToken, KeyDisabled
from flowgate.topics import Namespace
from tests.certificates import DAY, Authority


class _Peer:
    """A TLS transport whose peer has presented something."""

    def __init__(self, presented: Any) -> None:
        self._presented = presented

    def getPeerCertificate(self) -> Any:
        return self._presented


class _Damaged:
    def to_cryptography(self) -> x509.Certificate:
        raise ValueError("a negative serial number")


class CertificateTests(SynchronousTestCase):
    """What a certificate stands for."""

    def setUp(self) -> None:
        self.authority = Authority()
        self.now = self.authority.sign("x", life=DAY).certificate.not_valid_after_utc.timestamp() - DAY.total_seconds()
        self.keyring = Keyring(MemoryStore(), b"master", lambda: self.now)
        self.successResultOf(self.keyring.start())
        self.key, _ = self.successResultOf(self.keyring.create("ann", "shop", publish=["a/#"], expires_days=30))

    def principal(self, *names: str, **options: Any) -> Principal:
        certificate = self.authority.sign(*(names or (self.key.id,)), **options).certificate
        return principal_of(certificate, self.keyring, self.now)

    def test_principal(self) -> None:
        """A certificate stands for its key: the same user, namespace and grants."""
        signed = self.authority.sign(self.key.id)
        principal = principal_of(signed.certificate, self.keyring, self.now)
        self.assertEqual((principal.user, principal.app, principal.key_id), ("ann", "shop", self.key.id))
        self.assertEqual((principal.home, principal.grants), (Namespace("ann", "shop"), self.key.grants))
        self.assertEqual(principal.issued_at, signed.certificate.not_valid_before_utc.timestamp())
        self.assertIn(f"{signed.certificate.serial_number:x}", principal.token_id)

    def test_beside_tokens(self) -> None:
        """The service that checks tokens checks certificates in the same way, by its own keys and clock."""
        signing = SigningKeys(b"master", MemoryStore(), lambda: self.now)
        tokens = TokenService(self.keyring, signing, MemoryStore(), "flowgate", lambda: self.now)
        certificate = self.authority.sign(self.key.id).certificate
        self.assertEqual(tokens.verify_certificate(certificate), principal_of(certificate, self.keyring, self.now))
        self.now += 2 * 86400
        self.assertRaises(InvalidToken, tokens.verify_certificate, certificate)

    def test_until(self) -> None:
        """It is good until the first of certificate and key expires."""
        self.assertAlmostEqual(self.principal(life=DAY).expires_at, self.now + 86400, delta=60)
        assert self.key.expires_at is not None
        self.assertEqual(self.principal(life=365 * DAY).expires_at, self.key.expires_at)
        forever, _ = self.successResultOf(self.keyring.create("ann", "shop"))
        self.assertAlmostEqual(self.principal(forever.id, life=365 * DAY).expires_at, self.now + 365 * 86400, delta=60)

    def test_expired(self) -> None:
        """A certificate that has expired since the handshake, and one whose key has, are refused."""
        self.assertRaises(InvalidToken, self.principal, life=-DAY)
        self.now += 31 * 86400
        self.assertRaises(InvalidToken, self.principal, life=365 * DAY)

    def test_unknown_key(self) -> None:
        """A key that is not known is refused, whatever the name is."""
        for name in ("FGAK" + "A" * 16, "ann", "x" * 64, "ann_shop", " " + self.key.id, self.key.id.lower()):
            self.assertRaises(InvalidToken, self.principal, name)

    def test_one_name(self) -> None:
        """A subject without a common name, or with two, names nobody."""
        self.assertRaises(InvalidToken, self.principal, self.key.id, self.key.id)
        self.assertRaises(InvalidToken, key_id_of, self.authority.sign(host="127.0.0.1").certificate)

    def test_revoked(self) -> None:
        """The certificate of a revoked key is refused."""
        self.successResultOf(self.keyring.revoke(self.key.id))
        self.assertRaises(KeyDisabled, self.principal)

    def test_suspended(self) -> None:
        """The certificate of a key whose user is suspended is refused."""
        self.successResultOf(self.keyring.suspend("ann", True))
        self.assertRaises(AccountSuspended, self.principal)

    def test_owner(self) -> None:
        """A token beside a certificate has to be of the same key."""
        principal = self.principal()
        check_owner(self.authority.sign(self.key.id).certificate, principal)
        other = attrs.evolve(principal, key_id="FGAK" + "A" * 16)
        self.assertRaises(InsufficientScope, check_owner, self.authority.sign(self.key.id).certificate, other)
        self.assertRaises(InvalidToken, check_owner, self.authority.sign().certificate, principal)


class PeerTests(SynchronousTestCase):
    """Where certificates come from."""

    def test_presented(self) -> None:
        """The certificate of a TLS peer is found."""
        certificate = Authority().sign("a").certificate
        self.assertEqual(of_peer(_Peer(crypto.X509.from_cryptography(certificate))), certificate)

    def test_none(self) -> None:
        """There is none without TLS, and none of a peer that has presented none."""
        self.assertIsNone(of_peer(StringTransport()))
        self.assertIsNone(of_peer(_Peer(None)))

    def test_damaged(self) -> None:
        """One that OpenSSL takes and cannot be read nevertheless is refused as a token would be."""
        self.assertRaises(InvalidToken, of_peer, _Peer(_Damaged()))

    def test_subject(self) -> None:
        """A subject that cannot be read is refused in the same way."""

        class Broken:
            @property
            def subject(self) -> x509.Name:
                raise ValueError("not a country")

        broken: Any = Broken()
        self.assertRaises(InvalidToken, certificates.key_id_of, broken)
