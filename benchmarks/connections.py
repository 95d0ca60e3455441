"""Connections to the server under test, as far as they have to be understood: opened, subscribed, answered."""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass

from benchmarks import wire

PATIENCE = 10.0
"""Seconds without any progress after which a job gives up."""


class Failed(Exception):
    """The job has no result; the text says why."""


@dataclass(frozen=True)
class Server:
    """Where the server under test listens.

    :ivar mqtt: the port; 0 if there is none.
    :ivar http: the port, also of the SQS protocol; 0 if there is none.
    :ivar token: the JWT, if the server wants one.
    :ivar api_key: id and secret with a dot between, for those who sign their requests.
    :ivar pid: its process, for the jobs that look at its memory.
    :ivar nchan: its HTTP is nchan's: a message is the body as it is, and a channel is named in the query.
    """

    mqtt: int
    pid: int
    http: int = 0
    token: str | None = None
    api_key: str = ""
    nchan: bool = False


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


def quick_ack(sock: socket.socket) -> None:
    """Have the kernel acknowledge what arrives next at once.

    Else a server that leaves Nagle's algorithm on waits with its second packet, for up to 40 ms, until the first one is
    acknowledged, where we have nothing to send that would carry that.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


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


def open_mqtt(
    server: Server,
    client_id: str,
    subscribe_to: str | None = None,
    qos: int = 0,
    *,
    clean: bool = True,
    present: bool = False,
) -> socket.socket:
    """Connect, and subscribe if there is a filter.

    :param clean: a clean session; else one that outlives the connection.
    :param present: whether the server must have the session already.
    """
    sock = connect(server.mqtt)
    sock.sendall(wire.mqtt_connect(client_id, server.token, clean=clean))
    answer = read_exactly(sock, 4)
    if answer != bytes([0x20, 2, present, 0]):
        raise Failed(f"CONNECT was answered with {answer.hex()}")
    if subscribe_to is not None:
        sock.sendall(wire.mqtt_subscribe(subscribe_to, qos))
        answer = read_exactly(sock, 5)
        if answer != bytes([0x90, 3, 0, 1, qos]):
            raise Failed(f"SUBSCRIBE was answered with {answer.hex()}")
    return sock


def close_mqtt(sock: socket.socket) -> None:
    """Send DISCONNECT and wait until the server, which has then read everything, closes the connection.

    :raises Failed: if it sends anything more.
    """
    sock.setblocking(True)
    sock.sendall(wire.MQTT_DISCONNECT)
    if more := sock.recv(65536):
        raise Failed(f"more than was due arrived: {more[:80]!r}")
    sock.close()


def open_sse(server: Server, topic: str) -> socket.socket:
    sock = connect(server.http)
    sock.sendall(wire.sse_request(topic, server.token or ""))
    head = read_until(sock, b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Failed(f"the event stream was answered with {head[:200]!r}")
    return sock


def open_websocket(server: Server, topic: str) -> socket.socket:
    sock = connect(server.http)
    sock.sendall(wire.websocket_request(server.token or "", topic if server.nchan else ""))
    head = read_until(sock, b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        raise Failed(f"the handshake was answered with {head[:200]!r}")
    if server.nchan:
        return sock  # it has subscribed with the handshake
    sock.sendall(wire.websocket_text({"action": "subscribe", "topic": topic, "id": 1}))
    answer = read_until(sock, b"}")
    if b'"ack"' not in answer:
        raise Failed(f"the subscription was answered with {answer[:200]!r}")
    return sock


_STATUS = re.compile(rb"HTTP/1\.1 (2\d\d) ")
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")


class HttpConnection:
    """A connection with one request under way at a time.

    :param port: where to connect again.
    :ivar closed: whether the server had no more than one answer for it: it has to be opened again.
    """

    closed = False

    def __init__(self, sock: socket.socket, port: int = 0) -> None:
        self._port = port
        self._use(sock)

    def _use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._data = b""
        self.closed = False

    def open(self) -> None:
        """Connect again."""
        self._use(connect(self._port))

    def send(self, request: bytes) -> None:
        if self.sock.send(request) != len(request):
            raise Failed("the server does not read a request")

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
        if data.find(b"\r\nConnection: close\r\n", 0, head) >= 0:
            self._close()
        return data

    def _close(self) -> None:
        # The server closes first.  A reset then spares it TIME_WAIT, which would soon take all ports.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.closed = True
