"""Throughput: senders, receivers, and the lanes that keep the one from outrunning the other."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import cycle

from benchmarks import wire
from benchmarks.connections import PATIENCE, Failed

_BUFFER = bytearray(256 * 1024)


class Receiver:
    """A connection whose messages (or acknowledgements) all have ``size`` bytes."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.size = size
        self.units = 0

    @property
    def messages(self) -> int:
        return self.units // self.size

    def read(self) -> None:
        count = self._recv()
        self.units += count

    def _recv(self) -> int:
        try:
            count = self.sock.recv_into(_BUFFER)
        except BlockingIOError:
            return 0
        if not count:
            raise Failed("the server closed the connection of a receiver")
        return count

    def _take(self) -> bytes:
        return bytes(memoryview(_BUFFER)[: self._recv()])


class MarkReceiver(Receiver):
    """A connection whose messages each hold one mark, of one byte."""

    def __init__(self, sock: socket.socket, mark: bytes = wire.MARK) -> None:
        super().__init__(sock, 1)
        self._mark = mark

    def read(self) -> None:
        self.units += _BUFFER.count(self._mark, 0, self._recv())


class Sender:
    """A connection that sends packets of one size out of a ring."""

    def __init__(self, sock: socket.socket, ring: bytes, size: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._ring = memoryview(ring)
        self._size = size
        self._at = 0
        self._due = 0
        self._answers = bytearray()

    def give(self, messages: int) -> None:
        """Owe the server so many more messages."""
        self._due += messages * self._size
        self.flush()

    def answer(self, packets: bytes) -> None:
        """Send other packets too: before what is owed, but never inside of a message."""
        self._answers += packets
        self.flush()

    def flush(self) -> None:
        """Send what is owed, as far as the connection takes it."""
        while self._due or self._answers:
            begun = self._at % self._size if self._answers else 0
            try:
                if self._answers and not begun:
                    del self._answers[: self.sock.send(self._answers)]
                    continue
                sent = self.sock.send(self._ring[self._at : self._at + (self._size - begun if begun else self._due)])
            except BlockingIOError:
                return
            self._at = (self._at + sent) % len(self._ring)
            self._due -= sent


class Lane:
    """Senders whose every message reaches every receiver; at most ``window`` messages are under way.

    The server cannot be made to drop anything so, and what is sent is at the end what was received.

    :ivar burst: messages for which there must be room before more are sent.
    :ivar readers: the receivers, and those of ``acknowledgements``: the window waits for them too, but what they
        receive is not measured.
    :ivar answers: what the senders are answered: the window does not wait for that, but all of it is due.
    """

    def __init__(
        self,
        senders: Sequence[Sender],
        receivers: Sequence[Receiver],
        window: int,
        burst: int,
        acknowledgements: Sequence[Receiver] = (),
        answers: Sequence[Receiver] = (),
    ) -> None:
        self.senders = senders
        self.receivers = receivers
        self.readers = [*receivers, *acknowledgements]
        self.answers = answers
        self.sent = 0
        self._window = window
        self.burst = burst
        self._turn: Iterator[Sender] = cycle(senders)

    def top_up(self) -> None:
        room = self._window - self.sent + min([one.units // one.size for one in self.readers])
        burst = room - room % self.burst if len(self.senders) == 1 else self.burst
        while room >= self.burst:
            next(self._turn).give(burst)
            self.sent += burst
            room -= burst

    @property
    def received(self) -> int:
        return sum(one.messages for one in self.receivers)

    @property
    def outstanding(self) -> int:
        """What is still due to all readers together; less than 0 if more arrived than was sent."""
        return self.due - sum(one.messages for one in (*self.readers, *self.answers))

    @property
    def due(self) -> int:
        """What all readers together are to get for what was sent."""
        return self.sent * (len(self.readers) + bool(self.answers))

    def reset(self) -> None:
        self.sent = 0
        for one in (*self.readers, *self.answers):
            one.units = 0


class Pump:
    """Runs lanes: primes them, keeps them full for a while, and sees to it that nothing was lost.

    A server that writes each message by itself would wake the generator for each.  A ``pause`` (in seconds) before
    each look lets more arrive; it is far shorter than what the server needs for a window.
    """

    def __init__(self, lanes: Sequence[Lane], pause: float = 0.0) -> None:
        self._lanes = lanes
        self._pause = pause
        self._epoll = select.epoll()
        self._readers: dict[int, tuple[Receiver, Lane]] = {}
        self._writers: dict[int, Sender] = {}
        for lane in lanes:
            for receiver in (*lane.readers, *lane.answers):
                self._readers[receiver.sock.fileno()] = (receiver, lane)
                self._epoll.register(receiver.sock.fileno(), select.EPOLLIN)
            for sender in lane.senders:
                # Edge-triggered: one event when a full connection has room again, and none before.
                self._writers[sender.sock.fileno()] = sender
                self._epoll.register(sender.sock.fileno(), select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)

    @property
    def _received(self) -> int:
        return sum(lane.received for lane in self._lanes)

    @property
    def _outstanding(self) -> int:
        return sum(lane.outstanding for lane in self._lanes)

    def _turn(self, timeout: float, top_up: bool) -> bool:
        """Wait for events and serve them; ``False`` if there were none."""
        readers = self._readers
        if self._pause:
            time.sleep(self._pause)
        events = self._epoll.poll(timeout)
        touched = set()
        for fd, mask in events:
            found = readers.get(fd)
            if found is not None:
                found[0].read()
                touched.add(found[1])
            elif mask & select.EPOLLRDHUP:
                raise Failed("the server closed the connection of a sender")
            else:
                self._writers[fd].flush()
        if top_up:
            for lane in touched:
                lane.top_up()
        return bool(events)

    def run(self, seconds: float) -> float:
        """Fill the lanes and measure.

        :returns: messages received in a second.
        """
        self._prime()
        for lane in self._lanes:
            lane.top_up()
        self._until(time.perf_counter() + seconds / 4)
        count, start = self._received, time.perf_counter()
        self._until(start + seconds)
        count, elapsed = self._received - count, time.perf_counter() - start
        self._drain()
        return count / elapsed

    def _until(self, end: float) -> None:
        progress = time.perf_counter()
        while (now := time.perf_counter()) < end:
            if self._turn(0.1, True):
                progress = now
            elif now - progress > PATIENCE:
                raise Failed("nothing more arrives")

    def _prime(self) -> None:
        """Send bursts until every receiver has seen something: not every protocol says when a subscription holds."""
        end = time.perf_counter() + PATIENCE
        while silent := [lane for lane in self._lanes if not all(one.messages for one in lane.receivers)]:
            if time.perf_counter() > end:
                raise Failed("nothing arrives")
            for lane in silent:
                lane.senders[0].give(lane.burst)
            retry = time.perf_counter() + 0.5
            while time.perf_counter() < retry and not all(all(r.messages for r in lane.receivers) for lane in silent):
                self._turn(0.05, False)
        while self._turn(0.1, False):
            pass
        for lane in self._lanes:
            lane.reset()

    def _drain(self) -> None:
        progress = time.perf_counter()
        while self._outstanding > 0 and time.perf_counter() - progress < PATIENCE / 2:
            if self._turn(0.1, False):
                progress = time.perf_counter()
        if outstanding := self._outstanding:
            due = sum(lane.due for lane in self._lanes)
            raise Failed(f"{due:,} messages were due and {due - outstanding:,} arrived")
