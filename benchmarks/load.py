"""The load generators: one job against one server, in a process of its own with one thread.

``python -m benchmarks.load`` reads the job as JSON from its standard input and writes ``{"value": …}`` or
``{"error": …}`` to its standard output.  Client and server often share two cores, so a generator does as little as
it can: packets are built before the clock starts and sent in blocks, and what arrives is counted by its bytes or by a
mark, never parsed.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from urllib.parse import quote

from benchmarks import wire

PATIENCE = 10.0
"""Seconds without any progress after which a job gives up."""

_BUFFER = bytearray(256 * 1024)


class Failed(Exception):
    """The job has no result; the text says why."""


@dataclass(frozen=True)
class Server:
    """Where the server under test listens.

    :ivar token: the JWT, if the server wants one.
    :ivar pid: its process, for the jobs that look at its memory.
    """

    mqtt: int
    pid: int
    http: int = 0
    token: str | None = None


# Connections


def connect(port: int) -> socket.socket:
    """Open a blocking connection whose calls fail after :data:`PATIENCE`."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The kernel's own timeouts: a Python timeout would cost a poll() before each call.
    sock.setblocking(True)
    patience = struct.pack("ll", int(PATIENCE), 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    return sock


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise Failed("the server closed the connection")
        data += more
    return data


def read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        more = sock.recv(65536)
        if not more:
            raise Failed(f"the server closed the connection after {data[:80]!r}")
        data += more
    return data


def open_mqtt(server: Server, client_id: str, subscribe_to: str | None = None) -> socket.socket:
    sock = connect(server.mqtt)
    sock.sendall(wire.mqtt_connect(client_id, server.token))
    answer = read_exactly(sock, 4)
    if answer != b"\x20\x02\x00\x00":
        raise Failed(f"CONNECT was answered with {answer.hex()}")
    if subscribe_to is not None:
        sock.sendall(wire.mqtt_subscribe(subscribe_to))
        answer = read_exactly(sock, 5)
        if answer != b"\x90\x03\x00\x01\x00":
            raise Failed(f"SUBSCRIBE was answered with {answer.hex()}")
    return sock


def open_sse(server: Server, topic: str) -> socket.socket:
    sock = connect(server.http)
    sock.sendall(wire.sse_request(topic, server.token or ""))
    head = read_until(sock, b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Failed(f"the event stream was answered with {head[:200]!r}")
    return sock


def open_websocket(server: Server, topic: str) -> socket.socket:
    sock = connect(server.http)
    sock.sendall(wire.websocket_request(server.token or ""))
    head = read_until(sock, b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        raise Failed(f"the handshake was answered with {head[:200]!r}")
    sock.sendall(wire.websocket_text({"action": "subscribe", "topic": topic, "id": 1}))
    answer = read_until(sock, b"}")
    if b'"ack"' not in answer:
        raise Failed(f"the subscription was answered with {answer[:200]!r}")
    return sock


# Throughput: senders, receivers, and lanes that keep the one from outrunning the other


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


class MarkReceiver(Receiver):
    """A connection whose messages each hold one mark."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, 1)

    def read(self) -> None:
        self.units += _BUFFER.count(wire.MARK, 0, self._recv())


class Sender:
    """A connection that sends packets of one size out of a ring."""

    def __init__(self, sock: socket.socket, ring: bytes, size: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._ring = memoryview(ring)
        self._size = size
        self._at = 0
        self._due = 0

    def give(self, messages: int) -> None:
        """Owe the server so many more messages."""
        self._due += messages * self._size
        self.flush()

    def flush(self) -> None:
        """Send what is owed, as far as the connection takes it."""
        while self._due:
            try:
                sent = self.sock.send(self._ring[self._at : self._at + self._due])
            except BlockingIOError:
                return
            self._at = (self._at + sent) % len(self._ring)
            self._due -= sent


class Lane:
    """Senders whose every message reaches every receiver; at most ``window`` messages are under way.

    The server cannot be made to drop anything so, and what is sent is at the end what was received.

    :ivar burst: messages for which there must be room before more are sent.
    """

    def __init__(self, senders: Sequence[Sender], receivers: Sequence[Receiver], window: int, burst: int) -> None:
        self.senders = senders
        self.receivers = receivers
        self.sent = 0
        self._window = window
        self._burst = burst
        self._turn: Iterator[Sender] = cycle(senders)

    def top_up(self) -> None:
        room = self._window - self.sent + min([one.units // one.size for one in self.receivers])
        burst = room if len(self.senders) == 1 else self._burst
        while room >= self._burst:
            next(self._turn).give(burst)
            self.sent += burst
            room -= burst

    @property
    def received(self) -> int:
        return sum(one.messages for one in self.receivers)

    @property
    def expected(self) -> int:
        return self.sent * len(self.receivers)

    def reset(self) -> None:
        self.sent = 0
        for one in self.receivers:
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
            for receiver in lane.receivers:
                self._readers[receiver.sock.fileno()] = (receiver, lane)
                self._epoll.register(receiver.sock.fileno(), select.EPOLLIN)
            for sender in lane.senders:
                # Edge-triggered: one event when a full connection has room again, and none before.
                self._writers[sender.sock.fileno()] = sender
                self._epoll.register(sender.sock.fileno(), select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)

    @property
    def _received(self) -> int:
        return sum(lane.received for lane in self._lanes)

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
        """Send single messages until every receiver has seen one: not every protocol says when a subscription holds."""
        end = time.perf_counter() + PATIENCE
        while silent := [lane for lane in self._lanes if not all(one.messages for one in lane.receivers)]:
            if time.perf_counter() > end:
                raise Failed("nothing arrives")
            for lane in silent:
                lane.senders[0].give(1)
            retry = time.perf_counter() + 0.5
            while time.perf_counter() < retry and not all(all(r.messages for r in lane.receivers) for lane in silent):
                self._turn(0.05, False)
        while self._turn(0.1, False):
            pass
        for lane in self._lanes:
            lane.reset()

    def _drain(self) -> None:
        progress = time.perf_counter()
        expected = sum(lane.expected for lane in self._lanes)
        while (received := self._received) < expected and time.perf_counter() - progress < PATIENCE / 2:
            if self._turn(0.1, False):
                progress = time.perf_counter()
        if received != expected:
            raise Failed(f"{expected:,} messages were due and {received:,} arrived")


# The jobs: each returns one number


def fan(
    server: Server,
    seconds: float,
    *,
    topic: str,
    pairs: int = 1,
    publishers: int = 1,
    subscribers: int = 1,
    receive: str = "mqtt",
    window: int = 3540,
    burst: int = 885,
) -> float:
    """Throughput at QoS 0 of ``pairs`` independent lanes, received by ``mqtt``, ``sse`` or ``websocket``.

    :returns: deliveries in a second.
    """
    lanes = []
    for pair in range(pairs):
        name = f"{topic}/{pair:02}"
        packet = len(wire.mqtt_publish(name))
        receivers: list[Receiver] = []
        for one in range(subscribers):
            if receive == "mqtt":
                receivers.append(Receiver(open_mqtt(server, f"sub-{pair}-{one}", name), packet))
            else:
                opener = open_sse if receive == "sse" else open_websocket
                receivers.append(MarkReceiver(opener(server, name)))
        ring = wire.publish_ring(name, burst, 0)
        senders = [Sender(open_mqtt(server, f"pub-{pair}-{one}"), ring, packet) for one in range(publishers)]
        lanes.append(Lane(senders, receivers, window, burst))
    return Pump(lanes, 0.0001).run(seconds)


def acknowledged(server: Server, seconds: float, *, topic: str, window: int) -> float:
    """A publisher alone, at QoS 1, with at most ``window`` messages unacknowledged.

    :returns: PUBACKs in a second.
    """
    ring = wire.publish_ring(topic, window, 1)
    sock = open_mqtt(server, "pub")
    # The duplicate gives the sending direction a place of its own in epoll.
    lane = Lane([Sender(sock.dup(), ring, len(ring) // window)], [Receiver(sock, 4)], window, 1)
    return Pump([lane]).run(seconds)


def _one_in_flight(
    out: socket.socket, back: socket.socket, packets: Sequence[bytes], answer: int, seconds: float
) -> list[int]:
    """Send a packet, wait for ``answer`` bytes, and so on; the times in nanoseconds, without the warm-up's."""
    now = time.perf_counter_ns
    start = now() + int(seconds * 1e9 / 4)
    end = start + int(seconds * 1e9)
    times = []
    for packet in cycle(packets):
        before = now()
        out.send(packet)
        left = answer
        while left:
            count = back.recv_into(_BUFFER)
            if not count:
                raise Failed("the server closed the connection")
            left -= count
        after = now()
        if before >= start:
            times.append(after - before)
        if after >= end:
            return times
    raise AssertionError("a cycle does not end")


def one_each(server: Server, seconds: float, *, topic: str, pairs: int) -> float:
    """One message in flight on each of many pairs, each pair on a topic of its own, at QoS 0.

    Where one read brings one message, a lane's bookkeeping would cost more than the rest: this loop has none.

    :returns: messages in a second.
    """
    epoll = select.epoll()
    ends: dict[int, tuple[Callable[[bytearray], int], Callable[[bytes], int], bytes]] = {}
    for pair in range(pairs):
        name = f"{topic}/{pair:02}"
        back, out = open_mqtt(server, f"sub-{pair}", name), open_mqtt(server, f"pub-{pair}")
        ends[back.fileno()] = (back.recv_into, out.send, wire.mqtt_publish(name))
        epoll.register(back.fileno(), select.EPOLLIN)
    size = len(wire.mqtt_publish(f"{topic}/00"))
    part = dict.fromkeys(ends, 0)
    for _receive, send, packet in ends.values():
        send(packet)
    count = 0

    def until(end: float) -> None:
        nonlocal count
        while time.perf_counter() < end:
            events = epoll.poll(PATIENCE)
            if not events:
                raise Failed("nothing more arrives")
            for fd, _mask in events:
                receive, send, packet = ends[fd]
                got = receive(_BUFFER)
                if got != size:
                    if not got:
                        raise Failed("the server closed the connection of a receiver")
                    got = part[fd] = part[fd] + got
                    if got < size:
                        continue
                    part[fd] = 0
                count += 1
                send(packet)

    until(time.perf_counter() + seconds / 4)
    before, start = count, time.perf_counter()
    until(start + seconds)
    rate = (count - before) / (time.perf_counter() - start)
    waiting = set(ends)
    while waiting:
        events = epoll.poll(PATIENCE)
        if not events:
            raise Failed(f"the last message of {len(waiting)} pairs did not arrive")
        for fd, _mask in events:
            ends[fd][0](_BUFFER)
            waiting.discard(fd)
    return rate


def round_trip(server: Server, seconds: float, *, topic: str, percentile: int) -> float:
    """One message in flight from one publisher to one subscriber at QoS 0.

    :returns: the percentile of the time under way, in microseconds.
    """
    back = open_mqtt(server, "sub", topic)
    out = open_mqtt(server, "pub")
    packet = wire.mqtt_publish(topic)
    times = sorted(_one_in_flight(out, back, [packet], len(packet), seconds))
    return times[min(len(times) - 1, len(times) * percentile // 100)] / 1000


def acknowledged_singly(server: Server, seconds: float, *, topic: str) -> float:
    """A publisher at QoS 1 that waits for each PUBACK.

    :returns: PUBACKs in a second.
    """
    sock = open_mqtt(server, "pub")
    times = _one_in_flight(sock, sock, [wire.mqtt_publish(topic, 1), wire.mqtt_publish(topic, 2)], 4, seconds)
    return len(times) / (sum(times) / 1e9)


_STATUS = re.compile(rb"HTTP/1\.1 (2\d\d) ")
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")


class HttpConnection:
    """A connection with one request under way at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._data = b""

    def read(self) -> bytes | None:
        """Take what has arrived.

        :returns: the response, head and body, once it is whole.
        :raises Failed: if its status is not one of success.
        """
        try:
            more = self.sock.recv(65536)
        except BlockingIOError:
            return None
        if not more:
            raise Failed("the server closed an HTTP connection")
        data = self._data = self._data + more if self._data else more
        head = data.find(b"\r\n\r\n") + 4
        if head < 4:
            return None
        length = _LENGTH.search(data, 0, head)
        if length is not None:
            whole = len(data) >= head + int(length[1])
        else:
            whole = data.startswith(b"HTTP/1.1 204") or data.endswith(b"0\r\n\r\n")
        if not whole:
            return None
        if not _STATUS.match(data):
            raise Failed(f"a request was answered with {data[:300]!r}")
        self._data = b""
        return data


def _exchange(
    connections: Sequence[HttpConnection],
    requests: Sequence[bytes],
    seconds: float,
    answered: Callable[[int, bytes], tuple[bytes, int]],
) -> float:
    """Keep one request under way on each connection; ``answered`` gives the next one and what the answer counts.

    :returns: what was counted in a second, without the warm-up.
    """
    epoll = select.epoll()
    numbers = {}
    for number, connection in enumerate(connections):
        numbers[connection.sock.fileno()] = number
        epoll.register(connection.sock.fileno(), select.EPOLLIN)
        connection.sock.send(requests[number])
    warm = time.perf_counter() + seconds / 4
    end = warm + seconds
    count, start, at_start = 0, 0.0, 0
    while (now := time.perf_counter()) < end:
        if not start and now >= warm:
            start, at_start = now, count
        events = epoll.poll(PATIENCE)
        if not events:
            raise Failed("nothing more is answered")
        for fd, _mask in events:
            number = numbers[fd]
            response = connections[number].read()
            if response is not None:
                request, counts = answered(number, response)
                count += counts
                connections[number].sock.send(request)
    return (count - at_start) / (time.perf_counter() - start)


def http_publish(server: Server, seconds: float, *, topic: str, connections: int, batch: int) -> float:
    """Publishing over HTTP, one request under way on each connection.

    :returns: messages in a second.
    """
    message = {"topic": topic, "message": wire.PAYLOAD.decode()}
    if batch == 1:
        request = wire.http_request("POST", "/api/v1/publish", server.token or "", message)
    else:
        body = {"messages": [message] * batch}
        request = wire.http_request("POST", "/api/v1/publish/batch", server.token or "", body)
    opened = [HttpConnection(connect(server.http)) for _ in range(connections)]
    return _exchange(opened, [request] * connections, seconds, lambda _number, _response: (request, batch))


_RECEIPT = re.compile(rb'"receipt": ?"([^"]+)"')


def queue_cycle(server: Server, seconds: float, *, queue: str, connections: int) -> float:
    """Send a message, receive one, delete it, and so on, on each connection.

    :returns: deletions in a second.
    """
    token, path = server.token or "", f"/api/v1/queues/{queue}/messages"
    send = wire.http_request("POST", path, token, {"body": wire.PAYLOAD.decode()})
    receive = wire.http_request("POST", f"{path}/receive", token, {"max": 1, "wait": 1, "visibility": 30})
    sending = [True] * connections

    def answered(number: int, response: bytes) -> tuple[bytes, int]:
        if sending[number]:
            sending[number] = False
            return receive, 0
        receipt = _RECEIPT.search(response)
        if receipt is not None:
            return wire.http_request("DELETE", f"{path}/{quote(receipt[1].decode(), safe='')}", token), 0
        if b'"messages"' in response:
            return receive, 0
        sending[number] = True
        return send, 1

    opened = [HttpConnection(connect(server.http)) for _ in range(connections)]
    return _exchange(opened, [send] * connections, seconds, answered)


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def idle_memory(server: Server, seconds: float, *, connections: int) -> float:
    """What an idle MQTT connection costs the server; some connections come first, so that no first use is counted.

    :returns: bytes of resident memory for each connection.
    """
    kept = deque(open_mqtt(server, f"first-{one}") for one in range(50))
    time.sleep(0.3)
    before = _resident_bytes(server.pid)
    kept.extend(open_mqtt(server, f"idle-{one}") for one in range(connections))
    time.sleep(0.3)
    return (_resident_bytes(server.pid) - before) / connections


JOBS: dict[str, Callable[..., float]] = {
    job.__name__: job
    for job in (fan, acknowledged, one_each, round_trip, acknowledged_singly, http_publish, queue_cycle, idle_memory)
}


def main() -> None:
    order: dict[str, Any] = json.load(sys.stdin)
    answer: dict[str, object]
    try:
        if order["cpu"] is not None:
            os.sched_setaffinity(0, {order["cpu"]})
        answer = {"value": JOBS[order["job"]](Server(**order["server"]), order["seconds"], **order["parameters"])}
    except (Failed, OSError) as error:
        answer = {"error": str(error) or type(error).__name__}
    with suppress(BrokenPipeError):
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
