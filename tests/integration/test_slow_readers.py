"""Clients that do not read: what they cost is bounded, others get everything without them, and nothing is lost."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from flowgate.mqtt import packets
from flowgate.mqtt.packets import Bare, Connect, Publish
from flowgate.websocket import frames
from tests.integration.gateway import (
    PATIENCE,
    EventStream,
    MqttClient,
    RunningGateway,
    WebSocketClient,
    read_to_end,
    until,
)
from tests.integration.storm import EventReader, Reader, WebSocketReader

SLOW = 40
"""Readers that do not read, each of a topic of its own: so no two of them wait for the same bytes."""

MOST = 2 << 20
"""Bytes of memory that one of them may cost."""

EACH = 5 << 19
"""Bytes that are published on each topic: more than the kernel takes for a peer that does not read, and the gateway."""


def silent(port: int, said: Sequence[bytes]) -> socket.socket:
    """A connection that says something, waits for an answer to each but the last, and then reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    for index, one in enumerate(said):
        if index:
            sock.recv(1024)
        sock.sendall(one)
    return sock


def received(sock: socket.socket) -> Iterator[bytes]:
    """What comes once the client reads again."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    while data := sock.recv(1 << 18):
        yield data


class Others:
    """Clients of all protocols that read a topic."""

    def __init__(self, gateway: RunningGateway, token: str, topic: str) -> None:
        self._mqtt = MqttClient(gateway.mqtt, token)
        self._mqtt.subscribe(topic, qos=0)
        self._websocket = WebSocketClient(gateway.http, token)
        self._websocket.subscribe(topic)
        self._events = EventStream(gateway.http, token, (topic,))

    def receive(self, count: int) -> list[list[int]]:
        """Wait for so many messages with each; the numbers in them."""
        return [
            [int(json.loads(payload)["data"]) for _, payload, _ in self._mqtt.receive(count)],
            [int(frame["data"]["data"]) for frame in self._websocket.receive(count)],
            [int(event["data"]["data"]["data"]) for event in self._events.receive(count)],
        ]

    def close(self) -> None:
        self._mqtt.close()
        self._websocket.close()
        self._events.close()


class SlowReaderTests(SynchronousTestCase):
    """Forty of them."""

    def setUp(self) -> None:
        self.gateway = RunningGateway(
            config='[history]\nmessages = 100000\n[[topics]]\nfilter = "live/#"\nhistory = false\n'
        )
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")
        self.publisher = MqttClient(self.gateway.mqtt, self.token)
        self.addCleanup(self.publisher.close)
        self.others: Others | None = None
        self.number = 0

    def publish(self, topics: Sequence[str], count: int, size: int) -> list[int]:
        """Publish messages that are numbered; return the numbers."""
        numbers = list(range(self.number, self.number + count))
        self.number += count
        payloads = [b'{"data":"%d","more":"%b"}' % (number, bytes(size).replace(b"\0", b"x")) for number in numbers]
        self.publisher.send(b"".join(packets.publishes(topic, payloads) for topic in topics))
        return numbers

    def load(self, kind: str, size: int) -> int:
        """Publish on all topics; the others read each message before the next ones are published.

        :param kind: how the topics of the slow ones begin.
        :param size: of a message.
        :returns: the most bytes that the gateway ever had in memory.
        """
        if self.others is None:
            self.others = Others(self.gateway, self.token, f"{kind}/all")
            self.addCleanup(self.others.close)
        topics = [f"{kind}/{index}" for index in range(SLOW)]
        some = max(1, 65536 // size)
        for _ in range(EACH // (some * size)):
            numbers = self.publish([*topics, f"{kind}/all"], some, size)
            self.assertEqual(self.others.receive(some), [numbers] * 3)
        self.publisher.flush()
        return self.peak()

    def peak(self) -> int:
        process = self.gateway.process
        assert process is not None
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) << 10

    def check(
        self, kind: str, connect: Callable[[str], socket.socket], size: int = 1024
    ) -> tuple[list[socket.socket], range]:
        """The others get everything while these read nothing, and these cost no more than they may.

        :returns: the slow ones, and the numbers that were published on the topic of each.
        """
        self.load(kind, size)
        before = self.load(kind, size)
        first = self.number
        socks = [connect(f"{kind}/{index}") for index in range(SLOW)]
        for sock in socks:
            self.addCleanup(sock.close)
        self.load(kind, size)
        cost = (self.load(kind, size) - before) // SLOW
        self.assertLess(cost, MOST, f"{kind} {size}: {cost >> 10} KiB each")
        self.assertNotIn("Traceback", self.gateway.log())
        return socks, range(first, self.number)

    def cut(self, kind: str) -> int:
        """How many of a kind were cut off because they do not read."""
        text: bytes = self.gateway.request("GET", "/metrics")[1]
        lines = [one for one in text.decode().splitlines() if one.startswith("flowgate_clients_cut_total{")]
        return sum(int(float(one.rpartition(" ")[2])) for one in lines if kind in one and "slow" in one)

    # -- what history holds

    def request(self, kind: type[Reader], topic: str) -> Reader:
        """A reader of what is published from now on."""
        status, answer = self.gateway.request("POST", "/api/v1/publish", {"topic": "o", "message": ""}, self.token)
        self.assertEqual(status, 200, answer)
        return kind(topic, self.token, answer["id"])

    def events(self, topic: str) -> socket.socket:
        self.readers.append(self.request(EventReader, topic))
        return silent(self.gateway.http, [self.readers[-1].request()])

    def websocket(self, topic: str) -> socket.socket:
        reader = self.request(WebSocketReader, topic)
        sock = silent(self.gateway.http, [reader.request()])
        sock.recv(1024)
        reader.socket = sock
        reader.take(b"HTTP/1.1 101 \r\n\r\n")
        self.readers.append(reader)
        return sock

    def check_waits(self, kind: type[Reader], connect: Callable[[str], socket.socket], size: int = 1024) -> None:
        """Such readers wait in history: when they read again they get everything, in order."""
        self.readers: list[Reader] = []
        socks, numbers = self.check("stored", connect, size)
        for reader, sock in list(zip(self.readers, socks, strict=True))[::13]:
            for data in received(sock):
                self.assertTrue(reader.take(data))
                if len(reader.seen) >= len(numbers):
                    break
            self.assertEqual((list(reader.seen), reader.gaps), (list(numbers), 0))

    def test_stored_events(self) -> None:
        """Server-Sent Events."""
        self.check_waits(EventReader, self.events)

    def test_large_stored_events(self) -> None:
        """The same with large messages, of which few fill a buffer."""
        self.check_waits(EventReader, self.events, 100_000)

    def test_websocket(self) -> None:
        """A WebSocket that reads history."""
        self.check_waits(WebSocketReader, self.websocket)

    # -- what it does not

    def live_events(self, topic: str) -> socket.socket:
        sock = silent(self.gateway.http, [self.request(EventReader, topic).request()])
        sock.recv(1)  # the answer has begun, so it reads already
        return sock

    def live_websocket(self, topic: str) -> socket.socket:
        request = WebSocketReader(topic, self.token, "").request()
        subscribe = json.dumps({"action": "subscribe", "topic": topic, "id": 1}).encode()
        sock = silent(self.gateway.http, [request, bytes([0x81, 0x80 | len(subscribe)]) + bytes(4) + subscribe])
        sock.recv(1)
        return sock

    def mqtt(self, topic: str) -> socket.socket:
        connect = packets.connect(Connect("", user_name="Bearer", password=self.token.encode()))
        sock = silent(self.gateway.mqtt, [connect, packets.subscribe(1, [(topic, 0)])])
        sock.recv(1024)
        return sock

    def test_live_events(self) -> None:
        """Server-Sent Events that history does not hold: such readers are cut off."""
        socks, _ = self.check("live", self.live_events)
        until(lambda: self.cut("sse") == SLOW, "all are cut off")
        for sock in socks:
            read_to_end(sock)

    def test_live_websocket(self) -> None:
        """A WebSocket of live messages: such readers are cut off."""
        socks, _ = self.check("live", self.live_websocket)
        until(lambda: self.cut("websocket") == SLOW, "all are cut off")
        for sock in socks:
            read_to_end(sock)

    def test_close_code(self) -> None:
        """Who is cut off from live messages and reads then is told why; what it was sent before that is in order."""
        with self.live_websocket("live/0") as sock:
            while not self.cut("websocket"):
                self.publish(["live/0"], 64, 1024)
            told = read_to_end(sock)
            numbers = [int(one) for one in re.findall(rb'"data":"(\d+)"', told)]
            self.assertEqual(numbers, list(range(len(numbers))))
            self.assertGreater(len(numbers), 0)
            self.assertEqual(told[-12:], b"\x88\x0a" + frames.SLOW.to_bytes(2, "big") + b"too slow")

    def test_mqtt(self) -> None:
        """MQTT at QoS 0: messages are lost to such readers, and they stay; what comes later they get."""
        socks, numbers = self.check("live", self.mqtt)
        for index, sock in list(enumerate(socks))[::13]:
            seen: list[int] = []
            decoder = packets.Decoder(1 << 24)
            sock.sendall(packets.PINGREQ)
            for data in received(sock):
                for packet in decoder.feed(data):
                    if isinstance(packet, Bare):  # all that was kept for it has come
                        (last,) = self.publish([f"live/{index}"], 1, 10)
                    elif isinstance(packet, Publish):
                        seen += [int(json.loads(payload)["data"]) for payload in packet.payloads()]
                if seen and seen[-1] > numbers[-1]:
                    break
            self.assertEqual(seen[-1], last)
            self.assertEqual(seen, sorted(set(seen)))
            self.assertLess(len(seen), len(numbers))
