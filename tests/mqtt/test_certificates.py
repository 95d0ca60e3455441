"""CONNECT over TLS with a certificate: who the client is then."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

from typing import Any

from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.keys import Keyring
from flowgate.auth.signing import SigningKeys
from flowgate.auth.tokens import TokenService
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import InvalidToken
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Connack, Connect
from tests.certificates import DAY, Authority, Signed
from tests.mqtt.node import Cluster, Node, Peer, Transport

MASTER = b"master secret"


class _Presenting(Transport):
    """A TLS transport whose peer has presented a certificate, or none."""

    presented: Signed | None = None

    def getPeerCertificate(self) -> crypto.X509 | None:
        return None if self.presented is None else crypto.X509.from_cryptography(self.presented.certificate)


class CertificateTests(SynchronousTestCase):
    """Certificates that TLS has verified."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = Node(self.cluster)
        self.authority = Authority()
        certificate = self.authority.sign("x").certificate
        self.cluster.clock.advance(certificate.not_valid_after_utc.timestamp() - DAY.total_seconds())
        store, now = MemoryStore(), self.cluster.clock.seconds
        self.keyring = Keyring(store, MASTER, now)
        self.successResultOf(self.keyring.start())
        self.tokens = TokenService(self.keyring, SigningKeys(MASTER, store, now), store, "flowgate", now)
        self.successResultOf(self.tokens.start())
        self.tokens.on_revoked(
            lambda revoked: self.node.connections.end(InvalidToken(), lambda one: one.key_id == revoked)
        )
        self.node.factory._tokens = self.tokens
        self.key = self.make_key(publish=["a"], subscribe=["a/#"])

    def make_key(self, **grants: Any) -> Any:
        return self.successResultOf(self.keyring.create("ann", "shop", **grants))[0]

    def connect(self, presented: Signed | None, token: str | None = None) -> tuple[Peer, int]:
        """Connect; return the client and the return code."""
        peer = Peer(self.node.factory)
        peer.transport = _Presenting()
        peer.transport.presented = presented
        peer.protocol.makeConnection(peer.transport)
        user_name, password = (None, None) if token is None else ("Bearer", token.encode())
        peer.send(packets.connect(Connect("c", user_name=user_name, password=password)))
        self.cluster.settle()
        answer = peer.packets()[0]
        assert isinstance(answer, Connack)
        return peer, answer.code

    def code(self, presented: Signed | None, token: str | None = None) -> int:
        return self.connect(presented, token)[1]

    def test_without_token(self) -> None:
        """A certificate stands for its key: the client gets in, with the key's grants."""
        peer, code = self.connect(self.authority.sign(self.key.id))
        self.assertEqual(code, 0)
        peer.send(packets.subscribe(1, [("a/b", 0), ("b", 0)]))
        self.cluster.settle()
        self.assertEqual(peer.packets()[0].codes, (0, packets.FAILURE))
        peer.send(packets.publishes("b", [b"not granted"]))
        self.assertTrue(peer.closed)

    def test_neither(self) -> None:
        """Without a certificate a token is needed."""
        self.assertEqual(self.code(None), 4)
        self.assertEqual(self.code(None, self.tokens.issue(self.key).token), 0)

    def test_both(self) -> None:
        """With both the token counts, and has to be of the certificate's key."""
        token = self.tokens.issue(self.key, subscribe=["a/b"]).token
        presented = self.authority.sign(self.key.id)
        peer, code = self.connect(presented, token)
        self.assertEqual(code, 0)
        peer.send(packets.subscribe(1, [("a/c", 0)]))
        self.cluster.settle()
        self.assertEqual(peer.packets()[0].codes, (packets.FAILURE,))
        other = self.make_key()
        self.assertEqual(self.code(presented, self.tokens.issue(other).token), 5)
        self.assertEqual(self.code(self.authority.sign("somebody"), token), 5)
        self.assertEqual(self.code(presented, "wrong"), 4)

    def test_refused(self) -> None:
        """A key that is not known, has expired or was revoked is refused."""
        self.assertEqual(self.code(self.authority.sign("FGAK" + "A" * 16)), 4)
        self.assertEqual(self.code(self.authority.sign(self.key.id, life=-DAY)), 4)
        self.successResultOf(self.keyring.revoke(self.key.id))
        self.assertEqual(self.code(self.authority.sign(self.key.id)), 5)

    def test_revoked_later(self) -> None:
        """Revoking the key ends its connections."""
        peer, _ = self.connect(self.authority.sign(self.key.id))
        self.assertFalse(peer.closed)
        self.successResultOf(self.keyring.revoke(self.key.id))
        self.assertTrue(peer.closed)

    def test_expires(self) -> None:
        """The connection ends when the certificate does."""
        peer, _ = self.connect(self.authority.sign(self.key.id, life=DAY / 1440))
        self.cluster.clock.pump([1] * 50)
        self.assertFalse(peer.closed)
        self.cluster.clock.pump([1] * 15)
        self.assertTrue(peer.closed)
