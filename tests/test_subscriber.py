"""The bounded buffer of one connection, and the turn that sends all of them."""

from __future__ import annotations

import errno
import socket
from typing import Any, cast

from twisted.internet import main, tcp
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flowgate import subscriber as subscriber_module
from flowgate.subscriber import Outbox, Sink, Turn

BOUND = 1000


class Loop:
    """The part of a reactor that a connection needs, stepped by the test."""

    def __init__(self) -> None:
        self.writers: list[Any] = []

    def addWriter(self, one: Any) -> None:
        if one not in self.writers:
            self.writers.append(one)

    def removeWriter(self, one: Any) -> None:
        if one in self.writers:
            self.writers.remove(one)

    def addReader(self, one: Any) -> None:
        """Nobody reads here."""

    removeReader = addReader

    def step(self) -> None:
        """One turn: let every socket that takes bytes send, and close those that are done."""
        for one in list(self.writers):
            why = one.doWrite()
            if why:
                one.connectionLost(Failure(why))


class Counting:
    """A socket that counts the calls of ``send`` and can be told to fail."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.sizes: list[int] = []
        self.fault: OSError | None = None

    def send(self, data: bytes) -> int:
        self.sizes.append(len(data))
        if self.fault is not None:
            raise self.fault
        return self._real.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class DirectTests(SynchronousTestCase):
    """Plain TCP: bytes go straight to the socket while the peer keeps up."""

    def setUp(self) -> None:
        real, self.peer = socket.socketpair()
        for one in (real, self.peer):
            one.setblocking(False)
            self.addCleanup(one.close)
        real.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.socket = Counting(real)
        self.loop = Loop()
        self.transport = tcp.Connection(cast(socket.socket, self.socket), Protocol(), cast(Any, self.loop))
        self.transport.connected = 1
        self.turn = Turn()
        self.outbox = Outbox(cast(Sink, self.transport), self.turn, BOUND)
        self.events: list[str] = []

    def read(self) -> bytes:
        """What is there for the peer now."""
        found = b""
        while True:
            try:
                piece = self.peer.recv(65536)
            except BlockingIOError:
                return found
            if not piece:
                return found
            found += piece

    def read_all(self) -> bytes:
        """What comes to the peer while it reads on and the loop turns."""
        found = self.read()
        while self.loop.writers:
            self.loop.step()
            found += self.read()
        return found

    def block(self) -> bytes:
        """Write more than the kernel takes; return it."""
        data = b"B" * 1_000_000
        self.assertTrue(self.outbox.write(data))
        self.turn.flush()
        self.assertGreater(self.outbox.held, 0)
        return data

    def test_producer(self) -> None:
        """An outbox is a producer of both kinds."""
        verifyObject(IPushProducer, self.outbox)
        verifyObject(IPullProducer, self.outbox)

    def test_one_send_in_the_same_turn(self) -> None:
        """All that a turn wrote goes out by its flush, in order, by one call, without another turn of the reactor."""
        for piece in (b"a", b"b", b"c"):
            self.assertTrue(self.outbox.write(piece))
        self.assertEqual(self.read(), b"")
        self.turn.flush()
        self.assertEqual(self.read(), b"abc")
        self.assertEqual((self.socket.sizes, self.outbox.held, self.loop.writers), ([3], 0, []))

    def test_flush_without_work(self) -> None:
        """A flush with nothing new sends nothing."""
        self.outbox.write(b"a")
        self.turn.flush()
        self.turn.flush()
        self.outbox.flush()
        self.assertEqual(self.socket.sizes, [1])

    def test_turns_in_a_row(self) -> None:
        """An outbox takes part in every turn anew."""
        for piece in (b"a", b"b"):
            self.outbox.write(piece)
            self.turn.flush()
        self.assertEqual(self.read(), b"ab")

    def test_slow_peer(self) -> None:
        """What the kernel does not take waits; it and what follows come whole and in order when the peer reads."""
        data = self.block()
        for piece in (b"one", b"two"):
            self.outbox._bound = self.outbox.held + 100
            self.assertTrue(self.outbox.write(piece))
            self.turn.flush()
        self.assertTrue(self.read_all() == data + b"onetwo", "bytes are lost or out of order")
        self.assertEqual(self.outbox.held, 0)

    def test_fast_again(self) -> None:
        """A peer that has caught up is served at once again."""
        self.block()
        self.read_all()
        self.outbox.write(b"x")
        self.turn.flush()
        self.assertEqual((self.read(), self.loop.writers), (b"x", []))

    def test_slow_again(self) -> None:
        """A peer may fall behind and catch up any number of times; what waited may itself be too much at once."""
        sent = received = b""
        for round_ in range(5):
            data = bytes((65 + round_,)) * 700_000
            self.outbox._bound = 10_000_000
            for _ in range(3):
                self.assertTrue(self.outbox.write(data))
                self.turn.flush()
                sent += data
                received += self.read()
            received += self.read_all()
        self.assertTrue(received == sent, "bytes are lost or out of order")
        self.assertEqual(self.outbox.held, 0)

    def test_bound(self) -> None:
        """While the peer is slow as much is taken as the bound allows, to the byte, and nothing of what is beyond."""
        data = self.block()
        self.outbox._bound = self.outbox.held + 10
        self.assertTrue(self.outbox.write(b"123456"))
        self.assertFalse(self.outbox.write(b"12345"))
        self.assertTrue(self.outbox.write(b"1234"))
        self.assertFalse(self.outbox.write(b"1"))
        self.assertEqual(self.outbox.held, self.outbox._bound)
        self.assertTrue(self.read_all() == data + b"1234561234", "bytes are lost or out of order")

    def test_far_beyond_the_bound(self) -> None:
        """A peer whose first turn was more than the bound gets that whole; after it nothing more is taken."""
        data = self.block()
        self.assertFalse(self.outbox.write(b"x"))
        self.assertTrue(self.read_all() == data, "bytes are lost")
        self.assertTrue(self.outbox.write(b"x"))

    def test_large_pieces(self) -> None:
        """At most a fixed number of bytes is handed to the socket by one call, and the rest follows."""
        self.patch(subscriber_module, "SEND_AT_MOST", 100)
        data = bytes(range(250))
        self.outbox.write(data)
        self.turn.flush()
        self.assertEqual(self.socket.sizes, [100])
        self.assertEqual(self.read_all(), data)

    def test_sum(self) -> None:
        """A turn knows what all its outboxes hold; what is sent, or will never be, is not in it."""
        other = Outbox(cast(Sink, StringTransport()), self.turn, BOUND)
        other.pauseProducing()
        other.write(b"x" * 7)
        self.block()
        self.outbox._bound = self.outbox.held + 5
        self.outbox.write(b"12345")
        self.outbox.write(b"beyond")
        self.assertEqual(self.turn.held, self.outbox.held + 7)
        self.read_all()
        self.assertEqual(self.turn.held, 7)
        self.block()
        for outbox in (self.outbox, other):
            outbox.discard()
        self.assertEqual(self.turn.held, 0)

    def test_bytes_are_counted(self) -> None:
        """Every byte is counted once, when it leaves for the socket or for what stands before it."""
        data = self.block()
        self.outbox._bound = self.outbox.held + 5
        self.outbox.write(b"12345")
        self.outbox.write(b"beyond")
        self.assertEqual(self.outbox.sent.value, len(data))
        self.read_all()
        self.assertEqual(self.outbox.sent.value, len(data) + 5)

    def test_drained(self) -> None:
        """``drained`` is called when all that was held is sent, not before; what it writes goes out."""
        drained: list[int] = []

        def again() -> None:
            drained.append(self.outbox.held)
            if len(drained) == 1:
                self.outbox.write(b"more")

        self.outbox.drained = again
        data = self.block()
        self.assertEqual(drained, [])
        self.assertTrue(self.read_all() == data + b"more", "bytes are lost or out of order")
        self.assertEqual(drained, [0])

    def test_not_drained_while_fast(self) -> None:
        """A peer that keeps up causes no call of ``drained``."""
        self.outbox.drained = lambda: self.events.append("drained")
        self.outbox.write(b"a")
        self.turn.flush()
        self.assertEqual(self.events, [])

    def test_close_at_once(self) -> None:
        """With nothing held, what was written in this turn goes out, and the connection closes."""
        self.outbox.write(b"bye")
        self.outbox.close(lambda: self.events.append("closed"))
        self.assertEqual((self.read(), self.events), (b"bye", ["closed"]))

    def test_close_waits(self) -> None:
        """With bytes held, ``then`` is called once, behind the last of them; ``drained`` is not."""
        self.outbox.drained = lambda: self.events.append("drained")
        data = self.block()
        self.outbox.close(lambda: self.events.append("closed"))
        self.assertEqual(self.events, [])
        self.assertTrue(self.read_all() == data, "bytes are lost")
        self.assertEqual(self.events, ["closed"])

    def test_close_of_the_transport(self) -> None:
        """The transport's own closing, begun by the outbox, comes behind all bytes."""
        data = self.block()
        self.outbox.close(self.transport.loseConnection)
        self.assertTrue(self.read_all() == data, "bytes are lost")
        self.assertTrue(self.transport.disconnected)

    def test_discard(self) -> None:
        """After the connection is gone nothing is kept, taken or sent, and flushing and closing do no harm."""
        self.block()
        self.outbox.write(b"x")
        calls = len(self.socket.sizes)
        self.outbox.discard()
        self.assertEqual(self.outbox.held, 0)
        for piece in (b"x", b""):
            self.assertFalse(self.outbox.write(piece))
        self.turn.flush()
        self.outbox.resumeProducing()
        self.assertEqual(len(self.socket.sizes), calls)

    def test_discard_within_a_turn(self) -> None:
        """A connection that goes between writing and flushing is passed over."""
        self.outbox.write(b"x")
        self.outbox.discard()
        self.turn.flush()
        self.assertEqual(self.socket.sizes, [])

    def test_lost_while_slow(self) -> None:
        """When the transport loses the connection it tells the outbox, which then holds and takes nothing."""
        self.outbox.drained = lambda: self.events.append("drained")
        self.block()
        self.outbox.close(lambda: self.events.append("closed"))
        self.transport.connectionLost(Failure(main.CONNECTION_LOST))
        self.assertEqual((self.outbox.held, self.outbox.write(b"x"), self.events), (0, False, []))

    def test_broken_socket(self) -> None:
        """A socket that fails raises nothing here: the transport meets the fault and reports the loss in its way."""
        self.socket.fault = ConnectionResetError(errno.ECONNRESET, "reset")
        self.outbox.write(b"x")
        self.turn.flush()
        self.assertEqual(self.outbox.held, 1)
        self.loop.step()
        self.assertTrue(self.transport.disconnected)
        self.assertFalse(self.outbox.write(b"x"))


class PushTests(SynchronousTestCase):
    """Other transports (TLS, HTTP): their own ``write``, and their pauses."""

    def setUp(self) -> None:
        self.transport = StringTransport()
        self.turn = Turn()
        self.outbox = Outbox(cast(Sink, self.transport), self.turn, BOUND)
        self.events: list[str] = []

    def test_push_producer(self) -> None:
        """The outbox is the transport's push producer from the start."""
        self.assertIs(self.transport.producer, self.outbox)
        self.assertTrue(self.transport.streaming)

    def test_one_write_per_turn(self) -> None:
        """All that a turn wrote goes out by its flush, in order."""
        writes: list[bytes] = []
        self.patch(self.transport, "write", writes.append)
        for piece in (b"a", b"b"):
            self.assertTrue(self.outbox.write(piece))
        self.assertEqual(writes, [])
        self.turn.flush()
        self.assertEqual(writes, [b"ab"])

    def test_paused(self) -> None:
        """While paused, bytes are held up to the bound, then refused; resumed, they go out, and it is drained."""
        self.outbox.drained = lambda: self.events.append("drained")
        self.outbox.pauseProducing()
        self.assertTrue(self.outbox.write(b"x" * BOUND))
        self.assertFalse(self.outbox.write(b"y"))
        self.turn.flush()
        self.assertEqual((self.transport.value(), self.outbox.held), (b"", BOUND))
        self.outbox.resumeProducing()
        self.assertEqual((self.transport.value(), self.outbox.held), (b"x" * BOUND, 0))
        self.assertEqual(self.events, ["drained"])

    def test_paused_within_a_turn(self) -> None:
        """What was written before the pause, and not flushed yet, is sent behind it, before what came later."""
        self.outbox.write(b"a")
        self.outbox.pauseProducing()
        self.outbox.write(b"b")
        self.turn.flush()
        self.assertEqual(self.transport.value(), b"")
        self.outbox.resumeProducing()
        self.assertEqual(self.transport.value(), b"ab")

    def test_paused_by_a_write(self) -> None:
        """A transport that pauses while it is written to is given no more until it resumes."""

        def write(data: bytes) -> None:
            self.events.append(data.decode())
            self.outbox.pauseProducing()

        self.patch(self.transport, "write", write)
        self.outbox.drained = lambda: self.events.append("drained")
        self.outbox.write(b"a")
        self.turn.flush()
        self.outbox.write(b"b")
        self.turn.flush()
        self.assertEqual(self.events, ["a"])
        self.outbox.resumeProducing()
        self.assertEqual(self.events, ["a", "b"])
        self.outbox.resumeProducing()
        self.assertEqual(self.events, ["a", "b", "drained"])

    def test_drained_writes(self) -> None:
        """What ``drained`` writes goes out at once."""
        self.outbox.drained = lambda: self.outbox.write(b"more")
        self.outbox.pauseProducing()
        self.outbox.resumeProducing()
        self.assertEqual(self.transport.value(), b"more")

    def test_close(self) -> None:
        """Closing sends what there is, gives the transport its producer back (TLS waits for that), then closes."""

        def closed() -> None:
            self.events.append(f"{self.transport.value().decode()} {self.transport.producer}")

        self.outbox.write(b"bye")
        self.outbox.close(closed)
        self.assertEqual(self.events, ["bye None"])

    def test_close_while_paused(self) -> None:
        """Closing waits for what is held, and is done once."""
        self.outbox.pauseProducing()
        self.outbox.write(b"bye")
        self.outbox.close(lambda: self.events.append(self.transport.value().decode()))
        self.assertEqual(self.events, [])
        self.outbox.resumeProducing()
        self.outbox.resumeProducing()
        self.assertEqual(self.events, ["bye"])

    def test_stopped(self) -> None:
        """A transport that stops its producer gets nothing more."""
        self.outbox.write(b"a")
        self.outbox.stopProducing()
        self.turn.flush()
        self.assertFalse(self.outbox.write(b"b"))
        self.assertEqual(self.transport.value(), b"")


class TurnTests(SynchronousTestCase):
    """Many outboxes in one turn."""

    def test_all_are_sent(self) -> None:
        """A flush sends every outbox that was written to, each once."""
        turn, writes = Turn(), cast("list[bytes]", [])
        outboxes = []
        for _ in range(3):
            transport = StringTransport()
            self.patch(transport, "write", writes.append)
            outboxes.append(Outbox(cast(Sink, transport), turn, BOUND))
        for piece in (b"1", b"2"):
            for index, outbox in enumerate(outboxes[:2]):
                outbox.write(b"%d:%b " % (index, piece))
        turn.flush()
        self.assertEqual(writes, [b"0:1 0:2 ", b"1:1 1:2 "])

    def test_faulty_connection(self) -> None:
        """A connection whose writing fails is reported, and costs the others nothing."""
        turn = Turn()
        first, second = StringTransport(), StringTransport()

        def fail(data: bytes) -> None:
            raise RuntimeError("a fault")

        self.patch(first, "write", fail)
        for transport in (first, second):
            Outbox(cast(Sink, transport), turn, BOUND).write(b"x")
        turn.flush()
        self.assertEqual(second.value(), b"x")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_written_while_flushing(self) -> None:
        """What is written because others are sent belongs to the same flush."""
        turn = Turn()
        first, second = StringTransport(), StringTransport()
        late = Outbox(cast(Sink, second), turn, BOUND)
        self.patch(first, "write", late.write)
        Outbox(cast(Sink, first), turn, BOUND).write(b"x")
        turn.flush()
        self.assertEqual(second.value(), b"x")
