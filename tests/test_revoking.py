"""What ends when leave is taken away."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate.auth.keys import Keyring
from flowgate.auth.permissions import Principal
from flowgate.auth.signing import SigningKeys
from flowgate.auth.tokens import TokenService
from flowgate.bus.memory_store import MemoryStore
from flowgate.connections import Connections, IConnection
from flowgate.errors import AccountSuspended, InvalidToken, Refused
from flowgate.revoking import Revoking
from flowgate.topics import Namespace

NOW = 1_800_000_000
ALICE = Namespace("alice", "shop")


@implementer(IConnection)
class _Connection:
    protocol = "mqtt"

    def __init__(self) -> None:
        self.told: list[Refused | None] = []

    def end(self, reason: Refused | None) -> None:
        self.told.append(reason)


class _Node:
    """The accounts of a node, with the connections that are open there."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        def now() -> float:
            return NOW + clock.seconds()

        self.connections = Connections(100)
        self.keyring = Keyring(store, b"m" * 43, now, clock)
        self.signing = SigningKeys(b"m" * 43, store, now)
        self.tokens = TokenService(self.keyring, self.signing, store, "https://gateway", now)
        for one in (self.signing, self.keyring, self.tokens):
            one.start()
        Revoking(self.connections, self.keyring, self.tokens)

    def connect(self, token: str) -> _Connection:
        connection = _Connection()
        self.connections.add(connection, self.tokens.verify(token))
        return connection


class RevokingTests(SynchronousTestCase):
    """Two nodes: what is said on one ends connections of the other."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.here, self.there = _Node(self.store, self.clock), _Node(self.store, self.clock)
        self.keyring = self.here.keyring

    def token(self, user: str = "bob", **grants: Any) -> str:
        key, _ = self.successResultOf(self.keyring.create(user, "cafe", **grants))
        return self.here.tokens.issue(key, ttl=86400).token

    def principal(self, token: str) -> Principal:
        return self.here.tokens.verify(token)

    def ended(self, connection: _Connection, *reasons: type[Refused]) -> None:
        self.assertEqual([type(reason) for reason in connection.told], list(reasons))

    def test_key(self) -> None:
        """A revoked key ends its connections on every node, and no others."""
        token, other = self.token(), self.token()
        connections = [node.connect(token) for node in (self.here, self.there)]
        stays = self.there.connect(other)
        self.successResultOf(self.keyring.revoke(self.principal(token).key_id))
        for connection in connections:
            self.ended(connection, InvalidToken)
        self.ended(stays)

    def test_suspended(self) -> None:
        """A suspended user's connections end with the reason."""
        connection, other = self.there.connect(self.token()), self.there.connect(self.token("carol"))
        self.successResultOf(self.keyring.suspend("bob", True))
        self.ended(connection, AccountSuspended)
        self.ended(other)

    def test_removed(self) -> None:
        """So do those of a removed one."""
        connection = self.there.connect(self.token())
        self.successResultOf(self.keyring.delete_user("bob"))
        self.assertEqual(type(connection.told[0]), AccountSuspended)

    def test_rotated(self) -> None:
        """Connections of a rotated key end when the overlap is over, though their token would live longer."""
        token = self.token()
        connection = self.there.connect(token)
        new, _ = self.successResultOf(self.keyring.rotate(self.principal(token).key_id, 60))
        stays = self.there.connect(self.here.tokens.issue(new, ttl=86400).token)
        self.clock.pump([1] * 59)
        self.ended(connection)
        self.clock.pump([1] * 2)
        self.ended(connection, InvalidToken)
        self.assertIn("expired", str(connection.told[0]))
        self.assertRaises(InvalidToken, self.there.tokens.verify, token)
        self.ended(stays)

    def test_share(self) -> None:
        """The end of a share ends what reaches where only it let, and nothing else."""
        shares = self.keyring.shares
        wide = self.successResultOf(shares.create(ALICE, "bob", subscribe=["#"], publish=["w"]))
        narrow = self.successResultOf(shares.create(ALICE, "bob", subscribe=["a/#"]))
        beyond = self.there.connect(self.token(subscribe=["alice_shop_+/b"]))
        within = self.there.connect(self.token(subscribe=["alice_shop_a/b", "mine"]))
        writes = self.there.connect(self.token(publish=["alice_shop_w"]))
        home = self.there.connect(self.token())
        self.successResultOf(shares.revoke(wide.id))
        self.ended(beyond, InvalidToken)
        self.ended(writes, InvalidToken)
        self.ended(within)
        self.successResultOf(shares.revoke(narrow.id))
        self.ended(within, InvalidToken)
        self.ended(home)

    def test_back_with_what_is_left(self) -> None:
        """Who comes back with the same token is not sent away again by the next change."""
        shares = self.keyring.shares
        share = self.successResultOf(shares.create(ALICE, "bob", subscribe=["#"]))
        token = self.token(subscribe=["alice_shop_#", "mine"])
        self.successResultOf(shares.revoke(share.id))
        back = self.there.connect(token)
        other = self.successResultOf(shares.create(ALICE, "carol", subscribe=["#"]))
        self.successResultOf(shares.revoke(other.id))
        self.ended(back)

    def test_in_between(self) -> None:
        """Whoever was let in before leave was taken away, and is counted in after that, is refused then."""
        for how in ("token", "key", "suspended", "removed", "share", "signing key"):
            self.setUp()
            share = self.successResultOf(self.keyring.shares.create(ALICE, "bob", subscribe=["#"]))
            principal = self.there.tokens.verify(self.token(subscribe=["alice_shop_a"]))
            self.there.connections.check(principal)
            self.successResultOf(self.take_away(how, principal, share.id))
            reason = AccountSuspended if how == "suspended" else InvalidToken
            self.assertRaises(reason, self.there.connections.add, _Connection(), principal)
            self.assertEqual(len(self.there.connections), 0, how)

    def take_away(self, how: str, principal: Principal, share: str) -> Deferred[Any]:
        """Take leave away on the other node."""
        if how == "token":
            return self.here.tokens.revoke(principal)
        if how == "key":
            return self.keyring.revoke(principal.key_id)
        if how == "suspended":
            return self.keyring.suspend("bob", True)
        if how == "removed":
            return self.keyring.delete_user("bob")
        if how == "share":
            return self.keyring.shares.revoke(share)
        return self.here.signing.rotate(immediately=True)
