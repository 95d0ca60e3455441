"""The load generators: one job against one server, in a process of its own with one thread.

``python -m benchmarks.load`` reads the job as JSON from its standard input and writes ``{"value": …}`` or
``{"error": …}`` to its standard output.  Client and server often share two cores, so a generator does as little as
it can: packets are built before the clock starts and sent in blocks, and what arrives is counted by its bytes or by a
mark, never parsed.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from typing import Any

from benchmarks import fanout, queues, wire
from benchmarks.connections import (
    PATIENCE,
    Failed,
    HttpConnection,
    Server,
    close_mqtt,
    connect,
    open_mqtt,
    open_sse,
    open_websocket,
    quick_ack,
)
from benchmarks.exchanges import Span, Worker, exchange
from benchmarks.flows import Completer, Subscriber, publish_all
from benchmarks.lanes import Lane, MarkReceiver, Pump, Receiver, Sender

_BUFFER = bytearray(256 * 1024)


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
    mixed: bool = False,
) -> float:
    """Throughput at QoS 0 of ``pairs`` independent lanes, received by ``mqtt``, ``sse`` or ``websocket``.

    :param mixed: payloads of many sizes, with the same average; ``burst`` is then a multiple of 66.
    :returns: deliveries in a second.
    """
    lanes = []
    for pair in range(pairs):
        name = f"{topic}/{pair:02}"
        packet = len(wire.mqtt_publish(name))
        receivers: list[Receiver] = []
        for one in range(subscribers):
            if receive == "sse":
                receivers.append(MarkReceiver(open_sse(server, name)))
            elif receive == "websocket":
                receivers.append(MarkReceiver(open_websocket(server, name)))
            else:
                sock = open_mqtt(server, f"sub-{pair}-{one}", name)
                receivers.append(MarkReceiver(sock) if mixed else Receiver(sock, packet))
        ring = wire.mixed_ring(name, burst) if mixed else wire.publish_ring(name, burst, 0)
        senders = [Sender(open_mqtt(server, f"pub-{pair}-{one}"), ring, packet) for one in range(publishers)]
        lanes.append(Lane(senders, receivers, window, burst))
    return Pump(lanes, 0.0001).run(seconds)


def _publisher(sock: socket.socket, topic: str, qos: int, window: int) -> tuple[Sender, Receiver]:
    """Both directions of a publisher at QoS 1 or 2; the second one counts what is acknowledged."""
    ring = wire.publish_ring(topic, window, qos)
    # The duplicate gives the sending direction a place of its own in epoll.
    sender = Sender(sock.dup(), ring, len(ring) // window)
    return sender, Receiver(sock, 4) if qos == 1 else Completer(sock, sender)


def acknowledged(server: Server, seconds: float, *, topic: str, window: int, qos: int = 1) -> float:
    """A publisher alone, at QoS 1 or 2, with at most ``window`` messages unacknowledged.

    :returns: PUBACKs, or PUBCOMPs, in a second.
    """
    sender, receiver = _publisher(open_mqtt(server, "pub"), topic, qos, window)
    return Pump([Lane([sender], [receiver], window, 1)]).run(seconds)


def relayed(
    server: Server, seconds: float, *, topic: str, qos: int, window: int, subscribers: int = 1, clean: bool = True
) -> float:
    """A publisher and its subscribers, all at QoS 1 or 2, with at most ``window`` messages under way anywhere.

    :param clean: clean sessions, or on both ends sessions that outlive their connections.
    :returns: complete deliveries in a second: acknowledged, at QoS 2 released and acknowledged.
    """
    # The topic is the row's own: so are the sessions, which the row leaves behind.
    receivers = [
        Subscriber(open_mqtt(server, f"{topic}-sub-{one:02}", topic, qos, clean=clean), topic, qos)
        for one in range(subscribers)
    ]
    sender, acknowledgements = _publisher(open_mqtt(server, f"{topic}-pub", clean=clean), topic, qos, window)
    return Pump([Lane([sender], receivers, window, 1, [acknowledgements])], 0.0001).run(seconds)


_AT_ONCE = 1000
"""Messages that are published together where the publishing is not measured."""


def drained(server: Server, seconds: float, *, topic: str, qos: int, messages: int) -> float:
    """What is published while a session's client is away is given to it when it comes back; again and again.

    The time is that from CONNECT until the server, having read every acknowledgement and DISCONNECT, closes.

    :returns: messages in a second.
    """
    ring = wire.publish_ring(topic, _AT_ONCE, qos)
    client, publisher = f"{topic}-sub", open_mqtt(server, f"{topic}-pub")
    close_mqtt(open_mqtt(server, client, topic, qos, clean=False))
    count, taken, warm = 0, 0.0, False
    end = time.perf_counter() + 1.25 * seconds
    while not taken or time.perf_counter() < end:
        for _ in range(messages // _AT_ONCE):
            publish_all(publisher, ring, _AT_ONCE, qos)
        start = time.perf_counter()
        subscriber = Subscriber(open_mqtt(server, client, clean=False, present=True), topic, qos)
        subscriber.complete(messages)
        close_mqtt(subscriber.sock)
        if warm:
            count += messages
            taken += time.perf_counter() - start
        warm = True
    close_mqtt(open_mqtt(server, client, clean=False, present=True))
    return count / taken


def retained(server: Server, seconds: float, *, topic: str, messages: int) -> float:
    """One SUBSCRIBE with a wildcard brings ``messages`` retained messages, at QoS 0; again and again.

    The time is that from SUBSCRIBE until the last message has arrived.

    :returns: messages in a second.
    """
    publisher = open_mqtt(server, f"{topic}-pub")
    names = [f"{topic}/{one // 100:03}/{one % 100:02}" for one in range(messages)]
    for at in range(0, messages, _AT_ONCE):
        part = names[at : at + _AT_ONCE]
        packets = [wire.mqtt_publish(name, one, retain=True) for one, name in enumerate(part, 1)]
        publish_all(publisher, b"".join(packets), len(part), 1)
    due = 5 + messages * len(wire.mqtt_publish(names[0]))
    count, taken, warm = 0, 0.0, False
    end = time.perf_counter() + 1.25 * seconds
    while not taken or time.perf_counter() < end:
        sock = open_mqtt(server, f"{topic}-sub")
        start = time.perf_counter()
        sock.sendall(wire.mqtt_subscribe(f"{topic}/#"))
        left = due
        while left > 0:
            quick_ack(sock)
            got = sock.recv_into(_BUFFER)
            if not got:
                raise Failed("the server closed the connection")
            left -= got
        if warm:
            count += messages
            taken += time.perf_counter() - start
        warm = True
        if left:
            raise Failed("more arrived than is retained")
        close_mqtt(sock)
    return count / taken


def reconnects(server: Server, seconds: float, *, topic: str, connections: int) -> float:
    """Clients with a session and a subscription connect, are answered, disconnect, and connect again when that is done.

    :returns: connections in a second.
    """
    epoll = select.epoll()
    packets = []
    sockets: dict[int, tuple[int, socket.socket]] = {}
    for one in range(connections):
        client = f"{topic}-{one:02}"
        close_mqtt(open_mqtt(server, client, f"{topic}/{one:02}", 1, clean=False))
        packets.append(wire.mqtt_connect(client, server.token, clean=False))

    def begin(one: int) -> None:
        sock = connect(server.mqtt)
        # The server closes first.  A reset then spares it TIME_WAIT, which would soon take all ports.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.send(packets[one])
        sockets[sock.fileno()] = one, sock
        epoll.register(sock.fileno(), select.EPOLLIN)

    count = 0

    def until(end: float, again: bool) -> None:
        nonlocal count
        while sockets and time.perf_counter() < end:
            events = epoll.poll(PATIENCE)
            if not events:
                raise Failed("nothing more is answered")
            for fd, _mask in events:
                one, sock = sockets[fd]
                answer = sock.recv(64)
                if answer == b"\x20\x02\x01\x00":
                    sock.send(wire.MQTT_DISCONNECT)
                    continue
                if answer:
                    raise Failed(f"CONNECT was answered with {answer.hex()}")
                del sockets[fd]
                sock.close()
                count += 1
                if again:
                    begin(one)

    for one in range(connections):
        begin(one)
    until(time.perf_counter() + seconds / 4, True)
    before, start = count, time.perf_counter()
    until(start + seconds, True)
    rate = (count - before) / (time.perf_counter() - start)
    until(time.perf_counter() + PATIENCE, False)
    return rate


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


def http_publish(server: Server, seconds: float, *, topic: str, connections: int, batch: int) -> float:
    """Publishing over HTTP, one request under way on each connection.

    :returns: messages in a second.
    """
    if batch == 1:
        request = wire.publish_request(topic, server.token or "", nchan=server.nchan)
    else:
        message = {"topic": topic, "message": wire.PAYLOAD.decode()}
        body = {"messages": [message] * batch}
        request = wire.http_request("POST", "/api/v1/publish/batch", server.token or "", body)
    span = Span(seconds)

    def worker() -> Worker:
        yield request
        while span.add(batch):
            yield request

    opened = [HttpConnection(connect(server.http), server.http) for _ in range(connections)]
    exchange(opened, [worker() for _ in opened])
    return span.rate


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
    for job in (
        fan,
        acknowledged,
        relayed,
        drained,
        retained,
        reconnects,
        one_each,
        round_trip,
        acknowledged_singly,
        http_publish,
        fanout.http_fan,
        fanout.slow_reader,
        queues.queue_send,
        queues.queue_take,
        queues.queue_cycle,
        queues.queue_deep,
        idle_memory,
    )
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
