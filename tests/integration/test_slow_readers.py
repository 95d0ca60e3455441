"""What clients cost that do not read: measured memory of the process, and the time of others."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

from twisted.trial.unittest import SynchronousTestCase

from flowgate.mqtt import packets
from flowgate.mqtt.packets import Connect
from tests.integration.gateway import PATIENCE, MqttClient, RunningGateway
from tests.integration.storm import EventReader, WebSocketReader

SLOW = 40
"""Readers that do not read, each of a topic of its own: so no two of them wait for the same bytes."""

MOST = 2 << 20
"""Bytes of memory that one of them may cost."""

EACH = 5 << 19
"""Bytes that are published on each topic: more than the kernel takes for a peer that does not read, and the gateway."""


class Peak(Thread):
    """Watches how large a process gets."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="peak")
        self._file = Path(f"/proc/{pid}/statm")
        self._end = Event()
        self._peak = 0
        self.start()

    def run(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            self._peak = max(self._peak, int(self._file.read_text().split()[1]) * page)
            if self._end.wait(0.02):
                return

    def end(self) -> int:
        """End, and tell the most bytes that it had in memory."""
        self._end.set()
        self.join()
        return self._peak


class Drain(Thread):
    """Reads all that comes on some connections, and throws it away."""

    def __init__(self, socks: Sequence[socket.socket]) -> None:
        super().__init__(name="drain")
        self._socks = socks
        self._end = Event()
        self.start()

    def run(self) -> None:
        buffer = bytearray(1 << 18)
        while not self._end.is_set():
            for sock in select.select(self._socks, (), (), 0.05)[0]:
                sock.recv_into(buffer)

    def end(self) -> None:
        """Read no more, and close."""
        self._end.set()
        self.join()
        for sock in self._socks:
            sock.close()


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


class SlowReaderTests(SynchronousTestCase):
    """Forty of them."""

    def setUp(self) -> None:
        self.gateway = RunningGateway(config='[[topics]]\nfilter = "live/#"\nhistory = false\n')
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")
        self.origin: str = self.gateway.request("POST", "/api/v1/publish", {"topic": "o", "message": ""}, self.token)[
            1
        ]["id"]
        self.publisher = MqttClient(self.gateway.mqtt, self.token)
        self.addCleanup(self.publisher.close)
        self.reader = MqttClient(self.gateway.mqtt, self.token)
        self.addCleanup(self.reader.close)
        self.reader.subscribe("live/fast", qos=0)

    def load(self, kind: str, size: int) -> tuple[float, int]:
        """Publish on all topics, and read one.

        :param kind: how the topics of the slow ones begin.
        :param size: of a message.
        :returns: seconds, and the peak of the gateway's memory.
        """
        process = self.gateway.process
        assert process is not None
        peak = Peak(process.pid)
        try:
            began = time.monotonic()
            text = b"x" * size
            some = max(1, 65536 // size)
            for _ in range(EACH // (some * size)):
                data = b"".join(packets.publishes(f"{kind}/{index}", [text] * some) for index in range(SLOW))
                self.publisher.send(data + packets.publishes("live/fast", [text] * some))
                for _, payload, _ in self.reader.receive(some):
                    self.assertEqual(len(payload), size)
            self.publisher.flush()
            return time.monotonic() - began, peak.end()
        finally:
            peak.end()

    def check(self, kind: str, connect: Callable[[str], socket.socket], size: int = 1024) -> None:
        """Compare the same load with nobody else, with readers that read, and with as many that do not."""
        self.load(kind, size)
        _, floor = self.load(kind, size)
        drain = Drain(self.connect(kind, connect))
        self.addCleanup(drain.end)
        before, _ = self.load(kind, size)
        drain.end()
        self.connect(kind, connect)
        _, filling = self.load(kind, size)
        after, filled = self.load(kind, size)
        cost = (max(filling, filled) - floor) // SLOW
        figures = f"{kind} {size}: {cost >> 10} KiB each; beside readers {before:.2f} s, beside slow ones {after:.2f} s"
        self.assertLess(cost, MOST, figures)
        self.assertLess(after, before * 1.5 + 0.5, figures)
        self.assertNotIn("Traceback", self.gateway.log())

    def connect(self, kind: str, connect: Callable[[str], socket.socket]) -> list[socket.socket]:
        """As many readers as there are topics."""
        socks = []
        for index in range(SLOW):
            socks.append(connect(f"{kind}/{index}"))
            self.addCleanup(socks[-1].close)
        return socks

    def events(self, topic: str) -> socket.socket:
        return silent(self.gateway.http, [EventReader(topic, self.token, self.origin).request()])

    def websocket(self, topic: str) -> socket.socket:
        reader = WebSocketReader(topic, self.token, self.origin)
        sock = silent(self.gateway.http, [reader.request()])
        sock.recv(1024)
        reader.socket = sock
        reader.take(b"HTTP/1.1 101 \r\n\r\n")
        return sock

    def mqtt(self, topic: str) -> socket.socket:
        connect = packets.connect(Connect("", user_name="Bearer", password=self.token.encode()))
        return silent(self.gateway.mqtt, [connect, packets.subscribe(1, [(topic, 0)])])

    def test_live_events(self) -> None:
        """Server-Sent Events that history does not hold: such readers are cut off."""
        self.check("live", self.events)

    def test_stored_events(self) -> None:
        """Server-Sent Events that history holds: such readers wait there."""
        self.check("stored", self.events)

    def test_large_stored_events(self) -> None:
        """The same with large messages, of which few fill a buffer."""
        self.check("stored", self.events, 100_000)

    def test_websocket(self) -> None:
        """A WebSocket that reads history, and then reads nothing."""
        self.check("stored", self.websocket)

    def test_live_websocket(self) -> None:
        """A WebSocket of live messages: it is cut off."""
        self.check("live", self.websocket)

    def test_mqtt(self) -> None:
        """MQTT at QoS 0: messages are lost to it."""
        self.check("live", self.mqtt)
