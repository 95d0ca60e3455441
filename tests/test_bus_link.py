"""The connection to NATS, against a server that a test plays."""

from __future__ import annotations

import json
import random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate.bus.connection import Server
from flowgate.bus.link import Link, NoResponders
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, StartError

INFO = b'INFO {"version":"2.15.1","max_payload":1048576}\r\n'


@implementer(ITCPTransport)
class Transport(StringTransport):  # type: ignore[misc]  # only what the link uses
    """A transport that remembers how it ended."""

    disconnected = False
    protocol: Any = None

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def abortConnection(self) -> None:
        self.disconnected = True


class Owner:
    """Remembers what the link told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.settled = 0

    def link_up(self) -> None:
        self.told.append("up")

    def link_down(self) -> None:
        self.told.append("down")

    def link_settled(self) -> None:
        self.settled += 1

    def link_drained(self) -> None:
        self.told.append("drained")


class ServerTests(SynchronousTestCase):
    """URLs of servers."""

    def test_urls(self) -> None:
        """Host, port, encryption and credentials of every accepted form."""
        for url, host, port, tls, credentials in (
            ("nats://one:4333", "one", 4333, False, {}),
            ("tls://one", "one", 4222, True, {}),
            ("one:5", "one", 5, False, {}),
            ("nats://[::1]:5", "::1", 5, False, {}),
            ("nats://me:p%40ss@one", "one", 4222, False, {"user": "me", "pass": "p@ss"}),
            ("nats://t0ken@one", "one", 4222, False, {"auth_token": "t0ken"}),
        ):
            server = Server.parse(url)
            self.assertEqual((server.host, server.port, server.tls, server.credentials), (host, port, tls, credentials))

    def test_refused_urls(self) -> None:
        """Anything else is refused without being repeated."""
        for url in ("http://s3cret@one", "nats://", "nats://s3cret@one:port", "nats://one:99999"):
            with self.assertRaises(StartError) as caught:
                Server.parse(url)
            self.assertNotIn("s3cret", str(caught.exception))

    def test_credentials_are_not_shown(self) -> None:
        """A server's repr holds no secret."""
        self.assertNotIn("s3cret", repr(Server.parse("nats://s3cret@one")))


class LinkTests(SynchronousTestCase):
    """A link from start to stop."""

    protocol: Any  # the link's end of the connection that was made last

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.owner = Owner()
        self.link = Link(
            self.reactor,
            ["nats://me:s3cret@one:1", "nats://two:2"],
            self.owner,
            ping_seconds=20,
            retry_seconds=(1, 8),
            congested_bytes=100,
            rng=random.Random(1),
        )
        self.patch(Link, "_log", Logger(observer=LogPublisher()))

    def accept(self, transport: Transport | None = None) -> Transport:
        """Play the server up to its INFO."""
        factory = self.reactor.tcpClients[-1][2]
        transport = transport or Transport()
        self.protocol = factory.buildProtocol(None)
        transport.protocol = self.protocol
        self.protocol.makeConnection(transport)
        self.protocol.dataReceived(INFO)
        return transport

    def refuse(self) -> None:
        """Play a server that nobody listens at."""
        factory: Any = self.reactor.tcpClients[-1][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def connect(self) -> Transport:
        """Play the server until the link is up."""
        transport = self.accept()
        self.protocol.dataReceived(b"PONG\r\n")
        self.reactor.advance(0)
        transport.clear()
        return transport

    def started(self) -> Transport:
        self.link.start()
        return self.connect()

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionLost()))

    def test_connects(self) -> None:
        """The connections that have stood are counted, not the attempts."""
        self.link.start()
        self.refuse()
        self.assertEqual(self.link.connects, 0)
        self.reactor.advance(9)
        self.connect()
        self.assertEqual(self.link.connects, 1)
        self.lose()
        self.reactor.advance(9)
        self.connect()
        self.assertEqual(self.link.connects, 2)

    def test_greeting(self) -> None:
        """CONNECT with credentials and without echo, the inbox, then a PING; up by its PONG."""
        self.link.start()
        self.assertEqual(self.reactor.tcpClients[0][:2], ("one", 1))
        transport = self.accept()
        self.reactor.advance(0)
        connect, sub, ping, _ = transport.value().split(b"\r\n")
        options = json.loads(connect.removeprefix(b"CONNECT "))
        self.assertEqual((options["user"], options["pass"], options["echo"]), ("me", "s3cret", False))
        self.assertEqual((sub, ping), (f"SUB {self.link.inbox}.> 1".encode(), b"PING"))
        self.assertEqual(self.owner.told, [])
        self.protocol.dataReceived(b"PONG\r\n")
        self.assertEqual((self.owner.told, self.link.up), (["up"], True))

    def test_writes_leave_at_once(self) -> None:
        """Nothing waits for the reactor's next turn."""
        transport = self.started()
        for data in (b"1", b"2", b"3"):
            self.link.write(data)
        self.assertEqual(transport.value(), b"123")

    def test_full_transport(self) -> None:
        """What the transport cannot take yet is counted, and the end of the congestion is told once."""
        transport = self.started()
        self.protocol.pauseProducing()
        self.link.write(bytes(101))
        self.assertTrue(self.link.congested)
        self.reactor.advance(0)
        self.assertEqual(transport.value(), b"")
        self.protocol.resumeProducing()
        self.protocol.resumeProducing()
        self.assertEqual((len(transport.value()), self.link.congested), (101, False))
        self.assertEqual(self.owner.told, ["up", "drained"])

    def test_down(self) -> None:
        """While the link is down, nothing can be written, and requests fail at once."""
        self.started()
        self.lose()
        self.assertEqual((self.owner.told, self.link.up), (["up", "down"], False))
        self.assertRaises(BusUnavailable, self.link.write, b"x")
        self.failureResultOf(self.link.request("a", b""), BusUnavailable)
        self.failureResultOf(self.link.fence(), BusUnavailable)

    def test_reconnect(self) -> None:
        """A lost link is made again, at the next server, with the subscriptions of now."""
        self.started()
        self.link.subscribe("a.>", lambda messages: None)
        gone = self.link.subscribe("b.>", lambda messages: None)
        self.lose()
        self.link.unsubscribe(gone)
        self.reactor.advance(1)
        transport = self.accept()
        self.reactor.advance(0)
        self.assertIn(b"SUB a.> 2\r\n", transport.value())
        self.assertNotIn(b"SUB b.>", transport.value())
        self.protocol.dataReceived(b"PONG\r\n")
        self.assertEqual(self.owner.told, ["up", "down", "up"])

    def test_pauses_grow_up_to_a_bound(self) -> None:
        """Servers are tried in turn, with growing pauses between, never longer than the longest."""
        self.link.start()
        pauses = []
        for _ in range(14):
            host = self.reactor.tcpClients[-1][0]
            self.refuse()
            (call,) = self.reactor.getDelayedCalls()
            pauses.append(call.getTime() - self.reactor.seconds())
            self.reactor.advance(pauses[-1])
            self.assertNotEqual(self.reactor.tcpClients[-1][0], host)
        self.assertLess(pauses[0], 1.01)
        self.assertGreater(pauses[-1], 3.9)
        self.assertLessEqual(max(pauses), 8)

    def test_silent_server(self) -> None:
        """A server that leaves two PINGs without an answer is given up."""
        transport = self.started()
        self.reactor.pump([20, 20])
        self.assertFalse(transport.disconnected)
        self.assertEqual(transport.value().count(b"PING"), 2)
        self.reactor.advance(20)
        self.assertTrue(transport.disconnected)

    def test_answering_server(self) -> None:
        """A server that answers is kept."""
        transport = self.started()
        for _ in range(10):
            self.reactor.advance(20)
            self.protocol.dataReceived(b"PONG\r\n")
        self.assertFalse(transport.disconnected)

    def test_stuck_handshake(self) -> None:
        """A server that never completes the handshake is given up."""
        self.link.start()
        transport = self.accept()
        self.reactor.advance(5)
        self.assertTrue(transport.disconnected)

    def test_ping_is_answered(self) -> None:
        """The server's PING gets a PONG."""
        transport = self.started()
        self.protocol.dataReceived(b"PING\r\n")
        self.assertEqual(transport.value(), b"PONG\r\n")

    def test_nonsense(self) -> None:
        """A server that does not speak the protocol loses the connection."""
        transport = self.started()
        self.protocol.dataReceived(b"HTTP/1.1 400 Bad Request\r\n")
        self.assertTrue(transport.disconnected)

    def test_handlers_get_one_call_per_read(self) -> None:
        """Subscriptions that share a handler are served by one call, in order."""
        calls: list[list[Message]] = []
        self.started()
        self.link.subscribe("a", calls.append)
        other: list[list[Message]] = []
        self.link.subscribe("b", other.append)
        self.link.subscribe("c", calls.append)
        self.protocol.dataReceived(b"MSG a 2 1\r\n1\r\nMSG b 3 1\r\n2\r\nMSG c 4 1\r\n3\r\nMSG x 99 1\r\n4\r\n")
        self.assertEqual([[message[4] for message in call] for call in calls], [[b"1", b"3"]])
        self.assertEqual([[message[4] for message in call] for call in other], [[b"2"]])
        self.assertEqual(self.owner.settled, 1)

    def test_replies_in_order(self) -> None:
        """Inboxes are served in the order of their replies, by one call for those that follow one another."""
        calls: list[tuple[str, list[bytes]]] = []
        self.started()
        for token in ("one", "two"):
            self.link.open_inbox(
                token,
                lambda messages, token=token: calls.append((token, [one[4] for one in messages])),
            )
        inbox = self.link.inbox.encode()
        subjects = (b"one.1", b"one.2", b"two.1", b"one.3")
        self.protocol.dataReceived(
            b"".join(b"MSG %b.%b 1 1\r\n%d\r\n" % (inbox, subject, n) for n, subject in enumerate(subjects))
        )
        self.assertEqual(calls, [("one", [b"0", b"1"]), ("two", [b"2"]), ("one", [b"3"])])

    def test_faulty_handler(self) -> None:
        """A handler that raises harms neither the connection nor other handlers."""
        transport = self.started()
        seen: list[Message] = []

        def faulty(messages: list[Message]) -> None:
            raise RuntimeError("a fault")

        self.link.subscribe("a", faulty)
        self.link.subscribe("b", seen.extend)
        self.protocol.dataReceived(b"MSG a 2 1\r\n1\r\nMSG b 3 1\r\n2\r\n")
        self.assertEqual((len(seen), transport.disconnected), (1, False))

    def test_request(self) -> None:
        """A request is answered by its own reply."""
        transport = self.started()
        answered = self.link.request("ask", b"{}")
        reply = transport.value().split()[2]
        self.protocol.dataReceived(b"MSG %b 1 2\r\nok\r\n" % reply)
        self.assertEqual(self.successResultOf(answered)[4], b"ok")
        self.reactor.advance(1)
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)  # the next PING

    def test_request_with_headers(self) -> None:
        """A request may carry a block of headers."""
        transport = self.started()
        self.link.request("ask", b"ab", head=b"NATS/1.0\r\nA: b\r\n\r\n").addErrback(lambda _: None)
        self.assertRegex(transport.value(), rb"HPUB ask \S+ 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nab\r\n")

    def test_request_without_answer(self) -> None:
        """A request fails after its time, when nobody listens, and when the link is lost."""
        transport = self.started()
        late = self.link.request("ask", b"", timeout=3)
        self.reactor.advance(3)
        self.failureResultOf(late, BusUnavailable)
        transport.clear()
        nobody = self.link.request("ask", b"")
        reply = transport.value().split()[2]
        self.protocol.dataReceived(b"HMSG %b 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % reply)
        self.failureResultOf(nobody, NoResponders)
        lost = self.link.request("ask", b"")
        self.lose()
        self.failureResultOf(lost, BusUnavailable)

    def test_lost_requests_that_cancel_each_other(self) -> None:
        """Whoever learns that a request is lost may give up others; the link is made again all the same."""
        self.started()
        first, second = self.link.request("ask", b""), self.link.request("ask", b"")
        third: Deferred[None] = Deferred(lambda _: self.link.close_inbox("b"))
        self.link.open_inbox("a", lambda _: None, third.cancel)
        self.link.open_inbox("b", lambda _: None, lambda: third.errback(BusUnavailable()))
        first.addErrback(lambda _: second.cancel())
        self.lose()
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)
        self.failureResultOf(third, CancelledError)
        self.assertEqual(self.owner.told, ["up", "down"])
        self.reactor.advance(1)
        self.assertEqual(len(self.reactor.tcpClients), 2)

    def test_down_before_lost_requests(self) -> None:
        """The owner learns that the link is down before anybody learns of a lost request and does something new."""
        self.started()
        told = self.owner.told
        self.link.request("ask", b"").addErrback(lambda _: told.append("request"))
        self.link.open_inbox("a", lambda _: None, lambda: told.append("inbox"))
        self.lose()
        self.assertEqual(told, ["up", "down", "request", "inbox"])

    def test_drain(self) -> None:
        """A subscription that is drained gives what the server sent before it knew, and is not made again."""
        transport = self.started()
        seen: list[Message] = []
        key = self.link.subscribe("a", seen.extend)
        transport.clear()
        self.link.drain(key)
        self.assertEqual(transport.value(), b"UNSUB 2\r\nPING\r\n")
        self.protocol.dataReceived(b"MSG a 2 1\r\n1\r\nPONG\r\n")
        self.protocol.dataReceived(b"MSG a 2 1\r\n2\r\n")
        self.assertEqual([message[4] for message in seen], [b"1"])
        self.link.drain(key)
        other = self.link.subscribe("b", seen.extend)
        self.link.drain(other)
        self.lose()
        self.link.drain(self.link.subscribe("c", seen.extend))
        self.reactor.advance(1)
        transport = self.accept()
        self.reactor.advance(0)
        self.assertNotRegex(transport.value(), rb"SUB [abc] ")

    def test_listeners(self) -> None:
        """Further listeners are told of connections that come and go, after the owner."""
        told = self.owner.told

        class Listener:
            def link_up(self) -> None:
                told.append("listener up")

            def link_down(self) -> None:
                told.append("listener down")

        self.link.add_listener(Listener())
        self.started()
        self.lose()
        self.assertEqual(told, ["up", "listener up", "down", "listener down"])

    def test_stop(self) -> None:
        """A stopped link has nothing left in the reactor, whatever state it was in."""

        def connecting() -> None:
            self.link.start()

        def waiting() -> None:
            self.link.start()
            self.refuse()

        def standing() -> None:
            self.started()
            self.link.write(b"last words")
            self.link.write(b", all of them")

        for state in (connecting, waiting, standing):
            self.setUp()
            state()
            stopped = self.link.stop()
            if state is connecting:
                self.reactor.connectors[-1].stopConnecting()
                self.refuse()
            if state is standing:
                transport = self.protocol.transport
                self.assertEqual(transport.value(), b"last words, all of them")
                self.assertTrue(transport.disconnecting)
                self.lose()
            self.successResultOf(stopped)
            self.assertEqual(self.reactor.getDelayedCalls(), [], state)
