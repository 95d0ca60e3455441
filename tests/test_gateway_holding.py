"""Publishers are slowed down by queues that have subscribed and cannot follow."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_retained import MemoryRetained
from flowgate.bus.memory_topics import MemoryBus
from flowgate.connections import Connections
from flowgate.errors import Refused
from flowgate.gateway import Gateway, Post, Route
from flowgate.interfaces import IGroupMember, IMembership
from flowgate.limits import Limits, Policies
from flowgate.message import Run, Stored
from flowgate.metering import Meter
from flowgate.router import Router
from flowgate.subscriber import Turn
from flowgate.topics import Topic
from tests.contracts.topics import SHOP, numbered

MOST = 2500
A, B = (Route(Topic(SHOP, name), False, True, None) for name in "ab")


@implementer(IGroupMember)
class Member:
    """Takes what it asks for."""

    membership: IMembership

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.handles: list[str] = []

    def take(self, run: Run, handles: Sequence[str]) -> None:
        self.payloads += run.payloads
        self.handles += handles

    def lost(self, reason: Refused) -> None:
        raise AssertionError(reason)


class HoldingTests(SynchronousTestCase):
    """A gateway whose topic ``a`` a durable group wants, as a queue's does."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.bus = MemoryBus(self.clock, per_topic=10_000)
        self.groups = MemoryGroups(MemoryGroupsHub(self.clock, self.bus, MOST))
        self.gateway = Gateway(
            self.bus,
            Router(),
            Turn(),
            Connections(10),
            Meter(),
            Limits(),
            Policies(),
            retained=MemoryRetained(self.clock),
            groups=self.groups,
        )
        self.bus.start()
        self.member = Member()
        joining = self.groups.join(SHOP, "g", "a", self.member, durable=True)
        self.settle()
        self.member.membership = self.successResultOf(joining)

    def settle(self) -> None:
        self.clock.pump([0] * 10 + [0.1] + [0] * 10)

    def work(self, count: int) -> None:
        """Have the group follow."""
        self.member.membership.ask(count)
        self.settle()
        self.member.membership.done(self.member.handles)
        self.settle()

    def test_one(self) -> None:
        """A message by itself is stored when there is room for it; messages on other topics at once."""
        self.gateway.publish_run(Run(A.topic, numbered(0, MOST), qos=1))
        self.settle()
        published = self.gateway.publish(A, b"last")
        other = self.gateway.publish(B, b"other")
        self.settle()
        self.assertNoResult(published)
        self.successResultOf(other)
        self.work(MOST)
        self.assertFalse(self.successResultOf(published).duplicate)
        self.work(1)
        self.assertEqual(self.member.payloads[-1], b"last")

    def test_many(self) -> None:
        """Of many messages only those wait that have to, and each topic keeps its order."""
        self.gateway.publish_run(Run(A.topic, numbered(0, MOST), qos=1))
        self.settle()
        published = self.gateway.publish_many([Post(A, b"1"), Post(B, b"2"), Post(A, b"3"), Post(B, b"4")])
        behind = self.gateway.publish(A, b"5")
        self.settle()
        self.assertNoResult(published)
        self.assertEqual(self.bus.last, MOST + 2)
        self.work(MOST)
        self.work(3)
        self.successResultOf(behind)
        places = [one.sequence - MOST for one in self.successResultOf(published) if isinstance(one, Stored)]
        self.assertEqual(places, [3, 1, 4, 2])
        self.assertEqual(self.member.payloads[MOST:], [b"1", b"3", b"5"])
        self.work(1)
        more = self.gateway.publish_many([Post(A, b"x")] * MOST)  # all that was before is known to be stored
        self.settle()
        self.successResultOf(more)

    def test_many_given_up(self) -> None:
        """Many messages whose publisher has gone are not in the way."""
        self.gateway.publish_run(Run(A.topic, numbered(0, MOST), qos=1))
        self.settle()
        given_up = self.gateway.publish_many([Post(A, b"1", "k"), Post(A, b"2", "l", None, True)])
        given_up.addErrback(lambda _: None)
        given_up.cancel()
        again = self.gateway.publish_many([Post(A, b"1", "k")])
        self.work(MOST)
        self.work(9)
        self.assertEqual([type(one) for one in self.successResultOf(again)], [Stored])
        self.assertEqual(self.member.payloads[MOST:], [b"1"])

    def test_large_run(self) -> None:
        """A run of very many is stored in pieces, in order, as the group follows; it is acknowledged at the end."""
        count = 3 * MOST
        stored = self.gateway.publish_run(Run(A.topic, numbered(0, count), qos=1))
        behind = self.gateway.publish_run(Run(A.topic, [b"behind"], qos=1))
        self.settle()
        self.assertLessEqual(self.bus.last, MOST)
        while not stored.called:
            self.assertFalse(behind.called)
            self.work(MOST)
        self.successResultOf(stored)
        self.work(MOST)
        self.work(MOST)
        self.successResultOf(behind)
        self.assertEqual(self.member.payloads, [*numbered(0, count), b"behind"])

    def test_large_run_while_away(self) -> None:
        """A run in pieces fails with the reason of the bus."""
        self.bus.go_away()
        stored = self.gateway.publish_run(Run(A.topic, numbered(0, MOST), qos=1))
        self.assertTrue(self.failureResultOf(stored, Refused))

    def test_ids(self) -> None:
        """Pieces keep what belongs to each message."""
        run = Run(A.topic, numbered(0, 5), qos=2, ttl=9, retain=True, message_ids=list("abcde"))
        pieces = run.pieces(2)
        self.assertEqual([list(piece.payloads) for piece in pieces], [[b"0", b"1"], [b"2", b"3"], [b"4"]])
        self.assertEqual([list(piece.message_ids) for piece in pieces], [["a", "b"], ["c", "d"], ["e"]])
        self.assertEqual(
            {(piece.count <= 2, piece.qos, piece.ttl, piece.retain) for piece in pieces}, {(True, 2, 9, True)}
        )

    def test_unacknowledged(self) -> None:
        """Who publishes unacknowledged messages is told when to go on, if that is not now."""
        self.assertIs(self.gateway.publish_unacknowledged(A, Run(A.topic, [b"0"] * MOST)), None)
        room = self.gateway.publish_unacknowledged(A, Run(A.topic, [b"0"]))
        self.assertIs(self.gateway.publish_unacknowledged(B, Run(B.topic, [b"0"] * 2 * MOST)), None)
        assert room is not None
        self.settle()
        self.assertNoResult(room)
        self.work(MOST + 1)
        self.clock.pump([0.1] * 10)
        self.successResultOf(room)

    def test_cancelled(self) -> None:
        """What its publisher has given up is not published, and not in the way."""
        self.gateway.publish_run(Run(A.topic, numbered(0, MOST), qos=1))
        self.settle()
        given_up, other = self.gateway.publish(A, b"given up"), self.gateway.publish(A, b"other")
        given_up.addErrback(lambda _: None)
        given_up.cancel()
        self.work(MOST)
        self.successResultOf(other)
        self.work(9)
        self.assertEqual(self.member.payloads[MOST:], [b"other"])
