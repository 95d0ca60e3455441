"""The outbox over a real loopback connection, with a peer that reads slowly."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import reactor as installed
from twisted.internet import tcp
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from flowgate.subscriber import Outbox, Sink, Turn

reactor = cast(Any, installed)

BOUND = 256 * 1024


class Sender(Protocol):
    """The gateway's end."""

    transport: ITCPTransport

    def __init__(self, made: Deferred[Sender]) -> None:
        self._made = made
        self.lost: Deferred[None] = Deferred()
        self.turn = Turn()

    def connectionMade(self) -> None:
        self.outbox = Outbox(cast(Sink, self.transport), self.turn, BOUND)
        self._made.callback(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.outbox.discard()
        self.lost.callback(None)


class Reader(Protocol):
    """The peer: reads nothing until it is told to, then tells when it has so many bytes."""

    transport: tcp.Connection

    def __init__(self) -> None:
        self.data = bytearray()
        self.lost: Deferred[None] = Deferred()
        self._wanted: tuple[int, Deferred[None]] | None = None

    def connectionMade(self) -> None:
        self.transport.pauseProducing()

    def read(self, count: int) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._wanted = (count, done)
        self.transport.resumeProducing()
        self._look()
        return done

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._look()

    def _look(self) -> None:
        if self._wanted is not None and len(self.data) >= self._wanted[0]:
            (_, done), self._wanted = self._wanted, None
            done.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class OutboxTests(TestCase):
    """Direct mode under a real reactor."""

    timeout = 20

    async def connect(self) -> tuple[Sender, Reader]:
        made: Deferred[Sender] = Deferred()
        factory = Factory.forProtocol(lambda: Sender(made))
        port: IListeningPort = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        reader = await connectProtocol(
            TCP4ClientEndpoint(reactor, "127.0.0.1", cast(Any, port.getHost()).port), Reader()
        )
        sender = await made

        def end() -> Deferred[object]:
            sender.transport.abortConnection()
            reader.transport.abortConnection()
            return cast("Deferred[object]", gatherResults([sender.lost, reader.lost]))

        self.addCleanup(end)
        return sender, reader

    @staticmethod
    def fill(sender: Sender) -> bytes:
        """Write, turn by turn, until the outbox takes no more; return what it took."""
        taken = b""
        number = 0
        while True:
            data = b"%08d" % number * 4096
            if not sender.outbox.write(data):
                return taken
            sender.turn.flush()
            taken += data
            number += 1

    async def test_slow_reader(self) -> None:
        """A peer that does not read fills the outbox to its bound and not beyond; when it reads, all comes in order,
        then the outbox tells that it is drained and serves at once again."""
        sender, reader = await self.connect()
        drained: Deferred[None] = Deferred()
        sender.outbox.drained = lambda: drained.callback(None)
        taken = self.fill(sender)
        self.assertTrue(BOUND - 32768 < sender.outbox.held <= BOUND, sender.outbox.held)
        await reader.read(len(taken))
        await drained
        self.assertEqual(sender.outbox.held, 0)
        sender.outbox.drained = None
        self.assertTrue(sender.outbox.write(b"more"))
        sender.turn.flush()
        await reader.read(len(taken) + 4)
        self.assertTrue(reader.data == taken + b"more", "bytes are lost or out of order")

    async def test_close_waits(self) -> None:
        """A connection that is closed while its peer is slow ends behind the last byte that was taken."""
        sender, reader = await self.connect()
        taken = self.fill(sender)
        sender.outbox.close(sender.transport.loseConnection)
        await reader.read(len(taken))
        await gatherResults([sender.lost, reader.lost])
        self.assertTrue(reader.data == taken, "bytes are lost or out of order")

    async def test_peer_goes(self) -> None:
        """A peer that goes away while bytes are held leaves an outbox that holds and takes nothing."""
        sender, reader = await self.connect()
        self.fill(sender)
        reader.transport.abortConnection()
        await sender.lost
        self.assertEqual((sender.outbox.held, sender.outbox.write(b"x")), (0, False))
