"""Shared subscriptions, against a server that a test plays."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus import group, groups
from flowgate.bus.groups import LinkGroups
from flowgate.bus.link import Link
from flowgate.bus.peers import LinkPeers
from flowgate.errors import BusUnavailable
from flowgate.topics import Topic
from tests.contracts.groups import Member
from tests.contracts.topics import SHOP, numbered
from tests.test_bus_link import INFO, Owner, Transport

SUBJECT = b"fg.log.alice.shop.-.a.%"


class LinkGroupsTests(SynchronousTestCase):
    """What a node says to the server, and how it takes the answers."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.link = Link(self.reactor, ["nats://one:1"], Owner(), ping_seconds=1e6, rng=random.Random(1))
        self.groups = LinkGroups(self.reactor, self.link, LinkPeers(self.link))
        self.link.start()
        factory: Any = self.reactor.tcpClients[-1][2]
        self.protocol = factory.buildProtocol(None)
        self.transport = Transport()
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)
        self.protocol.dataReceived(INFO + b"PONG\r\n")
        self.transport.clear()
        self.sequence = 0

    def said(self) -> list[list[bytes]]:
        """The messages that were published since the last call: subject, reply subject or nothing, payload."""
        self.reactor.advance(0)
        lines = self.transport.value().split(b"\r\n")
        self.transport.clear()
        found = []
        for head, payload in pairwise(lines):
            if head.startswith(b"PUB ") and not head.startswith(b"PUB fg."):
                _, subject, *reply, _ = head.split(b" ")
                found.append([subject, b"".join(reply), payload])
        return found

    def answer(self, subject: bytes, payload: bytes) -> None:
        self.protocol.dataReceived(b"MSG %b 1 %d\r\n%b\r\n" % (subject, len(payload), payload))

    def status(self, reply: bytes, line: bytes) -> None:
        head = b"NATS/1.0 %b\r\n\r\n" % line
        self.protocol.dataReceived(b"HMSG %b %d %d %d\r\n%b\r\n" % (reply, self.sid, len(head), len(head), head))

    def deliver(self, *payloads: bytes, subject: bytes = SUBJECT) -> list[bytes]:
        """Bring messages; return how they are acknowledged."""
        acks, data = [], []
        for payload in payloads:
            self.sequence += 1
            acks.append(b"$JS.ACK.FG_TOPICS.c.1.%d.%d.1700000000000000000.0" % (self.sequence, self.sequence))
            data.append(b"MSG %b %d %b %d\r\n%b\r\n" % (subject, self.sid, acks[-1], len(payload), payload))
        self.protocol.dataReceived(b"".join(data))
        return acks

    def join(self, ask: int = 0) -> Member:
        member = Member()
        joining = self.groups.join(SHOP, "g", "a/#", member)
        for subject, reply, _ in self.said():
            assert subject.startswith(b"$JS.API.CONSUMER.CREATE.FG_TOPICS.fg-group-")
            self.answer(reply, b"{}")
        member.membership = self.successResultOf(joining)
        self.sid = max(map(int, self.link._subscriptions))
        if ask:
            member.ask(ask)
        return member

    def requests(self) -> list[tuple[int, bytes]]:
        """How many messages the requests since the last call ask for, and where they go to."""
        return [
            (json.loads(payload)["batch"], reply) for subject, reply, payload in self.said() if b"MSG.NEXT" in subject
        ]

    def test_one_request(self) -> None:
        """What a member asks for in one turn is one request; what it asks for while that is open waits."""
        member = self.join(2)
        member.ask(3)
        ((batch, _),) = self.requests()
        self.assertEqual(batch, 5)
        member.ask(4)
        self.assertEqual(self.requests(), [])
        self.deliver(*numbered(0, 5))
        ((batch, _),) = self.requests()
        self.assertEqual((batch, member.payloads), (4, numbered(0, 5)))

    def test_largest_request(self) -> None:
        """A member that wants very many is given them by several requests."""
        self.join(group.MAX_BATCH + 7)
        ((first, _),) = self.requests()
        self.deliver(*numbered(0, first))
        ((second, _),) = self.requests()
        self.assertEqual((first, second), (group.MAX_BATCH, 7))

    def test_silence(self) -> None:
        """A request without heartbeats is made again; what comes by both beyond the member's wish is given back."""
        member = self.join(3)
        ((_, reply),) = self.requests()
        for _ in range(20):
            self.reactor.advance(1)
            self.status(reply, b"100 Idle Heartbeat")
        self.assertEqual(self.requests(), [])
        self.reactor.pump([1] * 14)
        ((batch, _),) = self.requests()
        self.assertEqual(batch, 3)
        acks = self.deliver(*numbered(0, 5))
        self.assertEqual(member.payloads, numbered(0, 3))
        self.assertEqual(self.said(), [[ack, b"", b"-NAK"] for ack in acks[3:]])

    def test_ends_of_requests(self) -> None:
        """A request that came to its end is followed by another at once; one that is refused, a second later."""
        self.join(3)
        ((_, reply),) = self.requests()
        for line in (b"408 Request Timeout", b"409 Message Size Exceeds MaxBytes", b"409 Batch Completed"):
            self.status(reply, line)
            ((batch, another),) = self.requests()
            self.assertEqual((batch, another == reply), (3, False))
            self.status(reply, line)
            self.assertEqual(self.requests(), [])  # that was about an older one
            reply = another
        self.status(reply, b"409 Exceeded MaxWaiting")
        self.assertEqual(self.requests(), [])
        self.reactor.advance(1)
        self.assertEqual(len(self.requests()), 1)

    def test_missing_consumer(self) -> None:
        """A consumer that is gone is made again, with an attempt each second, and then asked."""
        self.join(3)
        ((_, reply),) = self.requests()
        self.status(reply, b"503")
        ((subject, asked, _),) = self.said()
        self.assertIn(b"CONSUMER.CREATE", subject)
        self.answer(asked, b'{"error":{"code":404,"err_code":10059,"description":"stream not found"}}')
        self.assertEqual(self.said(), [])
        self.reactor.advance(1)
        ((_, asked, _),) = self.said()
        self.answer(asked, b"{}")
        self.assertEqual([batch for batch, _ in self.requests()], [3])

    def test_signs_of_life(self) -> None:
        """For what a member holds the node gives a sign of life three times in the time to acknowledge."""
        member = self.join(2)
        self.requests()
        acks = self.deliver(b"0", b"1")
        member.membership.done(member.handles[:1])
        self.assertEqual(self.said(), [[acks[0], b"", b""]])
        self.reactor.pump([1] * 9)
        self.assertEqual(self.said(), [])
        self.reactor.advance(1)
        self.assertEqual(self.said(), [[acks[1], b"", b"+WPI"]])
        self.reactor.pump([1] * 10)
        self.assertEqual(self.said(), [[acks[1], b"", b"+WPI"]])

    def test_leaving(self) -> None:
        """A member that leaves stops listening before it gives back; what was on its way is given back too."""
        member = self.join(5)
        self.requests()
        first = self.deliver(b"0")
        member.membership.leave()
        self.assertTrue(self.transport.value().startswith(b"UNSUB %d\r\n" % self.sid))
        self.assertEqual(self.said(), [[first[0], b"", b"-NAK"]])
        second = self.deliver(b"1")
        self.assertEqual(self.said(), [[second[0], b"", b"-NAK"]])
        self.assertEqual(member.payloads, [b"0"])

    def test_unreadable(self) -> None:
        """What is not one of our messages is dropped for all, and logged."""
        member = self.join(5)
        self.requests()
        acks = self.deliver(b"0", subject=b"fg.log.nonsense")
        self.assertEqual((self.said(), member.payloads), ([[acks[0], b"", b"+TERM"]], []))
        self.deliver(b"1")
        self.assertEqual(member.payloads, [b"1"])

    def test_refused(self) -> None:
        """If the server refuses to make a group nobody joins, and nothing is left of it."""
        joining = self.groups.join(SHOP, "g", "a/#", Member())
        other = self.groups.join(SHOP, "g", "a/#", Member())
        self.assertTrue(self.groups.wants(Topic(SHOP, "a")))
        ((_, reply, _),) = self.said()
        self.answer(reply, b'{"error":{"code":400,"err_code":10026,"description":"maximum consumers limit reached"}}')
        self.assertIn("maximum consumers", str(self.failureResultOf(joining, BusUnavailable).value))
        self.failureResultOf(other, BusUnavailable)
        self.assertFalse(self.groups.wants(Topic(SHOP, "a")))

    def test_too_many(self) -> None:
        """A node takes part in a bounded number of groups."""
        self.patch(groups, "MAX_GROUPS", 1)
        self.join()
        self.join()  # the same
        self.failureResultOf(self.groups.join(SHOP, "g", "b", Member()), BusUnavailable)

    def test_cancelled(self) -> None:
        """Who gives up joining is no member."""
        joining = self.groups.join(SHOP, "g", "a/#", Member())
        joining.cancel()
        self.failureResultOf(joining, CancelledError)
        self.assertFalse(self.groups.wants(Topic(SHOP, "a")))
        ((_, reply, _),) = self.said()
        self.answer(reply, b"{}")

    def test_stopped(self) -> None:
        """A node that stops leaves nothing in the clock, also with somebody about to join."""
        self.join(3)
        joining = self.groups.join(SHOP, "h", "a/#", Member())
        self.groups.stop()
        for _, reply, _ in self.said():
            self.answer(reply, b"{}")
        self.failureResultOf(joining, BusUnavailable)
        stopped = self.link.stop()
        self.protocol.connectionLost()
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
