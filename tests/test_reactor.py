"""The batching reactor: Twisted's own tests of reactors, and what is particular to this one.

A reactor can be tested with real descriptors only: these are pairs of sockets, loopback, pipes and files.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.test.reactormixins import ReactorBuilder
from twisted.python.failure import Failure
from twisted.trial.runner import TestLoader
from twisted.trial.unittest import SynchronousTestCase, TestSuite
from zope.interface import implementer

from flowgate import reactor as reactor_module
from flowgate.reactor import BatchingReactor

if sys.platform != "linux":
    skip = "epoll is Linux's"

CONFORMANCE = {
    "core": ["SystemEventTestsBuilder"],
    "fdset": ["ReactorFDSetTestsBuilder"],
    "newtls": ["ProducerTestsMixin"],
    "process": ["ProcessTestsBuilder", "PTYProcessTestsBuilder"],
    "socket": [
        "IReactorSocketVerificationTestsBuilder",
        "AdoptStreamPortErrorsTestsBuilder",
        "AdoptStreamConnectionErrorsTestsBuilder",
        "AdoptDatagramPortErrorsTestsBuilder",
    ],
    "stdio": ["StdioFilesTests"],
    "tcp": [
        "TCP4ClientTestsBuilder",
        "TCP6ClientTestsBuilder",
        "TCPPortTestsBuilder",
        "TCPFDPortTestsBuilder",
        "TCPConnectionTestsBuilder",
        "TCP4ConnectorTestsBuilder",
        "TCP6ConnectorTestsBuilder",
        "TCPTransportTestsBuilder",
        "AdoptStreamConnectionTestsBuilder",
        "TestBindAddressBuilder",
        "AbortConnectionTests",
    ],
    "threads": ["ThreadTestsBuilder"],
    "time": ["TimeTestsBuilder"],
    "tls": ["SSLClientTestsMixin", "StartTLSClientTestsMixin", "TLSPortTestsBuilder", "AbortSSLConnectionTests"],
    "udp": ["UDPServerTestsBuilder", "UDPFDServerTestsBuilder"],
    "unix": [
        "UNIXTestsBuilder",
        "UNIXDatagramTestsBuilder",
        "UNIXPortTestsBuilder",
        "UNIXFDPortTestsBuilder",
        "UNIXAdoptStreamConnectionTestsBuilder",
        "UnixClientTestsBuilder",
    ],
}
"""Modules ``twisted.internet.test.test_…``, and the builders of tests in them."""

EXCLUDED = {
    "test_logPrefix": "no log context per selectable, for speed",
    "test_lostFileDescriptor": "as with every reactor over epoll: closing takes a descriptor out without a word",
    "test_changeUID": "not the reactor's: another user needs to be able to run this Python",
    "test_changeGID": "not the reactor's: another group needs to be able to run this Python",
}
"""Tests that do not hold here, and why."""


def make_reactor(test: Any, cls: type[BatchingReactor] = BatchingReactor) -> BatchingReactor:
    """A reactor with an event loop of its own, both ended with the test."""
    before: Any = None
    with contextlib.suppress(RuntimeError):  # there may be none to come back to
        before = asyncio.get_event_loop()
    reactor = cls()

    def end() -> None:
        reactor._asyncioEventloop.close()
        asyncio.set_event_loop(before)

    test.addCleanup(end)
    return reactor


def _conformance() -> dict[str, type]:
    classes: dict[str, type] = {}
    for module_name, builders in CONFORMANCE.items():
        try:
            module = import_module(f"twisted.internet.test.test_{module_name}")
        except ModuleNotFoundError as error:
            if error.name != "hamcrest":
                raise
            members = {"skip": "Twisted's tests need PyHamcrest", "test_needs_hamcrest": lambda self: None}
            name = f"{module_name.title()}Tests"
            classes[name] = type(name, (SynchronousTestCase,), {"__module__": __name__, **members})
            continue
        for builder_name in builders:
            builder = getattr(module, builder_name)
            members = {"__module__": __name__, "reactorFactory": make_reactor, "timeout": 20}
            name = f"Batching{builder_name.removesuffix('Builder').removesuffix('Mixin')}"
            classes[name] = type(name, (builder, SynchronousTestCase), members)
    return classes


globals().update(_conformance())


def test_suite() -> TestSuite:
    """All tests of this module but those excluded; trial asks for it."""
    loader = TestLoader()
    own = [cls for cls in globals().values() if isinstance(cls, type) and cls.__module__ == __name__]
    cases = [cls for cls in own if issubclass(cls, SynchronousTestCase)]
    tests = [test for cls in cases for test in loader.loadClass(cls)]
    return TestSuite([test for test in tests if test.id().rpartition(".")[2] not in EXCLUDED])


class CountingReactor(BatchingReactor):
    """Counts how often asyncio calls."""

    calls = 0

    def _serve(self) -> None:
        self.calls += 1
        super()._serve()


@attrs.frozen(slots=True)
class Pipe:
    """An end of a pipe, as if it were a socket."""

    descriptor: int

    def fileno(self) -> int:
        return self.descriptor

    def recv(self, size: int) -> bytes:
        return os.read(self.descriptor, size)

    def send(self, data: bytes) -> int:
        return os.write(self.descriptor, data)


class Watched(FileDescriptor):
    """One end of a pair of sockets or of a pipe; what is done when it is ready, a test sets."""

    def __init__(self, reactor: Any, end: Any) -> None:
        super().__init__(reactor)
        self.end = end
        self.reads = 0
        self.writes = 0
        self.lost: list[Failure] = []
        self.reading: Callable[[], object] = self.receive
        self.writing: Callable[[], object] = self.send

    def fileno(self) -> int:
        number: int = self.end.fileno()
        return number

    def receive(self) -> object:
        try:
            return None if self.end.recv(100) else CONNECTION_DONE
        except OSError:
            return CONNECTION_LOST

    def send(self) -> object:
        try:
            self.end.send(b"x")
        except OSError:
            return CONNECTION_LOST
        return None

    def doRead(self) -> Any:
        self.reads += 1
        return self.reading()

    def doWrite(self) -> Any:
        self.writes += 1
        return self.writing()

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason)
        super().connectionLost(reason)


class BatchingReactorTests(ReactorBuilder, SynchronousTestCase):
    """What Twisted's tests do not ask."""

    timeout = 20
    reactor: Any

    def setUp(self) -> None:
        super().setUp()
        self.reactorFactory = lambda: make_reactor(self, CountingReactor)
        self.reactor = self.buildReactor()

    def pair(self) -> tuple[Watched, socket.socket]:
        """A descriptor, not watched yet, and its peer."""
        ours, peer = socket.socketpair()
        for end in (ours, peer):
            end.setblocking(False)
            self.addCleanup(end.close)
        return Watched(self.reactor, ours), peer

    def readable(self, count: int) -> list[Watched]:
        """Descriptors that are watched, and have something to read."""
        watched = []
        for _ in range(count):
            one, peer = self.pair()
            peer.send(b"x")
            self.reactor.addReader(one)
            watched.append(one)
        return watched

    def run_reactor(self) -> None:
        # What is still watched in the end is closed by the reactor; tests look at what was before.
        self.reactor.addSystemEventTrigger("before", "shutdown", self.remember)
        self.runReactor(self.reactor)

    def turns(self, count: int = 20) -> None:
        """Run the reactor for so many turns."""
        left = iter(range(count))

        def turn() -> None:
            if next(left, None) is None:
                self.reactor.stop()
            else:
                self.reactor.callLater(0, turn)

        self.reactor.callWhenRunning(turn)
        self.run_reactor()

    def remember(self) -> None:
        self.readers = self.reactor.getReaders()
        self.writers = self.reactor.getWriters()
        self.calls = self.reactor.calls
        self.reactor.removeAll()

    def test_one_call(self) -> None:
        """All that is ready is served in one call of asyncio's."""
        watched = self.readable(20)
        self.turns()
        self.assertEqual([one.reads for one in watched], [1] * 20)
        self.assertEqual(self.calls, 1)

    def test_soon(self) -> None:
        """What is to be called soon is called when all that is ready was served; outside of that, at once."""
        calls: list[tuple[str, int]] = []
        watched = self.readable(3)

        def read(one: Watched) -> object:
            self.reactor.soon(lambda: calls.append(("soon", sum(each.reads for each in watched))))
            return one.receive()

        for one in watched:
            one.reading = lambda one=one: read(one)  # type: ignore[misc]
        self.reactor.soon(lambda: calls.append(("at once", 0)))
        self.assertEqual(calls, [("at once", 0)])
        self.turns(3)
        self.assertEqual(calls[1:], [("soon", 3)] * 3)

    def test_fault_at_the_end(self) -> None:
        """A fault of what is called soon is logged, and keeps nothing else from being called."""
        called: list[int] = []
        one, other = self.readable(2)
        one.reading = lambda: (self.reactor.soon(lambda: 1 / 0), one.receive())[1]
        other.reading = lambda: (self.reactor.soon(lambda: called.append(1)), other.receive())[1]
        self.turns(3)
        self.assertEqual(called, [1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_more_than_fits(self) -> None:
        """More ready descriptors than are taken at once are served in several calls."""
        self.patch(reactor_module, "_EVENTS_AT_ONCE", 2)
        watched = self.readable(5)
        self.turns()
        self.assertEqual([one.reads for one in watched], [1] * 5)
        self.assertEqual(self.calls, 3)

    def test_getters(self) -> None:
        """What is watched for reading and for writing is told apart."""
        (one, _), (other, _) = self.pair(), self.pair()
        internal = set(self.reactor.getReaders())
        self.reactor.addReader(one)
        self.reactor.addWriter(one)
        self.reactor.addWriter(other)
        self.assertEqual(set(self.reactor.getReaders()) - internal, {one})
        self.assertEqual(set(self.reactor.getWriters()), {one, other})
        self.reactor.removeWriter(one)
        self.assertEqual(set(self.reactor.getReaders()) - internal, {one})
        self.assertEqual(set(self.reactor.getWriters()), {other})

    def test_remove_all(self) -> None:
        """Everything is taken out and returned once, but for what the reactor has for itself."""
        (one, peer), (other, _) = self.pair(), self.pair()
        internal = self.reactor.getReaders()
        self.reactor.addReader(one)
        self.reactor.addWriter(one)
        self.reactor.addWriter(other)
        self.assertCountEqual(self.reactor.removeAll(), [one, other])
        self.assertEqual((self.reactor.getReaders(), self.reactor.getWriters()), (internal, []))
        peer.send(b"x")
        self.turns()
        self.assertEqual((one.reads, one.writes, other.writes), (0, 0, 0))

    def test_removed_by_another(self) -> None:
        """Who is taken out by one that is served before it in the same call is not served; the others are."""
        one, other, third = self.readable(3)

        def remove_both() -> None:
            self.reactor.removeReader(one)
            self.reactor.removeReader(other)

        one.reading = other.reading = remove_both
        self.turns()
        self.assertCountEqual([one.reads, other.reads], [1, 0])
        self.assertEqual((third.reads, self.calls), (1, 1))

    def test_writing_ends_in_reading(self) -> None:
        """A reader that stops its own writing is not asked to write for the same event."""
        (one,) = self.readable(1)
        self.reactor.addWriter(one)
        one.reading = lambda: self.reactor.removeAll() and None
        self.turns()
        self.assertEqual((one.reads, one.writes), (1, 0))

    def test_number_in_use_again(self) -> None:
        """A number that was closed without being taken out belongs to whoever is watched with it next."""
        old, _ = self.pair()
        new, new_peer = self.pair()
        self.reactor.addReader(old)
        number = old.end.detach()
        os.close(number)
        os.dup2(new.fileno(), number)
        new.end.close()
        new.end = socket.socket(fileno=number)
        self.addCleanup(new.end.close)
        self.reactor.addReader(new)
        self.reactor.removeReader(old)
        new_peer.send(b"x")
        self.turns()
        self.assertEqual((old.reads, new.reads), (0, 1))
        self.assertIn(new, self.readers)
        self.assertNotIn(old, self.readers)

    def test_closed_before_it_is_taken_out(self) -> None:
        """Taking out what was closed already is no error, in full or in part."""
        one, _ = self.pair()
        other, _ = self.pair()
        for watched in (one, other):
            self.reactor.addReader(watched)
            self.reactor.addWriter(watched)
            watched.end.close()
        self.reactor.removeReader(one)
        self.reactor.removeWriter(one)
        self.assertEqual([each for each in self.reactor.removeAll() if each is other], [other])
        self.assertNotIn(one, self.reactor.getReaders() + self.reactor.getWriters())

    def test_fault_in_reading(self) -> None:
        """An exception closes the connection that it came from, with a line in the log, and no other."""
        faulty, other, third = self.readable(3)

        def fault() -> object:
            raise ZeroDivisionError

        faulty.reading = fault
        self.turns()
        (why,) = faulty.lost
        why.trap(ZeroDivisionError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((other.reads, third.reads, faulty.reads), (1, 1, 1))
        self.assertEqual(other.lost + third.lost, [])
        self.assertNotIn(faulty, self.readers)

    def test_fault_in_writing(self) -> None:
        """The same for writing."""
        faulty, _ = self.pair()

        def fault() -> object:
            raise ZeroDivisionError

        faulty.writing = fault
        self.reactor.addWriter(faulty)
        self.turns()
        self.assertEqual((faulty.writes, len(faulty.lost)), (1, 1))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_fault_in_closing(self) -> None:
        """An exception while a connection is closed is logged, and the others are served in the same call."""
        watched = self.readable(3)

        def fault(reason: Failure) -> None:
            raise ZeroDivisionError

        for one in watched:
            one.reading = lambda: CONNECTION_DONE
            one.connectionLost = fault  # type: ignore[method-assign]
        self.turns()
        self.assertEqual([one.reads for one in watched], [1] * 3)
        self.assertEqual(self.calls, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)

    def test_hang_up_while_writing(self) -> None:
        """A peer that is gone is noticed by writing alone."""
        one, peer = self.pair()
        peer.close()
        self.reactor.addWriter(one)
        self.turns()
        (why,) = one.lost
        why.trap(ConnectionLost)
        self.assertEqual((one.reads, one.writes), (0, 1))

    def test_hang_up_while_reading(self) -> None:
        """What was sent before a hang-up is read first, then the end."""
        one, peer = self.pair()
        peer.send(b"x")
        peer.close()
        self.reactor.addReader(one)
        self.turns()
        (why,) = one.lost
        why.trap(ConnectionDone)
        self.assertEqual((one.reads, one.writes), (2, 0))

    def test_paused_costs_nothing(self) -> None:
        """Who is paused, with data and a hang-up waiting, does not keep the reactor busy."""
        one, peer = self.pair()
        self.reactor.addReader(one)
        self.reactor.removeReader(one)
        peer.send(b"x")
        peer.close()
        self.turns()
        self.assertEqual((self.calls, one.reads), (0, 0))

    def full(self) -> tuple[Watched, socket.socket]:
        """A descriptor that takes no more, though it is watched for writing."""
        one, peer = self.pair()
        while one.send() is None:
            pass
        self.reactor.addWriter(one)
        return one, peer

    def test_half_closed_costs_nothing(self) -> None:
        """A peer that sends no more and reads nothing does not keep the reactor busy."""
        one, peer = self.full()
        peer.shutdown(socket.SHUT_WR)
        self.turns()
        self.assertEqual((self.calls, one.reads, one.writes), (0, 0, 0))

    def test_paused_while_writing_costs_nothing(self) -> None:
        """Who is paused while it waits to write is not told of what there is to read."""
        one, peer = self.full()
        self.reactor.addReader(one)
        self.reactor.removeReader(one)
        peer.send(b"x")
        self.turns()
        self.assertEqual((self.calls, one.reads, one.writes), (0, 0, 0))

    def test_half_close(self) -> None:
        """The end of what is read leaves a connection that can be half-closed open for writing."""
        ends: list[Failure] = []

        @implementer(IHalfCloseableDescriptor)
        class HalfCloseable(Watched):
            def readConnectionLost(self, reason: Failure) -> None:
                ends.append(reason)

            def writeConnectionLost(self, reason: Failure) -> None:
                raise AssertionError("writing has not ended")

        watched, peer = self.full()
        self.reactor.removeWriter(watched)
        one = HalfCloseable(self.reactor, watched.end)
        self.reactor.addReader(one)
        self.reactor.addWriter(one)
        peer.shutdown(socket.SHUT_WR)
        self.turns()
        self.assertEqual((len(ends), one.lost, one.reads, self.calls), (1, [], 1, 1))
        self.assertNotIn(one, self.readers)
        self.assertIn(one, self.writers)

    def pipe(self) -> tuple[int, int]:
        """The ends of a pipe for reading and for writing."""
        ends = os.pipe()
        for end in ends:
            os.set_blocking(end, False)
        return ends

    def test_full_pipe_without_a_reader(self) -> None:
        """A pipe that is full and that nobody reads any more has nothing but an error: it is noticed once."""
        reading, writing = self.pipe()
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
        one = Watched(self.reactor, Pipe(writing))
        self.addCleanup(os.close, writing)
        self.reactor.addWriter(one)
        os.close(reading)
        self.turns()
        self.assertEqual((self.calls, one.writes, len(one.lost)), (1, 1, 1))

    def test_empty_pipe_without_a_writer(self) -> None:
        """A pipe that is empty and that nobody writes to any more has nothing but a hang-up: it is noticed once."""
        reading, writing = self.pipe()
        one = Watched(self.reactor, Pipe(reading))
        self.addCleanup(os.close, reading)
        self.reactor.addReader(one)
        os.close(writing)
        self.turns()
        self.assertEqual((self.calls, one.reads, len(one.lost)), (1, 1, 1))

    def test_full_and_gone(self) -> None:
        """A peer that goes away while nothing more can be written to it is noticed once."""
        one, peer = self.full()
        peer.close()
        self.turns()
        self.assertEqual((self.calls, one.writes, len(one.lost)), (1, 1, 1))

    def test_reset(self) -> None:
        """A reset of a TCP connection that is watched for writing only is noticed once."""
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        for end in (listener, client, server):
            self.addCleanup(end.close)
        client.setblocking(False)
        one = Watched(self.reactor, client)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(bytes(1 << 16))
        server.close()  # with unread data: a reset
        self.reactor.addWriter(one)
        self.turns()
        self.assertEqual((self.calls, one.writes, len(one.lost)), (1, 1, 1))

    def test_plain_file(self) -> None:
        """A plain file, which epoll refuses, is read all the same, until it is taken out."""
        path = Path(self.mktemp())
        path.write_bytes(b"abc")
        file = path.open("rb", buffering=0)
        self.addCleanup(file.close)
        read = []
        reactor = self.reactor

        class Reader(FileDescriptor):
            def fileno(self) -> int:
                return file.fileno()

            def doRead(self) -> None:
                data = file.read(1)
                read.append(data)
                if not data:
                    reactor.removeReader(self)
                    reactor.callLater(0, reactor.callLater, 0, reactor.stop)

        reader = Reader(self.reactor)
        self.reactor.addReader(reader)
        self.reactor.addReader(reader)
        self.assertIn(reader, self.reactor.getReaders())
        self.run_reactor()
        self.assertEqual(read, [b"a", b"b", b"c", b""])
        self.assertNotIn(reader, self.readers)

    def test_plain_file_is_written(self) -> None:
        """The same for writing; taking everything out includes it."""
        path = Path(self.mktemp())
        with path.open("wb") as file:
            writer = FileDescriptor(self.reactor)
            writer.fileno = file.fileno  # type: ignore[method-assign]
            self.reactor.addWriter(writer)
            self.assertEqual(self.reactor.getWriters(), [writer])
            self.assertEqual(self.reactor.removeAll(), [writer])
            self.assertEqual(self.reactor.getWriters(), [])


class ClockTests(SynchronousTestCase):
    """What timers go by."""

    def test_monotonic(self) -> None:
        """It is a clock that nobody sets: one that is set back would stop all timers until it is there again."""
        reactor = make_reactor(self)
        call = reactor.callLater(5, lambda: None)
        self.addCleanup(call.cancel)
        self.assertTrue(4 < call.getTime() - time.monotonic() <= 5)


class EndTests(SynchronousTestCase):
    """What is left of a reactor."""

    def test_descriptors(self) -> None:
        """A reactor that is thrown away leaves no epoll object behind."""

        def count() -> int:
            gc.collect()
            found = 0
            for entry in os.listdir("/proc/self/fd"):
                try:
                    found += "eventpoll" in os.readlink(f"/proc/self/fd/{entry}")
                except FileNotFoundError:
                    continue  # the list's own
            return found

        class Test:
            def addCleanup(self, end: Callable[[], None]) -> None:
                self.end = end

        before = count()
        test = Test()
        reactor: Any = make_reactor(test)
        self.assertEqual(count(), before + 2)  # asyncio's and ours
        for reader in list(reactor._internalReaders):
            reactor.removeReader(reader)
            reader.connectionLost(None)
        test.end()
        del reader, reactor, test
        self.assertEqual(count(), before)
