"""Thousands of MQTT connections: what an idle one costs, and all of them coming back at once."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from flowgate.mqtt import packets
from flowgate.mqtt.packets import Connack, Connect, Packet, Publish, Suback, Type
from tests.integration.gateway import RunningGateway

IDLE = 9_000
IDLE_BYTES = 6 * 1024
"""What an idle connection may cost, resident in the memory of the gateway's process."""

STORM = 5_000
STORM_SECONDS = 20.0

_PATIENCE = 40.0
_AT_ONCE = 500
"""Connections made at once where it is not the point that they come at once."""
_OTHER_FILES = 200
"""File descriptors that test and gateway need for anything else."""


def allow_files(test: SynchronousTestCase, count: int) -> None:
    """Raise the limit of open files for this process, and those it starts, until the test is over.

    :raises SkipTest: if that is not allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise SkipTest(f"{count} open files are needed, and the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    test.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))


def resident(pid: int) -> int:
    """The resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the process has ended")


@attrs.define(slots=True, eq=False)
class Member:
    """One connection of a crowd.

    :ivar answers: what the gateway has sent and nobody has taken.
    """

    socket: socket.socket
    name: str
    clean: bool
    first: bytes
    decoder: packets.Decoder = attrs.field(factory=lambda: packets.Decoder(1 << 20))
    answers: list[Packet] = attrs.field(factory=list)

    def take(self, kind: type) -> Packet | None:
        for index, packet in enumerate(self.answers):
            if isinstance(packet, kind):
                return self.answers.pop(index)
        return None


class Crowd:
    """Many MQTT connections in one thread."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token.encode()
        self._epoll = select.epoll()
        self._by_file: dict[int, Member] = {}
        self.members: list[Member] = []

    def connect(self, names: Iterable[str], clean: bool) -> None:
        """Begin to connect; CONNECT is sent as soon as a connection stands."""
        for name in names:
            connection = socket.socket()
            connection.setblocking(False)
            first = packets.connect(Connect(name, clean, 0, None, "Bearer", self._token))
            member = Member(connection, name, clean, first)
            self.members.append(member)
            self._by_file[connection.fileno()] = member
            connection.connect_ex(("127.0.0.1", self._port))
            self._epoll.register(connection, select.EPOLLOUT)

    def wait(self, members: list[Member], kind: type, check: Callable[[Member, Packet], None]) -> None:
        """Wait until each of ``members`` has got a packet of this kind, and check it.

        :raises AssertionError: if one does not in time.
        """
        waiting = {member for member in members if not self._taken(member, kind, check)}
        deadline = time.monotonic() + _PATIENCE
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"{len(waiting)} of {len(members)} clients got no {kind.__name__}")
            for file, event in self._epoll.poll(left):
                member = self._by_file[file]
                if event & select.EPOLLOUT:
                    self._open(member)
                else:
                    self._read(member)
                    if member in waiting and self._taken(member, kind, check):
                        waiting.discard(member)

    @staticmethod
    def _taken(member: Member, kind: type, check: Callable[[Member, Packet], None]) -> bool:
        packet = member.take(kind)
        if packet is None:
            return False
        check(member, packet)
        return True

    def _open(self, member: Member) -> None:
        fault = member.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if fault:
            raise AssertionError(f"{member.name} cannot connect: error {fault}")
        if member.socket.send(member.first) < len(member.first):
            raise AssertionError("the kernel does not take a CONNECT")
        self._epoll.modify(member.socket, select.EPOLLIN)

    @staticmethod
    def _read(member: Member) -> None:
        try:
            data = member.socket.recv(65536)
        except ConnectionError as error:
            raise AssertionError(f"{member.name} is cut off: {error}") from None
        if not data:
            raise AssertionError(f"{member.name} is hung up on")
        for packet in member.decoder.feed(data):
            member.answers.append(packet)
            if isinstance(packet, Publish) and packet.qos == 1:
                member.socket.send(packets.acks(Type.PUBACK, packet.packet_ids))

    def close(self) -> None:
        for member in self.members:
            member.socket.close()
        self._epoll.close()


class ManyTests(SynchronousTestCase):
    """One gateway, and more clients than a socket's backlog."""

    def setUp(self) -> None:
        allow_files(self, max(IDLE, STORM) + _OTHER_FILES)
        self.gateway = RunningGateway()
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")

    def crowd(self) -> Crowd:
        crowd = Crowd(self.gateway.mqtt, self.token)
        self.addCleanup(crowd.close)
        return crowd

    def accepted(self, present: bool) -> Callable[[Member, Packet], None]:
        """A check of CONNACK: accepted, and for persistent sessions whether they are ``present``."""

        def check(member: Member, packet: Packet) -> None:
            self.assertEqual(packet, Connack(present and not member.clean, 0), member.name)

        return check

    def test_memory(self) -> None:
        """9,000 idle connections cost at most 6 KiB each over the gateway without any."""
        assert self.gateway.process is not None
        pid = self.gateway.process.pid
        empty = resident(pid)
        crowd = self.crowd()
        for start in range(0, IDLE, _AT_ONCE):
            crowd.connect((f"idle {number}" for number in range(start, start + _AT_ONCE)), True)
            crowd.wait(crowd.members[start:], Connack, self.accepted(False))
        each = (resident(pid) - empty) / IDLE
        print(f" {each:.0f} bytes each", end=" ", flush=True)
        self.assertLessEqual(each, IDLE_BYTES)

    def test_storm(self) -> None:
        """After a restart 5,000 clients, half of them with a session, connect at once; all are served within 20 s."""
        half = STORM // 2
        names = [f"device {number}" for number in range(half)]
        before = self.crowd()
        for start in range(0, half, _AT_ONCE):
            before.connect(names[start : start + _AT_ONCE], False)
            some = before.members[start:]
            before.wait(some, Connack, self.accepted(False))
            for member in some:
                member.socket.send(packets.subscribe(1, [(f"to/{member.name}", 1)]))
            before.wait(some, Suback, lambda _, packet: self.assertEqual(packet, Suback(1, (1,))))
        before.close()

        self.gateway.kill()
        self.gateway.start()
        crowd = self.crowd()
        began = time.monotonic()
        crowd.connect(names, False)
        crowd.connect((f"visitor {number}" for number in range(STORM - half)), True)
        crowd.wait(crowd.members, Connack, self.accepted(True))
        took = time.monotonic() - began
        print(f" {took:.1f} s", end=" ", flush=True)
        self.assertLessEqual(took, STORM_SECONDS)

        # The sessions are what they were.
        chosen = crowd.members[:half:25]
        with self.gateway.mqtt_client(self.token) as publisher:
            for member in chosen:
                publisher.publish(f"to/{member.name}", member.name.encode(), 1)

        def check(member: Member, packet: Packet) -> None:
            assert isinstance(packet, Publish)
            self.assertEqual(packet.payloads(), [member.name.encode()])

        crowd.wait(chosen, Publish, check)
