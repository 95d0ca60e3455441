"""The MQTT 3.1.1 session: what a client may send when, and the delivery protocols both ways."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import ProtocolViolation
from flowgate.mqtt import packets
from flowgate.mqtt.packets import (
    Ack,
    Bare,
    Connack,
    Connect,
    Decoder,
    Packet,
    Publish,
    Suback,
    Subscribe,
    Type,
    Unsubscribe,
    acks,
)
from flowgate.mqtt.session import MOST_UNRELEASED, Begun, Place, QueueFull, Restored, Session, State, check_allowed

Sent = tuple[str, bytes, int, int]
"""A PUBLISH as the client sees it: topic, payload, QoS, packet identifier."""


def sent(data: bytes) -> list[Sent]:
    """The PUBLISH packets in ``data``; there must be nothing else, and none may be marked as a duplicate."""
    found: list[Sent] = []
    for packet in Decoder(10**6).feed(data):
        assert isinstance(packet, Publish), packet
        assert not packet.dup and not packet.retain
        topic = packets.text(packet.topic)
        found += [
            (topic, payload, packet.qos, packet_id)
            for payload, packet_id in zip(packet.payloads(), packet.packet_ids, strict=True)
        ]
    return found


def flags(data: bytes) -> list[tuple[bytes, bool, bool]]:
    """Payload, DUP and RETAIN of the PUBLISH packets in ``data``."""
    found: list[tuple[bytes, bool, bool]] = []
    for packet in Decoder(10**6).feed(data):
        assert isinstance(packet, Publish), packet
        found += [(payload, packet.dup, packet.retain) for payload in packet.payloads()]
    return found


def numbers(first: int, last: int) -> list[bytes]:
    return [str(number).encode() for number in range(first, last + 1)]


def places(first: int, last: int, prefix: str = "alice_shop_") -> list[Place]:
    return [(prefix, number, False) for number in range(first, last + 1)]


def put(session: Session, first: int, last: int, qos: int) -> None:
    """Have the messages that stand at ``places(first, last)`` wait."""
    session.put("t", numbers(first, last), qos, places(first, last))


def found(some: Iterable[Place]) -> dict[Place, tuple[str, bytes]]:
    """What is read again at those places."""
    return {place: ("t", b"%d" % place[1]) for place in some}


def restored(state: dict[str, Any], window: int = 3) -> tuple[Session, Restored]:
    """A session on the next connection, from the state that was kept as JSON."""
    session = Session(window, 0, 1000)
    return session, session.restore(json.loads(json.dumps(state)))


def again(session: Session, left: Restored) -> bytes:
    """Send again all that was in flight."""
    return session.resend([packet_id for packet_id, _ in left.flying], found(place for _, place in left.flying))


class AllowedTests(SynchronousTestCase):
    """Which packets a client may send, by the state of its connection."""

    connect = Connect("c")
    publish = next(iter(Decoder(100).feed(packets.publishes("a", [b"x"]))))
    from_client: tuple[Packet, ...] = (
        publish,
        Ack(Type.PUBACK, (1,)),
        Ack(Type.PUBREC, (1,)),
        Ack(Type.PUBREL, (1,)),
        Ack(Type.PUBCOMP, (1,)),
        Subscribe(1, (("a", 0),)),
        Unsubscribe(1, ("a",)),
        Bare(Type.PINGREQ),
        Bare(Type.DISCONNECT),
    )
    from_server: tuple[Packet, ...] = (
        Connack(False, 0),
        Suback(1, (0,)),
        Ack(Type.UNSUBACK, (1,)),
        Bare(Type.PINGRESP),
    )

    def check(self, state: State, allowed: tuple[Packet, ...]) -> None:
        for packet in (self.connect, *self.from_client, *self.from_server):
            if packet in allowed:
                check_allowed(state, packet)
            else:
                with self.assertRaises(ProtocolViolation, msg=f"{packet} while {state}"):
                    check_allowed(state, packet)

    def test_connecting(self) -> None:
        """[MQTT-3.1.0-1]: the first packet is a CONNECT and nothing else."""
        self.check(State.CONNECTING, (self.connect,))

    def test_connected(self) -> None:
        """[MQTT-3.1.0-2], [MQTT-4.8.0-1]: then no second CONNECT, and nothing that only a server sends."""
        self.check(State.CONNECTED, self.from_client)

    def test_opening(self) -> None:
        """[MQTT-3.1.4-5]: nothing is taken before CONNECT is answered; what comes earlier has to be read later."""
        self.check(State.OPENING, ())

    def test_closed(self) -> None:
        """[MQTT-3.14.4-2]: behind a DISCONNECT or a fault nothing is taken."""
        self.check(State.CLOSED, ())


class OutboundTests(SynchronousTestCase):
    """Deliveries to the client at QoS 1 and 2."""

    def session(self, window: int = 3, messages: int = 4, size: int = 1000) -> Session:
        return Session(window, messages, size)

    def test_qos_1(self) -> None:
        """[MQTT-4.3.2-1]: a QoS 1 delivery is done with its PUBACK."""
        session = self.session()
        self.assertEqual(sent(session.deliver("t", [b"a"], 1)), [("t", b"a", 1, 1)])
        self.assertEqual(session.in_flight, 1)
        self.assertEqual(session.acknowledged(Ack(Type.PUBACK, (1,))), b"")
        self.assertEqual((session.in_flight, session._size), (0, 0))

    def test_qos_2(self) -> None:
        """[MQTT-4.3.3-1]: a QoS 2 delivery goes on with PUBREL, keeps no payload then, and is done with PUBCOMP."""
        session = self.session()
        self.assertEqual(sent(session.deliver("t", [b"a", b"b"], 2)), [("t", b"a", 2, 1), ("t", b"b", 2, 2)])
        self.assertEqual(session.acknowledged(Ack(Type.PUBREC, (1, 2))), acks(Type.PUBREL, (1, 2)))
        self.assertEqual((session.in_flight, session._size), (2, 0))
        self.assertEqual(session.acknowledged(Ack(Type.PUBCOMP, (1, 2))), b"")
        self.assertEqual((session.in_flight, session._size), (0, 0))

    def test_pubrel_order(self) -> None:
        """[MQTT-4.6.0-4]: PUBREL packets go out in the order of the PUBREC packets."""
        session = self.session()
        session.deliver("t", numbers(1, 3), 2)
        self.assertEqual(session.acknowledged(Ack(Type.PUBREC, (3, 1, 2))), acks(Type.PUBREL, (3, 1, 2)))

    def test_repeated_pubrec(self) -> None:
        """A PUBREC that comes again is answered by PUBREL again, and counts once."""
        session = self.session()
        session.deliver("t", [b"a"], 2)
        for _ in range(2):
            self.assertEqual(session.acknowledged(Ack(Type.PUBREC, (1,))), acks(Type.PUBREL, (1,)))
        self.assertEqual((session.in_flight, session._size), (1, 0))

    def test_unknown_pubrec(self) -> None:
        """A PUBREC for a delivery that is not known any more is answered by PUBREL, so that the client lets go."""
        session = self.session()
        self.assertEqual(session.acknowledged(Ack(Type.PUBREC, (9,))), acks(Type.PUBREL, (9,)))
        self.assertEqual(session.acknowledged(Ack(Type.PUBCOMP, (9,))), b"")
        self.assertEqual(session.in_flight, 0)

    def test_unknown_acks(self) -> None:
        """PUBACK and PUBCOMP for what is not in flight change nothing."""
        session = self.session()
        session.deliver("t", [b"a"], 1)
        for kind in (Type.PUBACK, Type.PUBCOMP):
            self.assertEqual(session.acknowledged(Ack(kind, (2, 65535))), b"")
        self.assertEqual((session.in_flight, session._size), (1, 1))

    def test_ack_of_another_step(self) -> None:
        """An acknowledgement of another quality of service, or too early, ends no delivery."""
        session = self.session()
        session.deliver("t", [b"a"], 1)
        session.deliver("t", [b"b"], 2)
        session.acknowledged(Ack(Type.PUBCOMP, (1, 2)))
        session.acknowledged(Ack(Type.PUBREC, (1,)))
        session.acknowledged(Ack(Type.PUBACK, (2,)))
        self.assertEqual((session.in_flight, session._size), (2, 2))

    def test_repeated_puback(self) -> None:
        """The same identifier twice in one run of acknowledgements counts once."""
        session = self.session()
        session.deliver("t", numbers(1, 2), 1)
        session.acknowledged(Ack(Type.PUBACK, (1, 1)))
        self.assertEqual((session.in_flight, session._size), (1, 1))

    def test_window(self) -> None:
        """Beyond the window deliveries wait, and follow in order as others are acknowledged."""
        session = self.session(window=2)
        self.assertEqual([one[1] for one in sent(session.deliver("t", numbers(1, 4), 1))], [b"1", b"2"])
        self.assertEqual((session.in_flight, session.waiting), (2, 2))
        self.assertEqual(session.pump(1000), b"")
        session.acknowledged(Ack(Type.PUBACK, (1,)))
        self.assertEqual(sent(session.pump(1000)), [("t", b"3", 1, 3)])
        session.acknowledged(Ack(Type.PUBACK, (2, 3)))
        self.assertEqual(sent(session.pump(1000)), [("t", b"4", 1, 4)])
        self.assertEqual((session.in_flight, session.waiting), (1, 0))

    def test_window_of_qos_2(self) -> None:
        """A QoS 2 delivery keeps its place in the window until PUBCOMP."""
        session = self.session(window=1)
        session.deliver("t", numbers(1, 2), 2)
        session.acknowledged(Ack(Type.PUBREC, (1,)))
        self.assertEqual(session.pump(1000), b"")
        session.acknowledged(Ack(Type.PUBCOMP, (1,)))
        self.assertEqual(sent(session.pump(1000)), [("t", b"2", 2, 2)])

    def test_nobody_overtakes(self) -> None:
        """[MQTT-4.6.0-6]: while others wait a new delivery waits behind them, though the window has room."""
        session = self.session(window=2)
        session.deliver("t", numbers(1, 3), 1)
        session.acknowledged(Ack(Type.PUBACK, (1, 2)))
        self.assertEqual(session.deliver("t", [b"4"], 1), b"")
        self.assertEqual([one[1] for one in sent(session.pump(1000))], [b"3", b"4"])

    def test_pump_keeps_order(self) -> None:
        """Topics and qualities of service that take turns come out of the queue in the order they went in."""
        session = self.session(window=10, messages=10)
        went_in = [("a", b"1", 1), ("a", b"2", 2), ("b", b"3", 2), ("a", b"4", 1), ("a", b"5", 1), ("b", b"6", 1)]
        for topic, payload, qos in went_in:
            self.assertEqual(session.deliver(topic, [payload], qos, hold=True), b"")
        came_out = sent(session.pump(1000))
        self.assertEqual([one[:3] for one in came_out], went_in)
        self.assertEqual([one[3] for one in came_out], [1, 2, 3, 4, 5, 6])

    def test_hold(self) -> None:
        """Held deliveries wait although the window is open, until :meth:`pump`."""
        session = self.session()
        self.assertEqual(session.deliver("t", numbers(1, 2), 1, hold=True), b"")
        self.assertEqual((session.in_flight, session.waiting), (0, 2))
        self.assertEqual(len(sent(session.pump(1000))), 2)
        self.assertEqual((session.in_flight, session.waiting), (2, 0))

    def test_hold_is_bounded(self) -> None:
        """Held deliveries count against the queue, not the window."""
        session = self.session(window=3, messages=2)
        with self.assertRaises(QueueFull):
            session.deliver("t", numbers(1, 3), 1, hold=True)

    def test_identifiers_wrap(self) -> None:
        """[MQTT-2.3.1-1]: behind 65535 comes 1, never 0."""
        session = self.session(window=1)
        seen = []
        for _ in range(65537):
            ((_, _, _, packet_id),) = sent(session.deliver("t", [b""], 1))
            seen.append(packet_id)
            session.acknowledged(Ack(Type.PUBACK, (packet_id,)))
        self.assertEqual(seen, [*range(1, 65536), 1, 2])

    def test_identifier_in_use(self) -> None:
        """[MQTT-2.3.1-2]: an identifier that is in flight is passed over, also behind the end of the numbers, and one
        that waits for PUBCOMP is in flight."""
        session = self.session(window=4)
        session.deliver("t", numbers(1, 3), 2)
        session.acknowledged(Ack(Type.PUBREC, (1, 2, 3)))
        session.acknowledged(Ack(Type.PUBCOMP, (2,)))
        session._next_id = 65535
        ids = [one[3] for one in sent(session.deliver("t", [b"", b""], 1))]
        self.assertEqual(ids, [65535, 2])

    def test_all_identifiers(self) -> None:
        """The widest window uses every identifier; one that is set free is found."""
        session = Session(65535, 1, 1)
        session.deliver("t", [b""] * 65536, 1)
        self.assertEqual((session.in_flight, session.waiting), (65535, 1))
        session.acknowledged(Ack(Type.PUBACK, (777,)))
        self.assertEqual([one[3] for one in sent(session.pump(1000))], [777])

    def test_full_of_messages(self) -> None:
        """More waiting messages than the bound are refused as a whole, and nothing of them is taken."""
        session = self.session(window=1, messages=2)
        session.deliver("t", numbers(1, 2), 1)
        with self.assertRaises(QueueFull):
            session.deliver("t", numbers(3, 4), 1)
        self.assertEqual((session.in_flight, session.waiting, session._size), (1, 1, 2))
        session.deliver("t", [b"3"], 1)
        self.assertEqual(session.waiting, 2)

    def test_full_takes_none_in_flight(self) -> None:
        """A run that does not fit is refused as a whole, though a part had room in the window."""
        session = self.session(window=2, messages=1)
        with self.assertRaises(QueueFull):
            session.deliver("t", numbers(1, 4), 1)
        self.assertEqual((session.in_flight, session.waiting, session._size), (0, 0, 0))
        self.assertEqual([one[3] for one in sent(session.deliver("t", numbers(1, 3), 1))], [1, 2])

    def test_full_of_bytes(self) -> None:
        """Payloads in flight and waiting count against the bound of bytes until the client has them."""
        session = self.session(size=10)
        session.deliver("t", [b"x" * 6], 2)
        with self.assertRaises(QueueFull):
            session.deliver("t", [b"y" * 5], 1)
        session.deliver("t", [b"y" * 4], 1)
        session.acknowledged(Ack(Type.PUBREC, (1,)))
        session.deliver("t", [b"z" * 6], 1)
        self.assertEqual(session._size, 10)


class PutTests(SynchronousTestCase):
    """Deliveries that are read from somewhere, and wait until there is room."""

    def test_put_waits(self) -> None:
        """Nothing is sent before :meth:`pump`, which sends what the window allows, in order."""
        session = Session(2, 0, 1000)
        put(session, 1, 3, 1)
        self.assertEqual((session.in_flight, session.waiting, session._size), (0, 3, 3))
        self.assertEqual(sent(session.pump(1000)), [("t", b"1", 1, 1), ("t", b"2", 1, 2)])
        session.acknowledged(Ack(Type.PUBACK, (1, 2)))
        self.assertEqual(sent(session.pump(1000)), [("t", b"3", 1, 3)])

    def test_pump_at_most(self) -> None:
        """So many bytes of payload at once, and the message that reaches them; the others stay."""
        session = Session(10, 0, 1000)
        session.put("t", [b"12", b"34", b"56"], 1, places(1, 3))
        self.assertEqual([one[1] for one in sent(session.pump(3))], [b"12", b"34"])
        self.assertEqual(session.pump(0), b"")
        self.assertEqual([one[1] for one in sent(session.pump(1))], [b"56"])

    def test_busy(self) -> None:
        """Whoever reads stops while something waits, the window is closed, or the bytes have reached their bound."""
        session = Session(2, 0, 10)
        self.assertFalse(session.busy)
        put(session, 1, 1, 1)
        self.assertTrue(session.busy)
        session.pump(1000)
        self.assertFalse(session.busy)
        put(session, 2, 2, 1)
        session.pump(1000)
        self.assertTrue(session.busy)
        session.acknowledged(Ack(Type.PUBACK, (1, 2)))
        self.assertFalse(session.busy)
        session.put("t", [b"0" * 10], 2, places(3, 3))
        session.pump(1000)
        self.assertTrue(session.busy)
        session.acknowledged(Ack(Type.PUBREC, (3,)))
        self.assertFalse(session.busy)

    def test_full(self) -> None:
        """What waits while the window has room for it does not make a session full, as the window's end does."""
        session = Session(3, 0, 1000)
        put(session, 1, 2, 1)
        self.assertFalse(session.full)
        put(session, 3, 3, 1)
        self.assertTrue(session.full)

    def test_retain(self) -> None:
        """[MQTT-3.3.1-8], [MQTT-3.3.1-9]: what is sent because of a new subscription has RETAIN set, nothing else."""
        session = Session(10, 0, 1000)
        session.put("t", [b"1"], 1, places(1, 1), retain=True)
        session.put("t", [b"2"], 1, places(2, 2))
        session.put("t", [b"3"], 1, places(3, 3), retain=True)
        self.assertEqual(flags(session.pump(1000)), [(b"1", False, True), (b"2", False, False), (b"3", False, True)])

    def test_dup(self) -> None:
        """[MQTT-3.3.1-1]: what the client may have been sent before has DUP set, and nothing else."""
        session = Session(10, 0, 1000)
        session.put("t", [b"1"], 1, places(1, 1), dup=True)
        session.put("t", [b"2"], 1, places(2, 2))
        self.assertEqual(flags(session.pump(1000)), [(b"1", True, False), (b"2", False, False)])

    def test_finished(self) -> None:
        """A token is given back once, when the client has the message: at QoS 1 with PUBACK, at QoS 2 with PUBREC."""
        session = Session(10, 0, 1000)
        session.put("t", numbers(1, 2), 1, [None, None], tokens=["one", "two"])
        session.put("t", numbers(3, 3), 2, [None], tokens=["three"])
        session.pump(1000)
        self.assertEqual(session.finished, [])
        session.acknowledged(Ack(Type.PUBACK, (2,)))
        session.acknowledged(Ack(Type.PUBREC, (3,)))
        self.assertEqual(session.finished, ["two", "three"])
        session.finished.clear()
        session.acknowledged(Ack(Type.PUBACK, (2, 1)))
        session.acknowledged(Ack(Type.PUBREC, (3,)))
        session.acknowledged(Ack(Type.PUBCOMP, (3,)))
        self.assertEqual(session.finished, ["one"])

    def test_unsaved(self) -> None:
        """[MQTT-4.3.3-1]: a durable QoS 2 delivery is to be kept before it is sent; others need not be."""
        session = Session(10, 0, 1000)
        put(session, 1, 1, 1)
        session.put("t", [b"2"], 2, [None])
        session.pump(1000)
        self.assertFalse(session.unsaved)
        put(session, 3, 3, 2)
        self.assertFalse(session.unsaved)
        session.pump(1000)
        self.assertTrue(session.unsaved)
        session.state()
        self.assertFalse(session.unsaved)


class InboundTests(SynchronousTestCase):
    """QoS 2 publishes of the client."""

    def fresh(self, session: Session, packet_ids: list[int]) -> list[bool]:
        return [one.fresh for one in session.begin(packet_ids)]

    def kept(self, session: Session) -> Session:
        """The session on the next connection."""
        return restored(session.state())[0]

    def test_new_once(self) -> None:
        """[MQTT-4.3.3-2]: a PUBLISH that comes again before its PUBREL is the same message."""
        session = Session(1, 1, 1)
        self.assertEqual(session.begin([1, 2]), [Begun(1, True, False), Begun(2, True, False)])
        self.assertEqual(session.begin([2, 3]), [Begun(2, False, False), Begun(3, True, False)])

    def test_new_once_in_one_run(self) -> None:
        """Also when both came in one read."""
        self.assertEqual(self.fresh(Session(1, 1, 1), [7, 7, 8]), [True, False, True])

    def test_released(self) -> None:
        """[MQTT-4.3.3-2]: PUBREL is answered by PUBCOMP; after it the identifier stands for a new message."""
        session = Session(1, 1, 1)
        session.begin([5, 6])
        self.assertEqual(session.released(Ack(Type.PUBREL, (6, 5))), acks(Type.PUBCOMP, (6, 5)))
        self.assertEqual(session.begin([5, 6]), [Begun(3, True, False), Begun(4, True, False)])

    def test_unknown_release(self) -> None:
        """[MQTT-4.3.3-2]: a PUBREL for an identifier that is not known is answered too."""
        session = Session(1, 1, 1)
        self.assertEqual(session.released(Ack(Type.PUBREL, (9,))), acks(Type.PUBCOMP, (9,)))

    def test_own_numbers(self) -> None:
        """2.3.1: the client's identifiers and ours are apart: neither direction touches the other."""
        session = Session(2, 1, 10)
        session.deliver("t", [b"a"], 2)
        self.assertEqual(self.fresh(session, [1]), [True])
        session.released(Ack(Type.PUBREL, (1,)))
        self.assertEqual(session.in_flight, 1)

    def test_bound(self) -> None:
        """A client that leaves too many publishes without PUBREL is at fault; what it has begun it may repeat."""
        session = Session(1, 1, 1)
        session.most_unreleased = MOST_UNRELEASED
        session.begin(range(1, MOST_UNRELEASED + 1))
        with self.assertRaises(ProtocolViolation):
            session.begin([MOST_UNRELEASED + 1])
        self.assertEqual(self.fresh(session, [1]), [False])
        session.released(Ack(Type.PUBREL, (1,)))
        self.assertEqual(self.fresh(session, [MOST_UNRELEASED + 1]), [True])

    def test_kept(self) -> None:
        """[MQTT-4.3.3-2]: on the next connection too a PUBLISH without PUBREL is the same message, under the same
        generation, and generations go on."""
        session = Session(1, 1, 1)
        session.begin([7, 8])
        session.stored([7, 8])
        session.released(Ack(Type.PUBREL, (7,)))
        session = self.kept(session)
        self.assertEqual(session.begin([8, 7]), [Begun(2, False, False), Begun(3, True, False)])

    def test_doubtful(self) -> None:
        """Whether the bus has what was begun on an earlier connection is asked once, unless it is known."""
        session = Session(1, 1, 1)
        session.begin([7, 8])
        session.stored([8, 9])
        session = self.kept(session)
        self.assertEqual(session.begin([7, 8]), [Begun(1, False, True), Begun(2, False, False)])
        self.assertEqual(session.begin([7]), [Begun(1, False, False)])

    def test_doubtful_until_stored(self) -> None:
        """What is being found out when the connection ends is doubtful on the next one again; what is known is not."""
        session = Session(1, 1, 1)
        session.begin([7])
        session = self.kept(session)
        session.begin([7])
        session = self.kept(session)
        self.assertEqual(session.begin([7]), [Begun(1, False, True)])
        session.stored([7])
        self.assertEqual(self.kept(session).begin([7]), [Begun(1, False, False)])

    def test_refused(self) -> None:
        """What the bus has certainly not taken is new if it is repeated, under another generation."""
        session = Session(1, 1, 1)
        session.begin([7])
        session.refused([7, 8], True)
        self.assertEqual(session.begin([7]), [Begun(2, True, False)])

    def test_refused_in_doubt(self) -> None:
        """What the bus may have taken stays the same message, and is asked for again."""
        session = Session(1, 1, 1)
        session.begin([7])
        session.refused([7], False)
        self.assertEqual(session.begin([7]), [Begun(1, False, True)])

    def test_refused_later(self) -> None:
        """A refusal says nothing about what an earlier connection has sent to the bus."""
        session = Session(1, 1, 1)
        session.begin([7])
        session = self.kept(session)
        session.begin([7])
        session.refused([7], True)
        self.assertEqual(session.begin([7]), [Begun(1, False, True)])

    def test_stored_is_not_refused(self) -> None:
        """What the bus has stays known until it is released, whatever becomes of other packets."""
        session = Session(1, 1, 1)
        session.begin([7])
        session.stored([7])
        for certain in (True, False):
            session.refused([7], certain)
            self.assertEqual(session.begin([7]), [Begun(1, False, False)])


class StateTests(SynchronousTestCase):
    """What is kept between connections, and what is sent again."""

    def test_empty(self) -> None:
        """A session in which everything is acknowledged and released keeps nothing but where its numbers are."""
        session = Session(3, 0, 1000)
        put(session, 1, 2, 2)
        session.pump(1000)
        session.begin([9])
        session.acknowledged(Ack(Type.PUBREC, (1, 2)))
        session.acknowledged(Ack(Type.PUBCOMP, (1, 2)))
        session.released(Ack(Type.PUBREL, (9,)))
        self.assertEqual(session.state(), {"next_id": 3, "generation": 1, "inbound": [], "flying": [], "waiting": []})

    def test_publishes_again(self) -> None:
        """[MQTT-4.4.0-1], [MQTT-3.3.1-1]: PUBLISH packets without PUBACK or PUBREC are sent again, under their
        identifiers, with DUP; [MQTT-4.6.0-1]: in their order."""
        session = Session(4, 0, 1000)
        session._next_id = 65534
        put(session, 1, 2, 2)
        put(session, 3, 4, 1)
        session.pump(1000)
        session, left = restored(session.state())
        packets_again = list(Decoder(1000).feed(again(session, left)))
        seen = []
        for packet in packets_again:
            assert isinstance(packet, Publish)
            self.assertTrue(packet.dup)
            seen += [(packet.qos, packet_id) for packet_id in packet.packet_ids]
        self.assertEqual(seen, [(2, 65534), (2, 65535), (1, 1), (1, 2)])

    def test_order_of_restored_ones(self) -> None:
        """[MQTT-4.6.0-1]: the order is the first sending's, on a third connection too, and before what waited."""
        session = Session(3, 0, 1000)
        put(session, 1, 5, 1)
        session.pump(1000)
        session.acknowledged(Ack(Type.PUBACK, (1,)))
        for _ in range(2):
            session, left = restored(session.state())
            self.assertEqual([one[0] for one in flags(again(session, left))], [b"2", b"3"])
            self.assertEqual([place[1] for _, place in left.waiting], [4, 5])

    def test_pubrel_again(self) -> None:
        """[MQTT-4.4.0-1]: after PUBREC it is PUBREL that is sent again, in the order of the deliveries."""
        session = Session(3, 0, 1000)
        put(session, 1, 3, 2)
        session.pump(1000)
        session.acknowledged(Ack(Type.PUBREC, (1, 3)))
        session, left = restored(session.state())
        data = again(session, left)
        self.assertEqual(
            data,
            acks(Type.PUBREL, [1]) + packets.publishes("t", [b"2"], 2, [2], dup=True) + acks(Type.PUBREL, [3]),
        )

    def test_acknowledged_before_resent(self) -> None:
        """[MQTT-4.3.3-1]: what the client acknowledges before it is sent again is not sent any more."""
        session = Session(3, 0, 1000)
        put(session, 1, 1, 1)
        put(session, 2, 3, 2)
        session.pump(1000)
        session, left = restored(session.state())
        session.acknowledged(Ack(Type.PUBACK, (1,)))
        session.acknowledged(Ack(Type.PUBREC, (2, 3)))
        session.acknowledged(Ack(Type.PUBCOMP, (3,)))
        self.assertEqual(again(session, left), acks(Type.PUBREL, [2]))
        self.assertEqual((session.in_flight, session._size), (1, 0))

    def test_numbers_go_on(self) -> None:
        """2.3.1: identifiers go on where they were, so that one that was used last is used again last."""
        session = Session(1, 0, 1000)
        put(session, 1, 1, 1)
        session.pump(1000)
        session.acknowledged(Ack(Type.PUBACK, (1,)))
        session, _ = restored(session.state())
        put(session, 2, 2, 1)
        self.assertEqual(sent(session.pump(1000)), [("t", b"2", 1, 2)])

    def test_identifiers_stay_in_use(self) -> None:
        """[MQTT-2.3.1-4]: identifiers of an earlier connection are in use, also those that wait for PUBCOMP."""
        session = Session(3, 0, 1000)
        put(session, 1, 2, 2)
        session.pump(1000)
        session.acknowledged(Ack(Type.PUBREC, (1,)))
        state = session.state()
        state["next_id"] = 1
        session, _ = restored(state)
        put(session, 3, 3, 1)
        self.assertEqual(sent(session.pump(1000)), [("t", b"3", 1, 3)])

    def test_window_of_restored_ones(self) -> None:
        """What was in flight counts against the window before it is sent again, and against the bytes after."""
        session = Session(2, 0, 1000)
        put(session, 1, 2, 1)
        session.pump(1000)
        session, left = restored(session.state(), window=2)
        self.assertTrue(session.busy)
        self.assertEqual(session._size, 0)
        put(session, 3, 3, 1)
        self.assertEqual(session.pump(1000), b"")
        again(session, left)
        self.assertEqual(session._size, 3)
        session.acknowledged(Ack(Type.PUBACK, (1, 2)))
        self.assertEqual(session._size, 1)

    def test_narrower_window(self) -> None:
        """More may be in flight from earlier than the window allows now: nothing is added until there is room."""
        session = Session(3, 0, 1000)
        put(session, 1, 3, 1)
        session.pump(1000)
        session, left = restored(session.state(), window=1)
        self.assertEqual(len(flags(again(session, left))), 3)
        put(session, 4, 4, 1)
        session.acknowledged(Ack(Type.PUBACK, (1, 2)))
        self.assertEqual(session.pump(1000), b"")
        session.acknowledged(Ack(Type.PUBACK, (3,)))
        self.assertEqual([one[1] for one in sent(session.pump(1000))], [b"4"])

    def test_waiting_is_kept(self) -> None:
        """[MQTT-3.1.2-5]: what waited is a part of the state until it waits again, whenever the connection ends."""
        session = Session(2, 0, 1000)
        put(session, 1, 5, 1)
        session.pump(1000)
        session, left = restored(session.state(), window=2)
        first = session.state()["waiting"]
        self.assertEqual([sequence for _, _, sequence, _ in first], [3, 4, 5])
        put(session, 3, 4, 1)
        del left.waiting[:2]
        self.assertEqual(session.state()["waiting"], first)
        session, left = restored(session.state(), window=2)
        self.assertEqual([place for _, place in left.waiting], places(3, 5))

    def test_gone_at_qos_1(self) -> None:
        """A QoS 1 delivery that history has let go is given up, and its identifier is free."""
        session = Session(3, 0, 1000)
        put(session, 1, 2, 1)
        session.pump(1000)
        session, _ = restored(session.state())
        self.assertEqual(flags(session.resend([1, 2], found(places(2, 2)))), [(b"2", True, False)])
        self.assertEqual((session.in_flight, session._size), (1, 1))

    def test_gone_at_qos_2(self) -> None:
        """[MQTT-4.3.3-1]: at QoS 2 the client may have it: its identifier is released before it means another one."""
        session = Session(3, 0, 1000)
        put(session, 1, 1, 2)
        session.pump(1000)
        session, left = restored(session.state())
        self.assertEqual(session.resend([1], {}), acks(Type.PUBREL, [1]))
        self.assertEqual(session.in_flight, 1)
        session, left = restored(session.state())
        self.assertEqual(again(session, left), acks(Type.PUBREL, [1]))
        session.acknowledged(Ack(Type.PUBCOMP, (1,)))
        self.assertEqual(session.in_flight, 0)

    def test_retained_again(self) -> None:
        """[MQTT-3.3.1-8]: a retained message is sent again as one."""
        session = Session(1, 0, 1000)
        session.put("t", numbers(1, 2), 1, places(1, 2, "~alice_shop_"), retain=True)
        session.pump(1000)
        session, left = restored(session.state())
        self.assertEqual(left.waiting, [(1, ("~alice_shop_", 2, False))])
        self.assertEqual(flags(again(session, left)), [(b"1", True, True)])

    def test_without_place(self) -> None:
        """What cannot be read again (a group's message, which goes to another member) is not kept."""
        session = Session(1, 0, 1000)
        session.put("t", numbers(1, 2), 1, [None, None], tokens=[1, 2])
        session.pump(1000)
        state = session.state()
        self.assertEqual((state["flying"], state["waiting"]), ([], []))


class OutboundMachine(RuleBasedStateMachine):
    """A client that acknowledges whenever and whatever it likes, against a session with narrow bounds."""

    WINDOW, MESSAGES, BYTES = 4, 6, 60

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(self.WINDOW, self.MESSAGES, self.BYTES)
        self.expected: deque[tuple[str, bytes, int]] = deque()  # taken by the session, not yet seen by the client
        self.unacknowledged: dict[int, tuple[bytes, int]] = {}  # seen by the client: payload and QoS
        self.received: set[int] = set()  # QoS 2 deliveries that the client answered by PUBREC
        self.serial = 0

    def see(self, data: bytes) -> None:
        for topic, payload, qos, packet_id in sent(data):
            assert (topic, payload, qos) == self.expected.popleft(), "out of order"
            assert packet_id not in self.unacknowledged, "an identifier in use"
            self.unacknowledged[packet_id] = (payload, qos)

    @rule(
        topic=st.sampled_from("ab"),
        sizes=st.lists(st.integers(0, 20), min_size=1, max_size=5),
        qos=st.integers(1, 2),
        hold=st.booleans(),
    )
    def deliver(self, topic: str, sizes: list[int], qos: int, hold: bool) -> None:
        payloads = []
        for size in sizes:
            self.serial += 1
            payloads.append(str(self.serial).encode().ljust(size, b"."))
        before = self.session.in_flight, self.session.waiting, self.session._size
        try:
            data = self.session.deliver(topic, payloads, qos, hold=hold)
        except QueueFull:
            assert before == (self.session.in_flight, self.session.waiting, self.session._size)
            return
        self.expected.extend((topic, payload, qos) for payload in payloads)
        assert not (hold and data)
        self.see(data)

    @rule()
    def pump(self) -> None:
        self.see(self.session.pump(1000))
        assert not self.session.waiting or self.session.in_flight == self.WINDOW

    @precondition(lambda self: self.unacknowledged)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        packet_id = data.draw(st.sampled_from(sorted(self.unacknowledged)))
        _, qos = self.unacknowledged[packet_id]
        if qos == 1:
            del self.unacknowledged[packet_id]
            assert self.session.acknowledged(Ack(Type.PUBACK, (packet_id,))) == b""
        elif packet_id not in self.received or data.draw(st.booleans()):
            self.received.add(packet_id)
            assert self.session.acknowledged(Ack(Type.PUBREC, (packet_id,))) == acks(Type.PUBREL, (packet_id,))
        else:
            self.received.discard(packet_id)
            del self.unacknowledged[packet_id]
            assert self.session.acknowledged(Ack(Type.PUBCOMP, (packet_id,))) == b""

    @rule(kind=st.sampled_from([Type.PUBACK, Type.PUBCOMP, Type.PUBREC]), packet_id=st.integers(1, 65535))
    def answer_unknown(self, kind: Type, packet_id: int) -> None:
        if packet_id not in self.unacknowledged:
            self.session.acknowledged(Ack(kind, (packet_id,)))

    @invariant()
    def within_bounds(self) -> None:
        session = self.session
        assert session.in_flight == len(self.unacknowledged) <= self.WINDOW
        assert session.waiting == len(self.expected) <= self.MESSAGES
        kept = sum(
            len(payload) for packet_id, (payload, _) in self.unacknowledged.items() if packet_id not in self.received
        )
        assert session._size == kept + sum(len(payload) for _, payload, _ in self.expected) <= self.BYTES

    def teardown(self) -> None:
        """The client acknowledges all: then nothing is left behind, and everything came."""
        session = self.session
        while self.unacknowledged or session.waiting:
            self.see(session.pump(1000))
            ones = tuple(one for one, (_, qos) in self.unacknowledged.items() if qos == 1)
            twos = tuple(one for one, (_, qos) in self.unacknowledged.items() if qos == 2)
            session.acknowledged(Ack(Type.PUBACK, ones))
            session.acknowledged(Ack(Type.PUBREC, twos))
            session.acknowledged(Ack(Type.PUBCOMP, twos))
            self.unacknowledged.clear()
        assert not self.expected
        assert (session.in_flight, session.waiting, session._size) == (0, 0, 0)


class ModelTests(SynchronousTestCase):
    """The session against its model."""

    def test_outbound(self) -> None:
        """Whatever the client does, every delivery comes once and in order, bounds hold, and nothing is left."""
        run_state_machine_as_test(
            OutboundMachine, settings=settings(max_examples=100, stateful_step_count=40, deadline=None, database=None)
        )
