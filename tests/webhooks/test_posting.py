"""Requests: which addresses are connected to, and what is read of an answer."""

# mypy: disallow-untyped-calls=False
# (Twisted's fakes have no annotations)
from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate.webhooks.addresses import AddressPolicy
from flowgate.webhooks.posting import MOST_BYTES, SECONDS, Poster, Undelivered


@implementer(IHostnameResolver)
class Names:
    """A DNS whose answers change.

    :ivar answers: what the next questions are answered with; the last answer stays.
    :ivar asked: the names that were asked for.
    """

    def __init__(self) -> None:
        self.answers: list[list[str]] = [[]]
        self.asked: list[str] = []

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        self.asked.append(hostName)
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        resolutionReceiver.resolutionBegan(self)
        for address in addresses:
            kind = IPv6Address if ":" in address else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", address, portNumber))
        resolutionReceiver.resolutionComplete()
        return self


@implementer(IReactorPluggableNameResolver)
class Reactor(MemoryReactorClock):
    """Connects nowhere, and says where it would."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Names()
        self.nameResolver: Any = self.names

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError

    def to(self) -> list[tuple[str, int]]:
        """Addresses and ports of all connections."""
        return [(client[0], client[1]) for client in self.tcpClients]


class Transport(StringTransport):
    """Tells whether the connection was cut."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class PosterTestCase(SynchronousTestCase):
    """A poster whose names are at hand."""

    allowed: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.poster = Poster(self.reactor, AddressPolicy(self.allowed))

    def post(self, url: str = "http://receiver.example/hook?a=b", body: bytes = b"{}") -> Deferred[int]:
        return self.poster.post(url, {"Flow-Id": "1"}, body)

    def undelivered(self, posting: Deferred[int]) -> str:
        self.reactor.pump([0.31] * 2)  # as long as an endpoint waits before it looks at the next address
        return str(self.failureResultOf(posting, Undelivered).value)


class AddressTests(PosterTestCase):
    """What is connected to is what was checked."""

    def test_public(self) -> None:
        """A host with a public address is connected to at that address."""
        self.reactor.names.answers = [["93.184.216.34"]]
        self.post("http://receiver.example:8080/")
        self.assertEqual(self.reactor.to(), [("93.184.216.34", 8080)])

    def test_not_public(self) -> None:
        """A host whose addresses are not public is not connected to, whatever family they are of."""
        for address in ("127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "fd00::1", "::ffff:127.0.0.1", "fe80::1"):
            self.reactor.names.answers = [[address]]
            self.assertIn("an address that webhooks may not lead to", self.undelivered(self.post()), address)
        self.assertEqual(self.reactor.to(), [])

    def test_rebound(self) -> None:
        """A name that is public at first and then stands for this machine is refused then."""
        self.reactor.names.answers = [["93.184.216.34"], ["127.0.0.1"]]
        self.post()
        self.assertIn("may not lead to", self.undelivered(self.post()))
        self.assertEqual(self.reactor.to(), [("93.184.216.34", 80)])

    def test_asked_once(self) -> None:
        """A name is asked for once for each request: between check and connection there is no second answer."""
        self.reactor.names.answers = [["93.184.216.34"], ["127.0.0.1"]]
        self.post()
        self.assertEqual(self.reactor.names.asked, ["receiver.example"])

    def test_some_public(self) -> None:
        """Of several addresses only those that are public are connected to."""
        self.reactor.names.answers = [["127.0.0.1", "93.184.216.34", "::1", "2606:4700::1111"]]
        posting = self.post()
        self.reactor.pump([0.3] * 5)
        self.assertEqual(self.reactor.to(), [("93.184.216.34", 80), ("2606:4700::1111", 80)])
        self.reactor.advance(SECONDS)
        self.undelivered(posting)

    def test_literal(self) -> None:
        """An address in the URL itself is checked too."""
        for url in ("http://127.0.0.1/", "http://[::1]/", "http://0x7f000001/"):
            self.reactor.names.answers = [["::1" if "[" in url else "127.0.0.1"]]
            self.undelivered(self.post(url))
        self.assertEqual(self.reactor.to(), [])

    def test_unknown(self) -> None:
        """A host that there is not is said to be unknown."""
        self.assertEqual(self.undelivered(self.post()), "the name of the host is not known")

    def test_no_connection(self) -> None:
        """A host that cannot be connected to is said to be so."""
        self.reactor.names.answers = [["93.184.216.34"]]
        posting = self.post()
        factory: Any = self.reactor.tcpClients[0][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        self.assertEqual(self.undelivered(posting), "no connection")


class AllowedTests(PosterTestCase):
    """The operator allows a network."""

    allowed = ("10.1.0.0/16",)

    def test_allowed(self) -> None:
        """What is in it is connected to, and nothing else that is not public."""
        self.reactor.names.answers = [["10.2.0.1", "10.1.0.1"]]
        self.post()
        self.reactor.pump([0.3] * 3)
        self.assertEqual(self.reactor.to(), [("10.1.0.1", 80)])


class AnswerTests(PosterTestCase):
    """What is written and what is read."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor.names.answers = [["93.184.216.34"]]
        self.posting = self.post(body=b'{"x":1}')
        factory: Any = self.reactor.tcpClients[0][2]
        self.protocol = factory.buildProtocol(None)
        self.transport = Transport()
        self.protocol.makeConnection(self.transport)

    def receive(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def test_request(self) -> None:
        """One POST with the body and its length, on a connection that is closed afterwards."""
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        self.assertEqual((line, body), (b"POST /hook?a=b HTTP/1.1", b'{"x":1}'))
        self.assertLessEqual(
            {b"Host: receiver.example", b"Content-Length: 7", b"Flow-Id: 1", b"Connection: close"}, set(fields)
        )
        self.assertFalse([one for one in fields if one.lower().startswith((b"accept-encoding", b"cookie"))])

    def test_status(self) -> None:
        """The status is the outcome, once the body is read."""
        self.receive(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n")
        self.assertNoResult(self.posting)
        self.receive(b"ok")
        self.assertEqual(self.successResultOf(self.posting), 202)
        self.assertFalse(self.reactor.getDelayedCalls())

    def test_redirect(self) -> None:
        """A redirect is an outcome like any other: it is not followed."""
        self.receive(b"HTTP/1.1 307 x\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(self.successResultOf(self.posting), 307)
        self.assertEqual(len(self.reactor.tcpClients), 1)

    def test_endless_body(self) -> None:
        """Of an answer without end a bounded part is read, then the connection is cut; the status counts."""
        self.receive(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(MOST_BYTES // 4096):
            self.receive(4096 * b"x")
        self.assertTrue(self.transport.aborted)
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.successResultOf(self.posting), 200)

    def test_endless_head(self) -> None:
        """A head without end is cut off too, and is no answer."""
        self.receive(b"HTTP/1.1 200 OK\r\n")
        for _ in range(MOST_BYTES // 1000 + 1):
            self.receive(b"X-Y: " + 993 * b"x" + b"\r\n")
        self.assertTrue(self.transport.aborted)
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.undelivered(self.posting), "the answer is too large")

    def test_informational(self) -> None:
        """1xx is not the answer."""
        self.receive(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(self.successResultOf(self.posting), 500)

    def test_compressed(self) -> None:
        """A compressed body is not unpacked."""
        self.receive(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope")
        self.assertEqual(self.successResultOf(self.posting), 200)

    def test_no_answer(self) -> None:
        """Without an answer it fails in time, and the connection is cut."""
        self.reactor.advance(SECONDS - 0.1)
        self.assertNoResult(self.posting)
        self.reactor.advance(0.2)
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.undelivered(self.posting), "no answer within 10 s")
        self.assertTrue(self.transport.aborted)

    def test_slow_body(self) -> None:
        """A body that does not end in time is not waited for."""
        self.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(9):
            self.reactor.advance(1)
            self.receive(b"x")
        self.assertNoResult(self.posting)
        self.reactor.advance(1.1)
        self.assertEqual(self.successResultOf(self.posting), 200)
        self.assertTrue(self.transport.aborted)

    def test_lost(self) -> None:
        """A connection that ends before the answer is a failure."""
        self.receive(b"HTTP/1.1 200")
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.undelivered(self.posting), "the connection was lost, or the answer is no HTTP")

    def test_no_http(self) -> None:
        """What is no HTTP is a failure, and nothing of it is repeated."""
        self.receive(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.undelivered(self.posting), "the connection was lost, or the answer is no HTTP")

    def test_cancelled(self) -> None:
        """A request that is broken off fails, and its connection is cut."""
        self.posting.cancel()
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.undelivered(self.posting)
        self.assertFalse(self.reactor.getDelayedCalls())
