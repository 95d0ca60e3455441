"""The open connections of this node."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flowgate.auth.permissions import Grants, Principal
from flowgate.connections import Connections, IConnection
from flowgate.errors import InvalidToken, Refused, TooManyConnections
from flowgate.topics import Namespace


@implementer(IConnection)
class Connection:
    """Notes why it was ended, and leaves the registry then, as real ones do."""

    protocol = "mqtt"

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.reasons: list[Refused | None] = []

    def end(self, reason: Refused | None) -> None:
        self.reasons.append(reason)
        self._connections.remove(self)


def principal(user: str) -> Principal:
    home = Namespace(user, "shop")
    return Principal(
        user=user,
        app="shop",
        home=home,
        key_id="FGAK",
        grants=Grants.everything(home),
        expires_at=900,
        token_id=user,
        issued_at=0,
    )


class ConnectionsTests(SynchronousTestCase):
    """How many, and whose."""

    def setUp(self) -> None:
        self.connections = Connections(3)
        self.ones = [Connection(self.connections) for _ in range(4)]

    def test_interface(self) -> None:
        """The connection of these tests is one."""
        verifyObject(IConnection, self.ones[0])

    def test_limit(self) -> None:
        """Beyond the limit a connection is refused; where one has gone there is room again."""
        for one in self.ones[:3]:
            self.connections.add(one, principal("alice"))
        with self.assertRaises(TooManyConnections):
            self.connections.add(self.ones[3], principal("alice"))
        self.assertEqual(len(self.connections), 3)
        self.connections.remove(self.ones[0])
        self.connections.add(self.ones[3], principal("alice"))
        self.assertEqual(set(self.connections), set(self.ones[1:]))

    def test_other_principal(self) -> None:
        """A connection whose token was refreshed counts once, also at the limit, and belongs to its new principal."""
        for one in self.ones[:3]:
            self.connections.add(one, principal("alice"))
        self.connections.add(self.ones[0], principal("bob"))
        self.assertEqual(len(self.connections), 3)
        self.connections.end(None, lambda one: one.user == "bob")
        self.assertEqual([len(one.reasons) for one in self.ones], [1, 0, 0, 0])

    def test_homes(self) -> None:
        """Connections are counted for the namespace that they are at home in, whatever happens to them."""
        alice, bob = principal("alice"), principal("bob")
        for one, whose in zip(self.ones, (alice, alice, bob), strict=False):
            self.connections.add(one, whose)
        self.connections.add(self.ones[0], alice)
        self.assertEqual([self.connections.count(one.home) for one in (alice, bob)], [2, 1])
        self.connections.add(self.ones[0], bob)
        with self.assertRaises(TooManyConnections):
            self.connections.add(self.ones[3], bob)
        self.assertEqual([self.connections.count(one.home) for one in (alice, bob)], [1, 2])
        for one in self.ones:
            self.connections.remove(one)
        self.assertEqual([self.connections.count(one.home) for one in (alice, bob)], [0, 0])

    def test_remove_unknown(self) -> None:
        """Removing what is not there does nothing."""
        self.connections.remove(self.ones[0])
        self.assertEqual(len(self.connections), 0)

    def test_end_concerned(self) -> None:
        """Those of a revoked token are ended with the reason; the others stay."""
        for one, user in zip(self.ones, ("alice", "bob", "alice"), strict=False):
            self.connections.add(one, principal(user))
        reason = InvalidToken()
        self.connections.end(reason, lambda one: one.token_id == "alice")
        self.assertEqual([one.reasons for one in self.ones], [[reason], [], [reason], []])
        self.assertEqual(list(self.connections), [self.ones[1]])

    def test_end_all(self) -> None:
        """When the gateway goes all are ended, each once, though they leave the registry meanwhile."""
        for one in self.ones[:3]:
            self.connections.add(one, principal("alice"))
        self.connections.end(None)
        self.assertEqual([one.reasons for one in self.ones], [[None], [None], [None], []])
        self.assertEqual(len(self.connections), 0)

    def test_protocols(self) -> None:
        """Connections are counted by their protocols, each once, until they are gone."""
        self.ones[1].protocol = "queue"
        for one in (*self.ones[:3], self.ones[0]):
            self.connections.add(one, principal("alice"))
        self.assertEqual(self.connections.protocols(), {"mqtt": 2, "sse": 0, "websocket": 0, "queue": 1})
        for one in (self.ones[1], self.ones[0], self.ones[0]):
            self.connections.remove(one)
        self.assertEqual(self.connections.protocols(), {"mqtt": 1, "sse": 0, "websocket": 0, "queue": 0})
