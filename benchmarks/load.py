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
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from typing import Any
from urllib.parse import quote

from benchmarks import wire
from benchmarks.connections import (
    PATIENCE,
    Failed,
    HttpConnection,
    Server,
    connect,
    open_mqtt,
    open_sse,
    open_websocket,
)
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
