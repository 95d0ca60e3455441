"""The MQTT 3.1.1 session: what a client may send when, and the delivery protocols both ways."""

from __future__ import annotations

from collections import deque

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
from flowgate.mqtt.session import QueueFull, Session, State, check_allowed

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


def numbers(first: int, last: int) -> list[bytes]:
    return [str(number).encode() for number in range(first, last + 1)]


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


class InboundTests(SynchronousTestCase):
    """QoS 2 publishes of the client."""

    def test_new_once(self) -> None:
        """[MQTT-4.3.3-2]: a PUBLISH that comes again before its PUBREL is the same message."""
        session = Session(1, 1, 1)
        self.assertEqual(session.begin([1, 2]), [True, True])
        self.assertEqual(session.begin([2, 3]), [False, True])

    def test_new_once_in_one_run(self) -> None:
        """Also when both came in one read."""
        self.assertEqual(Session(1, 1, 1).begin([7, 7, 8]), [True, False, True])

    def test_released(self) -> None:
        """[MQTT-4.3.3-2]: PUBREL is answered by PUBCOMP; after it the identifier stands for a new message."""
        session = Session(1, 1, 1)
        session.begin([5, 6])
        self.assertEqual(session.released(Ack(Type.PUBREL, (6, 5))), acks(Type.PUBCOMP, (6, 5)))
        self.assertEqual(session.begin([5, 6]), [True, True])

    def test_unknown_release(self) -> None:
        """[MQTT-4.3.3-2]: a PUBREL for an identifier that is not known is answered too."""
        session = Session(1, 1, 1)
        self.assertEqual(session.released(Ack(Type.PUBREL, (9,))), acks(Type.PUBCOMP, (9,)))

    def test_own_numbers(self) -> None:
        """2.3.1: the client's identifiers and ours are apart: neither direction touches the other."""
        session = Session(2, 1, 10)
        session.deliver("t", [b"a"], 2)
        self.assertEqual(session.begin([1]), [True])
        session.released(Ack(Type.PUBREL, (1,)))
        self.assertEqual(session.in_flight, 1)


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
