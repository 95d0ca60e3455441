"""The receiving ends of QoS 1 and 2: they answer what they are sent, read by read, and count what is complete."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

from benchmarks import wire
from benchmarks.connections import PATIENCE, Failed, quick_ack, read_exactly
from benchmarks.lanes import Receiver, Sender

PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 0x30, 0x40, 0x50, 0x62, 0x70
_SIZE = 4
"""Bytes of each of the four acknowledgements: the first byte, 2, and the packet id."""


def answer(first: int, identifiers: tuple[bytes, bytes]) -> bytes:
    """One acknowledgement for each packet id; ``identifiers`` are their upper and their lower bytes."""
    packets = bytearray(bytes([first, 2, 0, 0]) * len(identifiers[0]))
    packets[2::_SIZE], packets[3::_SIZE] = identifiers
    return bytes(packets)


class _Splitter:
    """Cuts what arrives into runs of packets of one kind, so that a whole run can be answered at once.

    :param publish: bytes of each PUBLISH packet.
    """

    def __init__(self, publish: int) -> None:
        self._publish = publish
        self._rest = b""

    def runs(self, data: bytes) -> Iterator[bytes]:
        """What has arrived, as far as the packets are whole; the bytes of the last one, if not, are kept."""
        data = self._rest + data if self._rest else data
        start, size = 0, len(data)
        while start < size:
            kind = data[start] & 0xF0
            length = self._publish if kind == PUBLISH else _SIZE
            end = start
            while end + length <= size and data[end] & 0xF0 == kind:
                end += length
            if end == start:
                break
            yield data[start:end]
            start = end
        self._rest = data[start:]


class Completer(Receiver):
    """The publisher's end of QoS 2: answers each PUBREC with PUBREL, through its sender, and counts the PUBCOMPs."""

    def __init__(self, sock: socket.socket, sender: Sender) -> None:
        super().__init__(sock, 1)
        self._sender = sender
        self._splitter = _Splitter(0)

    def read(self) -> None:
        for run in self._splitter.runs(self._take()):
            if run[0] == PUBREC:
                self._sender.answer(answer(PUBREL, (run[2::_SIZE], run[3::_SIZE])))
            elif run[0] == PUBCOMP:
                self.units += len(run) // _SIZE
            else:
                raise Failed(f"a publisher was sent {run[:8].hex()}")


class Subscriber(Receiver):
    """The subscriber's end: answers with PUBACK; at QoS 2 with PUBREC and PUBCOMP, and counts when it sends the latter.

    :param topic: of all messages.
    """

    def __init__(self, sock: socket.socket, topic: str, qos: int) -> None:
        super().__init__(sock, 1)
        self._first = PUBLISH | qos << 1
        self._size = len(wire.mqtt_publish(topic, 1))
        self._identifier = 2 + 2 + len(topic.encode())
        self._answer = PUBACK if qos == 1 else PUBREC
        self._splitter = _Splitter(self._size)

    def read(self) -> None:
        for run in self._splitter.runs(self._take()):
            if run[0] & 0xF6 == self._first:  # DUP and RETAIN may be set or not
                at = self._identifier
                self._send(answer(self._answer, (run[at :: self._size], run[at + 1 :: self._size])))
                if self._answer == PUBACK:
                    self.units += len(run) // self._size
            elif run[0] == PUBREL:
                self._send(answer(PUBCOMP, (run[2::_SIZE], run[3::_SIZE])))
                self.units += len(run) // _SIZE
            else:
                raise Failed(f"a subscriber was sent {run[:8].hex()}")

    def _send(self, packets: bytes) -> None:
        # The window bounds what is not read yet, far below what the kernel takes.
        if self.sock.send(packets) != len(packets):
            raise Failed("the server does not read the acknowledgements")

    def complete(self, messages: int) -> None:
        """Receive until so many messages are complete; nobody else looks at the connection meanwhile."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while self.units < messages:
            quick_ack(self.sock)
            if not poll.poll(PATIENCE * 1000):
                raise Failed(f"{messages:,} messages were due and {self.units:,} arrived")
            self.read()


def publish_all(sock: socket.socket, ring: bytes, count: int, qos: int) -> None:
    """Publish ``count`` packets and wait until all are acknowledged; for what a measurement needs beforehand.

    :param ring: the packets, at QoS 1 or 2.
    """
    sock.sendall(ring)
    answers = read_exactly(sock, _SIZE * count)
    if qos == 2:
        sock.sendall(answer(PUBREL, (answers[2::_SIZE], answers[3::_SIZE])))
        answers = read_exactly(sock, _SIZE * count)
    if answers[::_SIZE] != bytes([PUBACK if qos == 1 else PUBCOMP]) * count:
        raise Failed("what was published was not acknowledged")
