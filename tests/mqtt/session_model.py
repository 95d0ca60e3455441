"""A small model of all that a durable MQTT session lives between: stream, store, bus, a node, and a strict client.

The node follows the rules of ``flowgate/mqtt/session.py`` about what is kept before what is sent; the client is as
strict as section 4.3 lets it be, and asserts.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable

import attrs

from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Decoder, Publish, Type, acks
from flowgate.mqtt.session import Place, Restored, Session

SPACE = "u_a_"
TOPICS = ("a", "b")
STREAM, RETAINED, SHARED = b"mrs"
"""What a payload begins with: where the message is from.  Its QoS and number follow, and filling."""
LARGEST = 10_000
CLIENT_IDS = range(1, 5)
"""Few, so that the client uses each again and again."""
STRANGE_ID = 30_000
"""An identifier that neither side uses."""


@attrs.frozen
class Message:
    """One message for the client; ``number`` is its sequence, or its token in a shared subscription."""

    kind: int
    number: int
    topic: str
    qos: int
    size: int = 0

    @property
    def payload(self) -> bytes:
        return b"%c%d%d" % (self.kind, self.qos, self.number) + b"." * self.size


@attrs.define
class Write:
    """QoS 2 publishes on their way to the bus.

    :ivar done: told what became of them: stored, refused, or unknown (``None``).
    """

    topic: str
    payloads: list[tuple[int, bytes]]
    done: Callable[[bool | None], None]


class World:
    """What survives the node: messages for the client, what the bus has of the client's, and what the store keeps.

    :ivar doubted: up to which number a node that crashed may have sent messages at QoS 1 that it did not keep.
    """

    def __init__(self) -> None:
        self.stream: list[Message] = []
        self.gone: set[int] = set()
        self.retained: list[Message] = []
        self.doubted = {STREAM: 0, RETAINED: 0}
        self.shared: dict[int, Message] = {}
        self.saved: bytes | None = None
        self.bus: deque[Write] = deque()
        self.stored: list[tuple[str, bytes]] = []
        self._known: set[int] = set()
        self._numbers = 0

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def store(self, topic: str, qos: int, sizes: Iterable[int]) -> None:
        """Have messages in the stream."""
        for size in sizes:
            number = len(self.stream) + 1
            self.stream.append(Message(STREAM, number, topic, qos, size))

    def may_have(self, message: Message) -> bool:
        """Whether the client may have a message at QoS 1 although the store does not know."""
        return message.qos == 1 and message.number <= self.doubted[message.kind]

    def find(self, places: Iterable[Place]) -> dict[Place, Message]:
        """Read again what was delivered."""
        found = {}
        for place in places:
            prefix, sequence, _ = place
            if prefix == "~" + SPACE:
                found[place] = self.retained[sequence - 1]
            elif sequence not in self.gone:
                found[place] = self.stream[sequence - 1]
        return found

    def take_write(self, answer: bool | None, stored: bool) -> None:
        """Have the bus take its next write, or not, and answer."""
        write = self.bus.popleft()
        if stored:
            for generation, payload in write.payloads:
                if generation not in self._known:
                    self._known.add(generation)
                    self.stored.append((write.topic, payload))
        write.done(answer)


class Node:
    """The gateway's side of one connection of the client.

    :ivar most: more is never in flight.
    """

    def __init__(self, world: World, window: int, queue_bytes: int) -> None:
        self._world = world
        self._decoder = Decoder(LARGEST)
        self._promises: deque[_Promise] = deque()
        self._then: list[Callable[[], None]] = []
        self._wanted = False
        self._writing: tuple[bytes, list[Callable[[], None]]] | None = None
        self._holding = 0
        self._closed = False
        self._resent = 0
        self._cursor = 0
        self._restored: Restored | None = None
        self.session = Session(window, 0, queue_bytes)
        self.wire: deque[bytes] = deque()
        self.size = 1000
        self.most = window
        self.shared: set[int] = set()
        self.finished: list[int] = []
        if world.saved is not None:
            saved = json.loads(world.saved)
            self._cursor = saved["cursor"]
            self._restored = self.session.restore(saved["session"])
            self.most = max(window, len(self._restored.flying))

    # -- what is kept

    def _encode(self) -> bytes:
        return json.dumps({"cursor": self._cursor, "session": self.session.state()}).encode()

    def _changed(self, then: Callable[[], None] | None = None) -> None:
        self._wanted = True
        if then is not None:
            self._then.append(then)

    def begin_write(self) -> None:
        if self._wanted and self._writing is None:
            self._wanted = False
            self._writing = self._encode(), self._then
            self._then = []

    def end_write(self) -> None:
        if self._writing is not None:
            (self._world.saved, then), self._writing = self._writing, None
            for one in then:
                one()

    def close(self) -> None:
        """The connection is lost, and the session is kept as it is."""
        self._closed = True
        self._world.saved = self._encode()

    def crash(self, written: bool) -> None:
        """The node is gone; a write that was under way may have arrived."""
        self._closed = True
        world = self._world
        world.doubted = {STREAM: len(world.stream), RETAINED: len(world.retained)}
        if written and self._writing is not None:
            self._world.saved = self._writing[0]

    # -- to the client

    def _send(self, data: bytes) -> None:
        if data and not self._closed:
            self.wire.append(data)

    def _send_kept(self, data: bytes) -> None:
        self._changed(lambda: self._send(data))

    def _send_deliveries(self, data: bytes) -> None:
        if not self.session.unsaved and not self._holding:
            self._send(data)
            return
        self._holding += 1

        def kept() -> None:
            self._holding -= 1
            self._send(data)

        self._changed(kept)

    def pump(self) -> None:
        data = self.session.pump(self.size)
        if data:
            self._send_deliveries(data)

    @property
    def going_on(self) -> bool:
        """Whether all that was left of earlier connections is sent, or waits."""
        restored = self._restored
        return restored is None or (self._resent == len(restored.flying) and not restored.waiting)

    def resend(self, count: int) -> None:
        """Go on with what was left of earlier connections."""
        restored = self._restored
        if restored is None:
            return
        flying = restored.flying[self._resent : self._resent + count]
        if flying:
            self._resent += len(flying)
            found = self._world.find(place for _, place in flying)
            content = {place: (message.topic, message.payload) for place, message in found.items()}
            self._send(self.session.resend([packet_id for packet_id, _ in flying], content))
        elif not self.session.busy:
            pieces = restored.waiting[:count]
            found = self._world.find(place for _, place in pieces)
            for qos, place in pieces:
                message = found.get(place)
                if message is not None:
                    dup = self._world.may_have(message)
                    retain = message.kind == RETAINED
                    self.session.put(message.topic, [message.payload], qos, [place], retain=retain, dup=dup)
            del restored.waiting[: len(pieces)]
            self.pump()

    @property
    def behind(self) -> bool:
        return self._cursor < len(self._world.stream)

    def read(self, count: int) -> None:
        """Go on in the stream."""
        last = min(self._cursor + count, len(self._world.stream))
        while self.going_on and self._cursor < last and not self.session.busy:
            run: list[Message] = []
            for message in self._world.stream[self._cursor : last]:
                if run and (message.topic, message.qos) != (run[0].topic, run[0].qos):
                    break
                self._cursor = message.number
                if message.number not in self._world.gone:
                    run.append(message)
            if run:
                topic, qos, dup = run[0].topic, run[0].qos, self._world.may_have(run[0])
                places = [(SPACE, message.number, False) for message in run]
                self.session.put(topic, [message.payload for message in run], qos, places, dup=dup)
                self.pump()
            self._changed()

    def deliver_retained(self, messages: Iterable[Message]) -> None:
        for message in messages:
            place = "~" + SPACE, message.number, False
            self.session.put(message.topic, [message.payload], message.qos, [place], retain=True)
        self.pump()

    def deliver_shared(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.shared.add(message.number)
            self.session.put(message.topic, [message.payload], 1, [None], tokens=[message.number])
        self.pump()

    # -- from the client

    def receive(self, data: bytes) -> None:
        for packet in self._decoder.feed(data):
            if isinstance(packet, Publish):
                self._publish(packet)
            else:
                assert isinstance(packet, Ack)
                self._acknowledged(packet)

    def _acknowledged(self, packet: Ack) -> None:
        session = self.session
        reply = session.released(packet) if packet.type == Type.PUBREL else session.acknowledged(packet)
        if reply:
            self._send_kept(reply)
        else:
            self._changed()
        if session.waiting:
            self.pump()
        for token in session.finished:
            assert isinstance(token, int)
            self.finished.append(token)
        session.finished = []

    def _publish(self, packet: Publish) -> None:
        world, topic = self._world, packets.text(packet.topic)
        begun = self.session.begin(packet.packet_ids)
        promise = _Promise(acks(Type.PUBREC, packet.packet_ids))
        self._promises.append(promise)
        ones = list(zip(packet.packet_ids, packet.payloads(), begun, strict=True))
        fresh = [(packet_id, one.generation, payload) for packet_id, payload, one in ones if one.fresh]
        if fresh:
            write = self._write(topic, fresh, promise)
            self._changed(lambda: None if self._closed else world.bus.append(write))
        for packet_id, payload, one in ones:
            if one.doubtful:
                world.bus.append(self._write(topic, [(packet_id, one.generation, payload)], promise))
        self._keep()

    def _write(self, topic: str, ones: list[tuple[int, int, bytes]], promise: _Promise) -> Write:
        promise.writes += 1
        packet_ids = [packet_id for packet_id, _, _ in ones]

        def done(answer: bool | None) -> None:
            if self._closed:
                return
            promise.writes -= 1
            if answer:
                self.session.stored(packet_ids)
            else:
                self.session.refused(packet_ids, answer is False)
                promise.reply = b""
            self._changed()
            self._keep()

        return Write(topic, [(generation, payload) for _, generation, payload in ones], done)

    def _keep(self) -> None:
        while self._promises and not self._promises[0].writes:
            self._send(self._promises.popleft().reply)

    @property
    def restless(self) -> bool:
        """Whether there is something to do that does not wait for anybody else."""
        unsent = self._restored is not None and self._resent < len(self._restored.flying)
        more = not self.going_on or self.behind or self.session.waiting
        return bool(self._wanted or self._writing or self.wire or unsent or (more and not self.session.busy))


@attrs.define
class _Promise:
    """PUBREC packets that are owed once some writes are done."""

    reply: bytes
    writes: int = 0


@attrs.define
class _Sending:
    """A QoS 2 publish of the client: until PUBREC, then until PUBCOMP."""

    topic: str
    payload: bytes
    released: bool = False

    def packet(self, packet_id: int, dup: bool) -> bytes:
        if self.released:
            return acks(Type.PUBREL, [packet_id])
        return packets.publishes(self.topic, [self.payload], 2, [packet_id], dup=dup)


class Client:
    """A client that keeps its session, and asserts what section 4.3 promises it.

    :ivar got: what its application was given, by topic and quality of service.
    :ivar open: on this connection: identifiers of deliveries that it has not answered to the end.
    :ivar owed: answers that it has still to send, in order ([MQTT-4.6.0-2], [MQTT-4.6.0-3]).
    """

    def __init__(self) -> None:
        self.got: dict[tuple[int, str, int], list[int]] = {}
        self.published: list[tuple[str, bytes]] = []
        self.sending: dict[int, _Sending] = {}
        self.received: dict[int, tuple[str, bytes]] = {}
        self.acknowledged: set[int] = set()
        self.connect(False)

    def connect(self, present: bool = True) -> None:
        """Begin a connection: send again what is not finished ([MQTT-4.4.0-1])."""
        self.open: dict[int, int] = {}
        self.owed: deque[tuple[Type, int]] = deque()
        self.wire: deque[bytes] = deque()
        self.repeated = False
        self._expected: Counter[int] = Counter()
        self._decoder = Decoder(LARGEST)
        self._shared: dict[int, int] = {}
        if present:
            for packet_id in self.sending:
                self._send(packet_id, True)

    # -- its own messages

    def _send(self, packet_id: int, dup: bool) -> None:
        self._expected[packet_id] += 1
        self.wire.append(self.sending[packet_id].packet(packet_id, dup))

    def publish(self, topic: str, size: int) -> None:
        """Publish at QoS 2, if there is an identifier that nothing more is to come for ([MQTT-2.3.1-2])."""
        for packet_id in CLIENT_IDS:
            if packet_id not in self.sending and not self._expected[packet_id]:
                payload = b"%d" % len(self.published) + b"." * size
                self.published.append((topic, payload))
                self.sending[packet_id] = _Sending(topic, payload)
                self._send(packet_id, False)
                return

    def repeat(self, packet_id: int) -> None:
        """Send a PUBLISH or PUBREL once more on the same connection: section 4.4 does not forbid that."""
        self.repeated = True
        self._send(packet_id, True)

    # -- deliveries

    def receive(self, data: bytes) -> None:
        for packet in self._decoder.feed(data):
            if isinstance(packet, Publish):
                topic = packets.text(packet.topic)
                for packet_id, payload in zip(packet.packet_ids, packet.payloads(), strict=True):
                    assert packet.retain is (payload[0] == RETAINED), "[MQTT-3.3.1-8], [MQTT-3.3.1-9]"
                    self._delivered(packet_id, topic, packet.qos, packet.dup, payload)
            else:
                assert isinstance(packet, Ack)
                for packet_id in packet.packet_ids:
                    self._answered(packet.type, packet_id)

    def _delivered(self, packet_id: int, topic: str, qos: int, dup: bool, payload: bytes) -> None:
        assert packet_id not in self.open, "an identifier in use ([MQTT-2.3.1-4])"
        assert payload[1:2] == b"%d" % qos, "another quality of service"
        self.open[packet_id] = qos
        if qos == 1:
            assert packet_id not in self.received, "an identifier in use ([MQTT-2.3.1-4])"
            assert self._give(topic, qos, payload) or dup or payload[0] == SHARED, "a repetition without DUP"
            self.owed.append((Type.PUBACK, packet_id))
            if payload[0] == SHARED:
                self._shared[packet_id] = int(payload[2:])
            return
        if packet_id in self.received:
            assert self.received[packet_id] == (topic, payload), "another message under an identifier not released"
            assert dup, "a repetition without DUP"
        else:
            assert self._give(topic, qos, payload), "delivered twice at QoS 2"
            self.received[packet_id] = topic, payload
        self.owed.append((Type.PUBREC, packet_id))

    def _give(self, topic: str, qos: int, payload: bytes) -> bool:
        """Give a message to the application; tell whether it is new to it."""
        kind, number = payload[0], int(payload[2:].rstrip(b"."))
        got = self.got.setdefault((kind, topic, qos), [])
        if number in got:
            return False
        assert not got or kind != STREAM or got[-1] < number, "out of order ([MQTT-4.6.0-6])"
        got.append(number)
        return True

    def _answered(self, kind: Type, packet_id: int) -> None:
        if kind == Type.PUBREL:
            self.received.pop(packet_id, None)
            self.owed.append((Type.PUBCOMP, packet_id))
            return
        sending = self.sending.get(packet_id)
        self._expected[packet_id] -= 1
        assert self._expected[packet_id] >= 0 or packet_id == STRANGE_ID, "an answer to nothing"
        if packet_id == STRANGE_ID:
            assert kind == Type.PUBCOMP
        elif kind == Type.PUBREC:
            if sending is not None and not sending.released:
                sending.released = True
                self._send(packet_id, False)
        else:
            assert kind == Type.PUBCOMP
            assert sending is None or sending.released, "PUBCOMP without PUBREL"
            self.sending.pop(packet_id, None)

    def answer(self, kind: Type, count: int) -> None:
        """Send the first answers of one type that are owed, in order."""
        for _ in range(count):
            first = next((one for one in self.owed if one[0] == kind), None)
            if first is None:
                return
            self.owed.remove(first)
            _, packet_id = first
            if kind != Type.PUBREC:
                self.open.pop(packet_id, None)
            if packet_id in self._shared:
                self.acknowledged.add(self._shared.pop(packet_id))
            self.wire.append(acks(kind, [packet_id]))

    def early(self) -> list[tuple[Type, int]]:
        """Answers that are wrong for what is open: of another quality of service, or too early."""
        twos = [packet_id for kind, packet_id in self.owed if kind == Type.PUBREC]
        ones = [packet_id for packet_id, qos in self.open.items() if qos == 1]
        return [(Type.PUBACK, one) for one in twos] + [(Type.PUBCOMP, one) for one in (*twos, *ones)]

    def send_strange(self, kind: Type, packet_id: int) -> None:
        """Send an acknowledgement that answers nothing."""
        self.wire.append(acks(kind, [packet_id]))
