"""The load generators of event streams and WebSockets whose messages are published over HTTP."""

from __future__ import annotations

import socket
from pathlib import Path

from benchmarks import wire
from benchmarks.connections import Server, connect, open_sse, open_websocket
from benchmarks.lanes import Lane, MarkReceiver, Pump, Sender

_OPEN = {"sse": open_sse, "websocket": open_websocket}
_ANSWER = b"{"
"""Stands once in every answer to a publish, on either server, and in no field of its head."""


def _publisher(server: Server, request: bytes, burst: int) -> tuple[Sender, MarkReceiver]:
    """A connection that publishes, and what it is answered."""
    sock = connect(server.http)
    # The duplicate gives the sending direction a place of its own in epoll.
    return Sender(sock.dup(), request * burst, len(request)), MarkReceiver(sock, _ANSWER)


def http_fan(
    server: Server,
    seconds: float,
    *,
    topic: str,
    receive: str,
    subscribers: int,
    publishers: int = 4,
    window: int = 256,
    burst: int = 16,
) -> float:
    """Throughput from publishers over HTTP, one message in each request, to readers of events or of frames.

    The requests of a connection are sent without waiting for the answers; at most ``window`` messages are on their way
    to any reader.

    :param receive: ``sse`` or ``websocket``.
    :returns: deliveries in a second.
    """
    request = wire.publish_request(topic, server.token or "", nchan=server.nchan)
    lane = _lane(server, topic, receive, subscribers, request, publishers, window, burst)
    return Pump([lane], 0.0001).run(seconds)


def _lane(
    server: Server,
    topic: str,
    receive: str,
    subscribers: int,
    request: bytes,
    publishers: int,
    window: int,
    burst: int,
    mark: bytes = wire.MARK,
) -> Lane:
    receivers = [MarkReceiver(_OPEN[receive](server, topic), mark) for _ in range(subscribers)]
    pairs = [_publisher(server, request, burst) for _ in range(publishers)]
    senders, answers = [sender for sender, _ in pairs], [answers for _, answers in pairs]
    return Lane(senders, receivers, window, burst, answers=answers)


_SIZE = 4096
"""Bytes of each payload that passes a reader which reads nothing."""
_PASSING = 32 * 1024 * 1024
"""Bytes that pass it at least: far more than the kernel keeps on both sides of a connection."""
_TURNS = 3


def slow_reader(server: Server, seconds: float, *, topic: str, receive: str, memory: bool) -> float:
    """What one reader that reads nothing costs the server, and the ten others that read all.

    The same is published in turns, without it and beside it, each time another one.

    :param receive: ``sse`` or ``websocket``.
    :param memory: whether to look at the memory, or at the others' rate.
    :returns: by how many bytes the server's peak of resident memory is higher beside the slow reader, in the worst of
        the turns; or what part of their rate the others have beside it, over all turns.
    """
    request = wire.publish_request(topic, server.token or "", wire.PAYLOAD.rjust(_SIZE, b"x"))
    # The usual mark is what a frame of more than 125 bytes has for its length.
    pump = Pump([_lane(server, topic, receive, 10, request, 4, 64, 4, b"}")], 0.0001)

    def turn() -> tuple[int, float]:
        """Peak and rate while enough passes."""
        reset_peak(server.pid)
        rates = []
        passed = 0.0
        while passed < _PASSING:
            rates.append(pump.run(seconds / _TURNS))
            passed += rates[-1] * seconds / _TURNS / 10 * _SIZE
        return peak_bytes(server.pid), sum(rates) / len(rates)

    turn()  # what the first use of anything costs is nobody's fault
    peaks, alone, beside = [], 0.0, 0.0
    for _ in range(_TURNS):
        peak, rate = turn()
        alone += rate
        with _OPEN[receive](server, topic) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            higher, rate = turn()
        peaks.append(higher - peak)
        beside += rate
    return float(max(0, *peaks)) if memory else beside / alone


def reset_peak(pid: int) -> None:
    """Forget the peak of a process's resident memory (proc(5), ``clear_refs``)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """The peak of a process's resident memory since :func:`reset_peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
