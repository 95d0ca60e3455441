"""Messages whose units are on their way wait, on each protocol in its way, and keep their order."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.allowances import Allowance
from flowgate.allowing import AccountAllowance
from flowgate.auth.permissions import Principal
from flowgate.billing.plans import Plan
from flowgate.billing.purse import Purse
from flowgate.errors import LimitReached
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Connack, Type
from tests.mqtt.node import Cluster, Node, Peer
from tests.test_websocket_protocol import ConnectionTestCase


class Purses:
    """One purse, which is supplied when the test says so."""

    def __init__(self, clock: Clock, units: int = 100) -> None:
        numbers = iter(range(1, 1000))
        self.kicks = 0
        self.purse = Purse("alice", "n", Plan("p", units), clock.seconds, self.kick, lambda: next(numbers))
        self.allowance = AccountAllowance(self.purse, "k")

    def kick(self, purse: Purse) -> None:
        self.kicks += 1

    def supply(self, units: int) -> None:
        self.purse.supplied(units, units, 1000.0)

    def exhaust(self) -> None:
        self.purse.supplied(0, 1, 1000.0)

    def of(self, principal: Principal) -> Allowance:
        return self.allowance


class MqttTests(SynchronousTestCase):
    """The connection is read no further until they are there."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = Node(self.cluster)
        self.purses = Purses(self.cluster.clock)
        self.node.gateway.allowances = self.purses

    def peer(self) -> Peer:
        """A client whose CONNECT was answered; then its account has nothing left at hand."""
        peer = Peer(self.node.factory).connect("c")
        self.cluster.settle()
        self.assertEqual(peer.packets(), [])  # it is not to send before there are units
        self.purses.supply(1)
        self.cluster.settle()
        self.assertEqual(peer.packets(), [Connack(False, 0)])
        self.purses.purse.left = 0
        return peer

    def messages(self, peer: Peer) -> tuple[list[bytes], list[int]]:
        self.cluster.settle()
        got = peer.got()
        acks = [packet_id for one in got if isinstance(one, Ack) for packet_id in one.packet_ids]
        return [one[1] for one in got if isinstance(one, tuple)], acks

    def test_waits(self) -> None:
        """A PUBLISH, and whatever stands behind it, waits for its units, at each quality of service."""
        peer = self.peer()
        peer.send(packets.subscribe(1, [("t", 0), ("open/a", 0)]))
        self.messages(peer)
        for qos in (0, 1, 2):
            ids = [5, 6] if qos else []
            peer.send(packets.publishes("t", [b"1", b"2"], qos, ids), packets.publishes("open/a", [b"3"], 0))
            self.assertEqual(self.messages(peer), ([], []))
            self.assertEqual(peer.transport.producerState, "paused")
            self.purses.supply(2)
            found, acks = self.messages(peer)
            self.assertEqual((found, acks), ([b"1", b"2"], ids))
            self.purses.supply(1)
            self.assertEqual(self.messages(peer), ([b"3"], []))
            self.assertEqual(peer.transport.producerState, "producing")
            if qos == 2:
                peer.send(packets.acks(Type.PUBREL, ids))
                self.messages(peer)
        self.assertEqual(self.purses.purse.spent, 9)

    def test_none(self) -> None:
        """If there turns out to be nothing, there is a notice, and the connection goes on."""
        peer = self.peer()
        peer.send(packets.subscribe(1, [("$SYS/notices", 0)]))
        self.messages(peer)
        peer.send(packets.publishes("t", [b"1"], 1, [5]))
        self.assertEqual(self.messages(peer), ([], []))
        self.purses.exhaust()
        (notice,), acks = self.messages(peer)
        self.assertEqual((json.loads(notice)["code"], acks, peer.closed), ("limit_reached", [], False))
        peer.send(packets.PINGREQ)
        self.cluster.settle()
        self.assertEqual([one.type for one in peer.packets()], [Type.PINGRESP])

    def test_gone(self) -> None:
        """A client that goes while it waits is waited for no more."""
        peer = self.peer()
        peer.send(packets.publishes("t", [b"1"], 1, [5]))
        self.assertEqual(len(self.purses.purse.waiting), 1)
        peer.lose()
        self.assertEqual(len(self.purses.purse.waiting), 0)
        self.purses.supply(5)
        self.cluster.settle()
        self.assertEqual((self.purses.purse.left, self.purses.purse.spent), (5, 0))

    def test_fault(self) -> None:
        """A fault of ours after the wait is logged, and closes the connection instead of leaving it unread."""
        peer = self.peer()
        peer.send(packets.publishes("t", [b"1"], 1, [5]))

        def broken(*_: object) -> Deferred[None]:
            raise RuntimeError("a fault")

        self.patch(self.node.gateway, "publish_run", broken)
        self.purses.supply(1)
        self.cluster.settle()
        self.assertEqual((len(self.flushLoggedErrors(RuntimeError)), peer.closed), (1, True))

    def test_session_taken(self) -> None:
        """A publish of which the session is never kept, because somebody else takes it, holds no units for ever."""
        peer = Peer(self.node.factory).connect("c", clean_session=False)
        self.cluster.settle()
        self.purses.supply(5)
        self.cluster.settle()
        self.node.store.dead = True
        peer.send(packets.publishes("t", [b"1", b"2"], 2, [5, 6]))
        self.assertEqual((self.purses.purse.left, self.purses.purse.pending), (3, True))
        peer.lose()
        self.assertEqual((self.purses.purse.left, self.purses.purse.pending), (5, False))


class WebSocketTests(ConnectionTestCase):
    """Frames behind it wait behind it, and the connection is read no further."""

    def test_waits(self) -> None:
        """Messages with and without an id wait for their units, in order."""
        purses = Purses(self.clock)
        self.gateway.allowances = purses
        peer = self.peer({"action": "subscribe", "topic": "open/a"})
        self.settle()
        peer.got()
        purses.purse.waiting.clear()
        frames = [{"action": "publish", "topic": "open/a", "message": number} for number in range(3)]
        peer.send(*frames, {**frames[0], "message": 3, "id": 1})
        self.settle()
        self.assertEqual(peer.got(), [])
        purses.supply(3)
        self.settle()
        self.assertEqual([frame["data"] for frame in peer.got()], ["0", "1", "2"])
        purses.supply(1)
        self.settle()
        self.assertEqual({frame["action"] for frame in peer.got()}, {"message", "ack"})
        self.assertEqual(purses.purse.spent, 4)

    def test_none(self) -> None:
        """If there turns out to be nothing, each is refused."""
        purses = Purses(self.clock)
        self.gateway.allowances = purses
        peer = self.peer()
        purses.purse.waiting.clear()
        frame = {"action": "publish", "topic": "open/a", "message": 1}
        peer.send(frame, frame, {**frame, "id": 1})
        self.settle()
        purses.exhaust()
        self.settle()
        got = peer.got()
        self.assertEqual(
            [(one["code"], one["status"], one.get("id")) for one in got],
            [("limit_reached", 402, None)] * 2 + [("limit_reached", 402, 1)],
        )
        self.assertEqual((got[0]["limit"], got[0]["limit_source"]), (100, "plan"))


class PurseTests(SynchronousTestCase):
    """Who waits at a purse."""

    def setUp(self) -> None:
        self.purses = Purses(Clock())
        self.purse = self.purses.purse

    def wait(self, units: int) -> tuple[Deferred[None], list[Any]]:
        waiting = self.purse.ready(units)
        assert waiting is not None
        served: list[Any] = []
        waiting.addCallback(lambda _: self.purse.hand_out(units)).addBoth(served.append)
        return waiting, served

    def test_in_turn(self) -> None:
        """Nobody overtakes: a small message waits behind a large one."""
        _, large = self.wait(10)
        _, small = self.wait(1)
        self.purses.supply(5)
        self.assertEqual((large, small), ([], []))
        _, late = self.wait(1)  # although there is enough for it
        self.assertEqual(late, [])
        self.purses.supply(5)
        self.assertEqual((len(large), len(small), len(late)), (1, 0, 0))
        self.purses.supply(2)
        self.assertEqual((len(small), len(late)), (1, 1))

    def test_gives_up(self) -> None:
        """Who waits no longer leaves its turn to the next."""
        waiting, _ = self.wait(10)
        _, small = self.wait(1)
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        self.purses.supply(1)
        self.assertEqual(len(small), 1)

    def test_too_many(self) -> None:
        """There is a bound to those who wait; those beyond are told to try again."""
        self.patch(__import__("flowgate.billing.purse", fromlist=["x"]), "MAX_WAITING", 2)
        for _ in range(2):
            self.wait(1)
        self.assertIsNone(self.purse.ready(1))
        refusal = self.purses.allowance.take((b"x",)).refusal
        assert refusal is not None
        self.assertEqual((type(refusal), refusal.retry_after), (LimitReached, 1))

    def test_ahead(self) -> None:
        """More is asked for while half of it is still there."""
        self.purses.supply(10)
        kicks = self.purses.kicks
        self.purse.active = True
        self.purse.hand_out(5)
        self.assertEqual(self.purses.kicks, kicks)
        self.purse.hand_out(1)
        self.assertEqual(self.purses.kicks, kicks + 1)
