"""The parts of several nodes add up."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate.auth.permissions import Grants, Principal
from flowgate.auth.records import ApiKey
from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.connections import Connections, IConnection
from flowgate.errors import RateLimited, Refused, TooManyConnections, TooManySubscriptions
from flowgate.rates.nodes import KEPT_SECONDS, SILENT_SECONDS, Rates
from flowgate.rates.plan import RateLimits
from flowgate.topics import Namespace
from tests.rates.test_account import take


def principal(user: str = "alice", token: str = "1") -> Principal:
    home = Namespace(user, "shop")
    return Principal(user, "shop", home, "FGAK" + user, Grants.everything(home), 9e9, token, 0.0)


@implementer(IConnection)
class Connection:
    """A connection that does nothing."""

    protocol = "mqtt"

    def end(self, reason: Refused | None) -> None:
        raise AssertionError(reason)


class Node:
    """The rates of one node."""

    def __init__(self, test: RatesTestCase) -> None:
        self.test = test
        self.connections = Connections(1000)
        self.peers = MemoryPeers(test.hub)
        self.rates = Rates(lambda _: test.limits, self.connections, self.peers, test.clock)
        self.rates.start()
        self.pace = self.rates.pace(principal())

    def leave(self) -> None:
        """Stop in order."""
        self.rates.stop()

    def die(self) -> None:
        """Stop without a word."""
        self.peers.go_away()
        self.rates.stop()

    def connect(self, user: str = "alice") -> Connection:
        connection = Connection()
        self.connections.add(cast(IConnection, connection), principal(user))
        return connection


class RatesTestCase(SynchronousTestCase):
    """Nodes in memory."""

    limits = RateLimits(publish_rate=100, publish_burst=10, connections=5, subscriptions=6)

    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = MemoryPeersHub(self.clock)

    def nodes(self, count: int) -> list[Node]:
        nodes = [Node(self) for _ in range(count)]
        self.settle()
        return nodes

    def settle(self) -> None:
        for _ in range(5):
            self.clock.advance(0)

    def offer(self, seconds: float, *offers: tuple[Node, float]) -> list[int]:
        """Have nodes be asked at these rates; give how many messages each took."""
        taken = [0] * len(offers)
        due = [0.0] * len(offers)
        step = 0.01
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            for number, (node, rate) in enumerate(offers):
                due[number] += rate * step
                while due[number] >= 1:
                    due[number] -= 1
                    taken[number] += take(node.pace, [1])
        return taken


class RatesTests(RatesTestCase):
    """Rates over several nodes."""

    def test_alone(self) -> None:
        """A single node has everything."""
        (node,) = self.nodes(1)
        (taken,) = self.offer(10, (node, 500))
        self.assertTrue(1000 <= taken <= 1011, taken)

    def test_add_up(self) -> None:
        """Two nodes that both want more take the rate together, as each one is asked."""
        one, two = self.nodes(2)
        self.offer(4, (one, 600), (two, 200))
        taken = self.offer(10, (one, 600), (two, 200))
        self.assertTrue(950 <= sum(taken) <= 1050, taken)
        self.assertTrue(2.4 <= taken[0] / taken[1] <= 3.6, taken)

    def test_moves(self) -> None:
        """All that is wanted may be wanted of one node."""
        one, two = self.nodes(2)
        self.offer(3, (one, 500))
        (taken,) = self.offer(10, (one, 500))
        self.assertTrue(940 <= taken <= 1010, taken)
        self.offer(8, (two, 500))
        (taken,) = self.offer(10, (two, 500))
        self.assertTrue(940 <= taken <= 1010, taken)

    def test_gone(self) -> None:
        """The part of a node that has died, or left, is the others'."""
        for leave in (Node.die, Node.leave):
            self.hub = MemoryPeersHub(self.clock)
            one, two = self.nodes(2)
            self.offer(3, (one, 500), (two, 500))
            leave(two)
            self.clock.pump([1.0] * (int(SILENT_SECONDS) + 2))
            (taken,) = self.offer(5, (one, 500))
            self.assertTrue(480 <= taken <= 511, taken)

    def test_changed_plan(self) -> None:
        """Another plan holds within a second."""
        (node,) = self.nodes(1)
        self.limits = RateLimits(publish_rate=1)
        self.clock.advance(1)
        self.assertEqual(take(node.pace, [1] * 5), 1)

    def test_one_pace(self) -> None:
        """A token's pace is one object while somebody has it; an account's buckets outlive their clients."""
        (node,) = self.nodes(1)
        self.assertIs(node.rates.pace(principal()), node.pace)
        self.assertIsNot(node.rates.pace(principal(token="2")), node.pace)
        account = node.rates.account("bob")
        take(node.rates.pace(principal("bob")), [1] * 10)
        del account
        self.assertEqual(take(node.rates.pace(principal("bob", "3")), [1]), 0)

    def test_forgotten(self) -> None:
        """An account that nobody uses is let go of."""
        (node,) = self.nodes(1)
        node.rates.account("bob")
        self.clock.pump([1.0] * int(KEPT_SECONDS + 2))
        self.assertNotIn("bob", cast(Any, node.rates)._kept)

    def test_strange_reports(self) -> None:
        """What cannot be read is logged and changes nothing."""
        (node,) = self.nodes(1)
        other = MemoryPeers(self.hub)
        for payload in (b"{}", b"[]", b'{"node":"x","loads":{"a":[1]},"whole":true,"gone":false}', b"\xff"):
            other.tell("rates", payload)
        self.settle()
        self.assertEqual(len(self.flushLoggedErrors()), 0)
        self.assertEqual(node.rates._share("alice"), 1.0)


class CountTests(RatesTestCase):
    """Connections and subscriptions of an account, on all nodes together."""

    def test_connections(self) -> None:
        """No more than the plan says; those of other nodes count, and those that have ended do not."""
        one, two = self.nodes(2)
        first = [one.connect() for _ in range(3)]
        self.clock.advance(1)
        self.settle()
        for _ in range(2):
            two.connect()
        self.assertRaises(TooManyConnections, two.connect)
        two.connect("bob")
        one.connections.remove(cast(IConnection, first[0]))
        self.clock.advance(1)
        self.settle()
        two.connect()

    def test_refreshed(self) -> None:
        """A connection that gets another token of the same account is no further one."""
        (node,) = self.nodes(1)
        connections = [node.connect() for _ in range(5)]
        node.connections.add(cast(IConnection, connections[0]), principal(token="2"))
        self.assertEqual(node.connections.of_user("alice"), 5)

    def test_subscriptions(self) -> None:
        """The same for subscriptions; a refused one changes nothing, and a connection that ends takes its own along."""
        one, two = self.nodes(2)
        first, second = (cast(IConnection, node.connect()) for node in (one, two))
        one.connections.subscribe(first, 4)
        self.clock.advance(1)
        self.settle()
        two.connections.subscribe(second, 2)
        self.assertRaises(TooManySubscriptions, two.connections.subscribe, second, 3)
        two.connections.subscribe(second, 3, known=True)
        two.connections.subscribe(second, 1)
        one.connections.remove(first)
        self.assertEqual(one.connections.subscriptions_of_user("alice"), 0)
        self.clock.advance(1)
        self.settle()
        two.connections.subscribe(second, 6)
        self.assertEqual(two.connections.subscriptions_of_user("alice"), 6)


class TokenTests(RatesTestCase):
    """Tokens that keys are exchanged for, on all nodes together."""

    limits = RateLimits(token_rate=6)

    def test_add_up(self) -> None:
        """What one node has given is missing on the other, for this key; in the long run it is one node's rate."""
        one, two = self.nodes(2)
        self.take(one, 4)
        self.clock.advance(1)
        self.settle()
        self.assertEqual(self.take(two, 9), 2)
        self.assertEqual(self.take(two, 9, "other"), 6)
        self.clock.advance(1)
        self.settle()
        self.assertEqual((self.take(one, 9), self.take(one, 9, "other")), (0, 0))
        taken = 0
        for _ in range(600):
            self.clock.advance(1)
            self.settle()
            taken += self.take(one, 1) + self.take(two, 1)
        self.assertTrue(60 <= taken <= 63, taken)

    def test_unknown_account(self) -> None:
        """A node counts them for accounts that nobody has asked it for yet."""
        one, two = self.nodes(2)
        self.take(one, 6, user="bob")
        self.clock.advance(1)
        self.settle()
        self.assertEqual(self.take(two, 1, user="bob"), 0)

    def test_older_node(self) -> None:
        """A node of the version before says nothing of tokens."""
        (node,) = self.nodes(1)
        MemoryPeers(self.hub).tell("rates", b'{"node":"x","loads":{"alice":[1.0,0,0]},"whole":true,"gone":false}')
        self.settle()
        self.assertLess(node.rates._share("alice"), 1)

    def take(self, node: Node, count: int, key: str = "key", user: str = "alice") -> int:
        """Ask for so many tokens; how many there were."""
        taken = 0
        for _ in range(count):
            try:
                node.rates.take_token(ApiKey(key, user, "shop", "", Grants.everything(Namespace(user, "shop")), 0))
            except RateLimited:
                break
            taken += 1
        return taken
