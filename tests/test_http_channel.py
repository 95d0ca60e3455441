"""The connections of HTTP: order, bounds, times, and who is told what when one side ends."""

# mypy: disallow-untyped-calls=False
# (trial and much of twisted.web have no annotations)
from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolNegotiationFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as WebRequest
from zope.interface.verify import verifyObject

from flowgate.auth.tokens import TokenService
from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.errors import NotFound
from flowgate.http.answers import Answer, Route, json_answer
from flowgate.http.app import Root
from flowgate.http.channel import CLOSING_SECONDS, PIPELINED, READ_AHEAD_BYTES
from flowgate.http.request import Request
from flowgate.http.site import FlowGateSite
from flowgate.presence import Presence
from flowgate.websocket.resource import make_resource
from tests.http_client import NOW, Connection, HttpClient
from tests.http_client import Answer as Received

HOST = b" HTTP/1.1\r\nHost: x\r\n"
HANDSHAKE = (
    b"GET /ws?token=good HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def get(path: str, fields: bytes = b"") -> bytes:
    return b"GET " + path.encode() + HOST + fields + b"\r\n"


class Upgrade(Resource):
    """Answers as a resource of twisted.web does."""

    isLeaf = True

    def render_GET(self, request: WebRequest) -> bytes:
        return b"by twisted.web"


class Site(HttpClient):
    """A site with handlers that answer when they are told to.

    :ivar asked: the requests that were begun, in order.
    """

    def __init__(self, websocket: IResource | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[Request] = []
        self.cancelled: list[Request] = []
        self._answers: list[Deferred[Answer]] = []
        routes = [
            Route("GET", "/brief/<name>", self.wait),
            Route("GET", "/brief", self.wait, brief=True),
            Route("POST", "/brief", self.wait, brief=True),
            Route("GET", "/now", self.now_, brief=True),
            Route("GET", "/lose", self.lose, brief=True),
            Route("GET", "/later", self.wait),
            Route("GET", "/parts", self.parts),
            Route("GET", "/fails", self.fail_),
            Route("GET", "/fields", self.fields),
            Route("GET", "/nothing", self.nothing),
            Route("GET", "/cold/<path:rest>", self.wait),
        ]
        websockets = {b"/ws": websocket or cast(IResource, Upgrade())}
        root = Root(routes, websockets, lambda: self.draining)
        self.site = FlowGateSite(root, self.gateway.limits, self.clock, self.wheel, self.now)

    async def wait(self, request: Request, **_: str) -> Answer:
        self.asked.append(request)
        answer: Deferred[Answer] = Deferred()
        self._answers.append(answer)
        try:
            return await answer
        except CancelledError:
            self.cancelled.append(request)
            raise

    async def now_(self, request: Request) -> Answer:
        self.asked.append(request)
        return json_answer(request.body().decode())

    async def lose(self, request: Request) -> Answer:
        self.asked.append(request)
        request.transport.lose()
        return json_answer("to nobody")

    async def parts(self, request: Request) -> None:
        self.asked.append(request)

    async def fail_(self, request: Request) -> Answer:
        raise ValueError("of ours")

    async def fields(self, request: Request) -> Answer:
        return Answer(200, b"{}", headers=((b"A", b"b\r\nc: d"), (b"Cache-Control", b"max-age=1")))

    async def nothing(self, request: Request) -> Answer:
        return Answer(200, b"", None)

    def let(self, number: int, answer: Answer | None = None) -> None:
        """Have the request that was asked as number so and so answered, with its number."""
        self._answers[number].callback(answer or json_answer(number))
        self.settle()


class ChannelTestCase(SynchronousTestCase):
    """Has a site and a connection to it.

    :ivar writes: what was written to the transport, call by call.
    """

    websocket: IResource | None = None

    def setUp(self) -> None:
        self.site = Site()
        self.connection, self.writes = self.connect()
        self.transport = self.connection.transport
        self.send = self.connection.send

    def connect(self) -> tuple[Connection, list[bytes]]:
        connection = self.site.connect()
        writes: list[bytes] = []
        write = connection.transport.write

        def noted(data: bytes) -> None:
            writes.append(data)
            write(data)

        connection.transport.write = noted  # type: ignore[method-assign]
        return connection, writes

    @property
    def received(self) -> bytes:
        return self.connection.received

    def bodies(self) -> list[bytes]:
        """The bodies of all answers, which have their lengths."""
        found, rest = [], self.received
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            found.append(rest[:length])
            rest = rest[length:]
        return found

    def stall(self) -> None:
        """The client does not read."""
        cast(Any, self.transport).producer.pauseProducing()

    def read_on(self) -> None:
        cast(Any, self.transport).producer.resumeProducing()
        self.site.settle()


class AnswerTests(ChannelTestCase):
    """What is sent."""

    def test_one_write(self) -> None:
        """Head and body of an answer leave together, also if the answer came later."""
        self.send(get("/now"))
        self.assertEqual(len(self.writes), 1)
        self.send(get("/later"))
        self.site.let(0)
        self.assertEqual(len(self.writes), 2)
        self.assertTrue(self.writes[1].endswith(b"\r\n\r\n0"))

    def test_head(self) -> None:
        """An answer has the fields that all have, and its own."""
        self.send(get("/now", b"X-Request-Id: r-1\r\n"))
        self.assertEqual(
            self.received,
            b"HTTP/1.1 200 OK\r\n"
            b"Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n"
            b"Server: flowgate\r\n"
            b"Cache-Control: no-store\r\n"
            b"Access-Control-Allow-Origin: *\r\n"
            b"X-Request-Id: r-1\r\n"
            b"Content-Type: application/json\r\n"
            b"Content-Length: 2\r\n"
            b'\r\n""',
        )

    def test_date(self) -> None:
        """The date is that of the answer (RFC 9110 section 6.6.1)."""
        self.send(get("/now"))
        self.site.clock.advance(61)
        connection, _ = self.connect()
        connection.send(get("/now"))
        self.assertIn(b"Date: Fri, 15 Jan 2027 08:01:01 GMT\r\n", connection.received)

    def test_fields_of_its_own(self) -> None:
        """A handler's field takes the place of a general one, and no value begins another field."""
        self.send(get("/fields"))
        answer = Received(self.received, "GET")
        self.assertEqual(answer.headers.get_all("Cache-Control"), ["max-age=1"])
        self.assertEqual((answer.headers["A"], answer.headers["c"]), ("b c: d", None))
        self.assertEqual(answer.body, b"{}")

    def test_value_that_is_two_lines(self) -> None:
        """The same where no general field is replaced."""
        self.send(get("/now"))
        request = Request(self.connection.protocol, self.site.asked[0].head, b"")
        self.connection.protocol._calls.append(request)
        request.answer(200, ((b"A", b"b\r\nc: d"),), None, b"")
        answer = Received(self.writes[1], "GET")
        self.assertEqual((answer.headers["A"], answer.headers["c"]), ("b c: d", None))

    def test_head_request(self) -> None:
        """HEAD is answered as GET would be, without the body, and the next answer follows at once."""
        self.send(b"HEAD /now" + HOST + b"\r\n" + get("/now"))
        first, _, rest = self.received.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: 2", first)
        self.assertTrue(rest.startswith(b"HTTP/1.1 200 OK"))

    def test_head_request_refused(self) -> None:
        """A problem has no body either then."""
        self.send(b"HEAD /nowhere" + HOST + b"\r\n")
        self.assertTrue(self.received.startswith(b"HTTP/1.1 404 Not Found"))
        self.assertTrue(self.received.endswith(b"\r\n\r\n"))

    def test_no_content(self) -> None:
        """204 has neither a body nor a length (RFC 9110 section 8.6); any other answer without a body says so."""
        self.send(b"OPTIONS /now" + HOST + b"\r\n")
        self.assertTrue(self.received.startswith(b"HTTP/1.1 204 No Content"))
        self.assertNotIn(b"Content-Length", self.received)
        self.send(get("/nothing"))
        self.assertIn(b"Content-Length: 0\r\n\r\n", self.received)

    def test_options_of_everything(self) -> None:
        """``OPTIONS *`` asks for the server itself."""
        self.send(b"OPTIONS *" + HOST + b"\r\n")
        self.assertTrue(self.received.startswith(b"HTTP/1.1 204 No Content"))

    def test_absolute(self) -> None:
        """Whoever takes us for a proxy gets what is at the path here."""
        self.send(get("http://other.example/now"))
        self.assertTrue(self.received.startswith(b"HTTP/1.1 200 OK"))

    def test_connect(self) -> None:
        """This is no proxy."""
        self.send(b"CONNECT other.example:80" + HOST + b"\r\n")
        self.assertTrue(self.received.startswith(b"HTTP/1.1 405"))

    def test_upgrade_to_something_else(self) -> None:
        """An offer to speak another protocol is not taken up, and the body is still a body (RFC 9110 section 7.8)."""
        offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        self.send(b"POST /brief" + HOST + offer + b"Content-Length: 7\r\n\r\nGET / x" + get("/now"))
        self.assertEqual([request.path for request in self.site.asked], [b"/brief", b"/now"])
        self.assertEqual(self.site.asked[0].body(), b"GET / x")

    def test_fault(self) -> None:
        """A fault of ours is a problem without details; the connection goes on."""
        self.send(get("/fails") + get("/now"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(self.received.startswith(b"HTTP/1.1 500 Internal Server Error"))
        self.assertNotIn(b"of ours", self.received)
        self.assertEqual(len(self.bodies()), 2)

    def test_fault_in_between(self) -> None:
        """If a part of the answer has gone already, the connection ends, so that it is not taken for whole."""
        self.send(get("/parts"))
        self.site.asked[0].write(b"part")
        self.site.asked[0].processingFailed(Failure(ValueError("of ours")))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(self.transport.aborted)


class PartsTests(ChannelTestCase):
    """Answers that come in parts."""

    def begin(self, data: bytes) -> Request:
        self.send(data)
        return self.site.asked[-1]

    def test_chunks(self) -> None:
        """Each part is a chunk, and an empty one is none; the end is told."""
        request = self.begin(get("/parts"))
        for part in (b"a", b"", b"bcd"):
            request.write(part)
        request.finish()
        head, _, body = self.received.partition(b"\r\n\r\n")
        self.assertIn(b"Transfer-Encoding: chunked", head)
        self.assertEqual(body, b"1\r\na\r\n3\r\nbcd\r\n0\r\n\r\n")
        self.send(get("/now"))
        self.assertIn(b"200 OK", self.received.rpartition(b"0\r\n\r\n")[2])

    def test_length(self) -> None:
        """With a length there are no chunks."""
        request = self.begin(get("/parts"))
        request.setHeader(b"Content-Length", b"4")
        request.write(b"ab")
        request.write(b"cd")
        request.finish()
        self.assertEqual(Received(self.received, "GET").body, b"abcd")

    def test_to_http_1_0(self) -> None:
        """HTTP/1.0 has no chunks: the end of the connection is the end of the answer."""
        request = self.begin(b"GET /parts HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        request.write(b"ab")
        self.assertFalse(self.transport.disconnecting)
        request.finish()
        self.assertTrue(self.transport.disconnecting)
        answer = Received(self.received, "GET")
        self.assertEqual((answer.headers["Connection"], answer.body), ("close", b"ab"))

    def test_head(self) -> None:
        """HEAD gets no parts."""
        request = self.begin(b"HEAD /later" + HOST + b"\r\n")
        request.write(b"ab")
        request.finish()
        self.assertTrue(self.received.endswith(b"\r\n\r\n"))
        self.assertNotIn(b"chunked", self.received)

    def test_nothing(self) -> None:
        """Whoever only ends has answered with nothing."""
        self.begin(get("/parts")).finish()
        self.assertEqual(Received(self.received, "GET").body, b"")

    def test_of_twisted_web(self) -> None:
        """What twisted.web lets be said about an answer is said."""
        request = self.begin(get("/parts", b"Cookie: a=b; c=d\r\n"))
        self.assertEqual((request.getCookie(b"a"), request.getCookie(b"c")), (b"b", b"d"))
        request.setResponseCode(203, b"Hearsay")
        request.addCookie(b"e", b"f", httpOnly=True)
        request.setETag(b'"1"')
        request.setLastModified(NOW)
        request.finish()
        answer = Received(self.received, "GET")
        self.assertTrue(self.received.startswith(b"HTTP/1.1 203 Hearsay\r\n"))
        self.assertEqual(answer.headers["Set-Cookie"], "e=f; HttpOnly")
        self.assertEqual(answer.headers["ETag"], '"1"')
        self.assertEqual(answer.headers["Last-Modified"], "Fri, 15 Jan 2027 08:00:00 GMT")

    def test_too_late(self) -> None:
        """Nothing comes behind the end, and a second end is none."""
        request = self.begin(get("/parts"))
        request.finish()
        request.finish()
        self.assertRaises(RuntimeError, request.write, b"x")

    def test_to_nobody(self) -> None:
        """What is written for a client that has gone is lost without a word."""
        request = self.begin(get("/parts"))
        self.connection.lose()
        request.write(b"x")
        request.finish()
        self.assertEqual(self.received, b"")


class RequestTests(ChannelTestCase):
    """What twisted.web's resources, Klein and Autobahn take a request for."""

    def test_attributes(self) -> None:
        """Whatever they ask is answered."""
        self.send(b"POST /brief?a=b&a=c&d=" + HOST + b"A-b: c\r\na-B: d\r\nContent-Length: 3\r\n\r\nabc")
        request: Any = self.site.asked[0]
        self.assertEqual(request.args, {b"a": [b"b", b"c"], b"d": [b""]})
        self.assertEqual(list(request.requestHeaders.getRawHeaders("a-b")), ["c", "d"])
        self.assertEqual((request.getHeader("Host"), request.values(b"a-b")), ("x", [b"c", b"d"]))
        self.assertEqual((request.content.read(), request.clientproto), (b"abc", b"HTTP/1.1"))
        self.assertEqual(request.getClientAddress(), self.transport.getPeer())
        self.assertEqual(request.getHost(), self.transport.getHost())
        self.assertFalse(request.isSecure())
        self.assertTrue(IRequest.providedBy(request))

    def test_klein(self) -> None:
        """A route that only Klein finds is answered, and its handler cancelled when the client goes."""
        self.send(get("/cold/a/b"))
        self.site.let(0)
        self.assertEqual(self.bodies(), [b"0"])
        self.send(get("/cold/a/b"))
        self.connection.lose()
        self.assertEqual(self.site.cancelled, self.site.asked[1:])

    def test_resource(self) -> None:
        """A resource may give its answer back."""
        self.send(get("/ws"))
        self.assertEqual(Received(self.received, "GET").body, b"by twisted.web")

    def test_finish_is_told(self) -> None:
        """Whoever asks is told how it ended."""
        ends: list[object] = []
        self.send(get("/later"))
        self.site.asked[0].notifyFinish().addBoth(ends.append)
        self.site.let(0)
        self.assertEqual(ends, [None])
        self.send(get("/later"))
        self.site.asked[1].notifyFinish().addErrback(ends.append)
        self.connection.lose()
        self.assertEqual(len(ends), 2)

    def test_interfaces(self) -> None:
        """A connection is told of half of its end, and TLS clients which protocol is spoken."""
        verifyObject(IHalfCloseableProtocol, self.connection.protocol)
        verifyObject(IProtocolNegotiationFactory, self.site.site)
        self.assertEqual(self.site.site.acceptableProtocols(), [b"http/1.1"])


class PersistenceTests(ChannelTestCase):
    """Connections that go on, and those that do not."""

    def test_goes_on(self) -> None:
        """A connection serves one request after the other."""
        for count in range(1, 4):
            self.send(get("/now"))
            self.assertEqual(len(self.bodies()), count)
        self.assertFalse(self.transport.disconnecting)

    def test_last_one(self) -> None:
        """A client that wants to end is told so, and what it sends nevertheless is not read."""
        self.send(get("/now", b"Connection: close\r\n") + get("/now"))
        self.assertEqual(len(self.bodies()), 1)
        self.assertIn(b"Connection: close\r\n", self.received)
        self.assertTrue(self.transport.disconnecting)

    def test_last_one_later(self) -> None:
        """The same if the answer takes time."""
        self.send(get("/later", b"Connection: close\r\n") + get("/now"))
        self.assertFalse(self.transport.disconnecting)
        self.site.let(0)
        self.assertEqual((self.bodies(), len(self.site.asked)), ([b"0"], 1))
        self.assertTrue(self.transport.disconnecting)

    def test_http_1_0(self) -> None:
        """HTTP/1.0 ends after one request, unless the client asks for more; then it is told that it goes on."""
        self.send(b"GET /now HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
        self.assertTrue(self.received.startswith(b"HTTP/1.0 200 OK\r\n"))
        self.assertIn(b"Connection: keep-alive\r\n", self.received)
        self.assertFalse(self.transport.disconnecting)
        self.send(b"GET /now HTTP/1.0\r\n\r\n")
        self.assertEqual(len(self.bodies()), 2)
        self.assertTrue(self.transport.disconnecting)

    def test_draining(self) -> None:
        """While this node goes away the next answer is the last one; those before it do not say so."""
        self.send(get("/brief"))
        self.site.draining = True
        self.send(get("/brief") + get("/brief"))
        self.assertEqual(len(self.site.asked), 2)
        self.site.let(0)
        self.assertNotIn(b"Connection", self.received)
        self.site.let(1)
        self.assertEqual(self.received.count(b"Connection: close"), 1)
        self.assertTrue(self.transport.disconnecting)

    def test_refusal_is_the_last(self) -> None:
        """A request that is none is answered with a problem in its turn, and nothing behind it is read."""
        self.send(get("/brief") + b"what?\r\n\r\n" + get("/now"))
        self.assertEqual(self.received, b"")
        self.site.let(0)
        first, second = self.bodies()
        self.assertEqual(first, b"0")
        self.assertIn(b'"status":400', second)
        self.assertEqual(len(self.site.asked), 1)
        self.assertTrue(self.transport.disconnecting)

    def test_refusal(self) -> None:
        """The problem is like every other one."""
        self.send(b"GET /now HTTP/2.0\r\nHost: x\r\n\r\n")
        answer = Received(self.received, "GET")
        self.assertEqual((answer.status, answer.json()["code"]), (505, "version_not_supported"))
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        self.assertEqual(answer.headers["X-Request-Id"], answer.json()["request_id"])
        self.assertEqual(answer.headers["Connection"], "close")

    def test_large_body_behind_another(self) -> None:
        """A body that is too large is refused in its turn too, and then thrown away."""
        self.send(get("/brief") + b"POST /brief" + HOST + b"Content-Length: 99999999\r\n\r\n")
        self.assertEqual(self.received, b"")
        self.site.let(0)
        self.assertEqual(self.received.count(b"413"), 2)  # in the status line and in the problem
        self.assertFalse(self.transport.disconnecting)
        for _ in range(100):
            self.send(b"x" * 999_999)
        self.assertFalse(self.transport.disconnecting)
        self.send(b"x" * 99)
        self.assertTrue(self.transport.disconnecting)


class PipeliningTests(ChannelTestCase):
    """Requests that come before those ahead of them are answered."""

    def test_one_write(self) -> None:
        """What is answered while a read is worked on leaves by one write."""
        self.send(get("/now") * 5)
        self.assertEqual((len(self.bodies()), len(self.writes)), (5, 1))

    def test_brief_ones(self) -> None:
        """Brief requests are begun beside each other, in order, and answered in order."""
        self.send(get("/brief") + b"POST /brief" + HOST + b"\r\n" + get("/now"))
        self.assertEqual(len(self.site.asked), 3)
        self.site.let(1)
        self.assertEqual(self.received, b"")
        self.site.let(0)
        self.assertEqual(self.bodies(), [b"0", b"1", b'""'])
        self.assertEqual(len(self.writes), 1)

    def test_brief_ones_behind_another(self) -> None:
        """A request that is not brief could change what others find: they wait."""
        self.send(get("/later") + get("/brief") + get("/brief"))
        self.assertEqual(len(self.site.asked), 1)
        self.site.let(0)
        self.assertEqual(len(self.site.asked), 3)

    def test_another_behind_brief_ones(self) -> None:
        """It waits for those ahead of it as well."""
        self.send(get("/brief") + get("/brief") + get("/later") + get("/brief"))
        self.assertEqual(len(self.site.asked), 2)
        self.site.let(0)
        self.assertEqual(len(self.site.asked), 2)
        self.site.let(1)
        self.assertEqual(len(self.site.asked), 3)
        self.site.let(2)
        self.assertEqual(len(self.site.asked), 4)
        self.site.let(3)
        self.assertEqual(self.bodies(), [b"0", b"1", b"2", b"3"])

    def test_route_with_parts(self) -> None:
        """Only whole paths are brief ones."""
        self.send(get("/brief/a") + get("/brief/b"))
        self.assertEqual(len(self.site.asked), 1)

    def test_parts_behind_another(self) -> None:
        """An answer in parts waits for its turn as well as a whole one does."""
        self.send(get("/brief") + get("/brief"))
        second = self.site.asked[1]
        second.setHeader(b"A", b"b")
        second.write(b"x")
        second.write(b"y")
        self.assertEqual(self.received, b"")
        self.site.let(0)
        self.assertTrue(self.received.endswith(b"1\r\nx\r\n1\r\ny\r\n"))
        second.write(b"z")
        second.finish()
        self.assertTrue(self.received.endswith(b"1\r\nz\r\n0\r\n\r\n"))

    def test_bound(self) -> None:
        """So many are under way at once, and no more."""
        self.send(get("/brief") * (PIPELINED + 5))
        self.assertEqual(len(self.site.asked), PIPELINED)
        self.site.let(0)
        self.assertEqual(len(self.site.asked), PIPELINED + 1)

    def test_reads_no_further(self) -> None:
        """While nothing can be begun a little more is read, so that the end is noticed, and then no more."""
        self.send(get("/later"))
        self.send(b"x" * READ_AHEAD_BYTES)
        self.assertEqual(self.transport.producerState, "producing")
        self.send(b"x")
        self.assertEqual(self.transport.producerState, "paused")

    def test_reads_on(self) -> None:
        """Once something can be begun, the client is read again."""
        self.send(get("/later") + get("/now") * 1000)
        self.assertEqual(self.transport.producerState, "paused")
        self.site.let(0)
        self.assertEqual(self.transport.producerState, "producing")
        self.assertEqual(len(self.bodies()), 1001)

    def test_large_request_behind_another(self) -> None:
        """A body that cannot be read yet is read when its turn comes."""
        body = b"x" * 100_000
        self.send(get("/later") + b"POST /brief" + HOST + b"Content-Length: 100000\r\n\r\n" + body[:50_000])
        self.assertEqual(self.transport.producerState, "paused")
        self.site.let(0)
        self.assertEqual(self.transport.producerState, "producing")
        self.send(body[50_000:])
        self.assertEqual(self.site.asked[1].body(), body)

    def test_lost_in_between(self) -> None:
        """Nothing is begun any more on a connection that is lost while its requests are begun."""
        self.send(get("/lose") * 3)
        self.assertEqual(len(self.site.asked), 1)
        self.assertEqual(self.site.wheel._places, {})

    def test_stops_when_cut_off(self) -> None:
        """Nothing is begun any more on a connection that is aborted in between."""
        self.send(get("/brief") + get("/brief"))
        self.site.asked[0].abort()
        self.site.settle()
        self.assertEqual(self.site.cancelled, self.site.asked)
        self.send(get("/now"))
        self.assertEqual(len(self.site.asked), 2)


class ContinueTests(ChannelTestCase):
    """Clients that ask before they send a body."""

    HEAD = b"POST /brief" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"

    def test_told(self) -> None:
        """They are told to go on, once."""
        self.send(self.HEAD)
        self.assertEqual(self.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.send(b"a")
        self.send(b"bc")
        self.site.let(0)
        self.assertEqual(self.received.count(b"100 Continue"), 1)
        self.assertEqual(self.site.asked[0].body(), b"abc")

    def test_body_has_come(self) -> None:
        """Who did not wait need not be told (RFC 9110 section 10.1.1)."""
        self.send(self.HEAD + b"abc")
        self.assertEqual(self.received, b"")

    def test_in_its_turn(self) -> None:
        """It does not come in between the answers to others."""
        self.send(get("/brief") + self.HEAD)
        self.assertEqual(self.received, b"")
        self.site.let(0)
        self.assertTrue(self.received.endswith(b"0HTTP/1.1 100 Continue\r\n\r\n"))

    def test_each_time(self) -> None:
        """Each request is told for itself."""
        for number in range(2):
            self.send(self.HEAD)
            self.send(b"abc")
            self.site.let(number)
        self.assertEqual(self.received.count(b"100 Continue"), 2)

    def test_http_1_0(self) -> None:
        """HTTP/1.0 does not know it."""
        self.send(self.HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertEqual(self.received, b"")


class EndTests(ChannelTestCase):
    """Clients that go."""

    def half_close(self) -> None:
        self.connection.protocol.readConnectionLost()
        self.site.settle()

    def test_gone(self) -> None:
        """A client that has gone cancels its requests, and nothing of them is left."""
        self.send(get("/brief") + get("/brief") + get("/later"))
        self.connection.lose()
        self.assertEqual(self.site.cancelled, self.site.asked)
        self.assertEqual(len(self.site.asked), 2)
        self.assertEqual(self.site.wheel._places, {})

    def test_gone_while_it_is_answered(self) -> None:
        """A handler that ends late does not bother anybody."""
        self.send(get("/later"))
        self.connection.lose()
        self.assertEqual(self.received, b"")

    def test_sends_no_more(self) -> None:
        """A client that only ends its side gets the answers to its brief requests."""
        self.send(get("/brief") * 2)
        self.half_close()
        self.assertFalse(self.transport.disconnecting)
        self.site.let(0)
        self.assertFalse(self.transport.disconnecting)
        self.site.let(1)
        self.assertEqual(self.bodies(), [b"0", b"1"])
        self.assertTrue(self.transport.disconnecting)

    def test_sends_no_more_and_waits(self) -> None:
        """For any other request nobody may be there any more: it is cancelled."""
        self.send(get("/later"))
        self.half_close()
        self.assertEqual(self.site.cancelled, self.site.asked)
        self.assertTrue(self.transport.disconnecting)

    def test_sends_no_more_and_waits_for_its_turn(self) -> None:
        """It is not begun then, either."""
        self.send(get("/brief") + get("/later"))
        self.half_close()
        self.site.let(0)
        self.assertEqual((self.bodies(), len(self.site.asked)), ([b"0"], 1))
        self.assertTrue(self.transport.disconnecting)

    def test_sends_no_more_and_was_refused(self) -> None:
        """What is refused behind them is refused still."""
        self.send(get("/brief") + b"what?\r\n\r\n")
        self.half_close()
        self.site.let(0)
        self.assertEqual(len(self.bodies()), 2)
        self.assertTrue(self.transport.disconnecting)

    def test_sends_no_more_in_between(self) -> None:
        """Half a request will never be a whole one."""
        for data in (b"", b"GET /now HT", b"POST /now" + HOST + b"Content-Length: 5\r\n\r\n12", get("/now")):
            connection, _ = self.connect()
            connection.send(data)
            connection.protocol.readConnectionLost()
            self.assertTrue(connection.transport.disconnecting, data)

    def test_sends_no_more_of_a_body_that_is_thrown_away(self) -> None:
        """The rest of a body that is too large is not waited for."""
        self.send(b"POST /brief" + HOST + b"Content-Length: 99999999\r\n\r\n")
        self.half_close()
        self.assertTrue(self.transport.disconnecting)

    def test_stays(self) -> None:
        """Who does not go when it is told to is made to."""
        self.transport.loseConnection = lambda: None  # type: ignore[method-assign]
        self.send(get("/now", b"Connection: close\r\n"))
        self.site.clock.pump([1] * (CLOSING_SECONDS - 1))
        self.assertFalse(self.transport.aborted)
        self.transport.loseConnection = lambda: self.transport.lose()  # type: ignore[method-assign]
        self.site.clock.pump([1] * 3)
        self.assertTrue(self.transport.aborted)
        self.assertEqual(self.site.wheel._places, {})


class SlowReaderTests(ChannelTestCase):
    """Clients that do not read what they asked for."""

    def test_begins_nothing(self) -> None:
        """While a client does not read, nothing more is begun for it."""
        self.send(get("/now"))
        self.stall()
        self.send(get("/now") * 3)
        self.assertEqual(len(self.site.asked), 1)
        self.read_on()
        self.assertEqual(len(self.bodies()), 4)

    def test_reads_no_further(self) -> None:
        """And it is read no further either."""
        self.stall()
        self.send(get("/now") * 1000)
        self.assertEqual(self.transport.producerState, "paused")
        self.read_on()
        self.assertEqual(self.transport.producerState, "producing")

    def test_answers_are_kept(self) -> None:
        """What was begun is answered; it waits here until the client reads."""
        self.send(get("/brief") * 2)
        self.stall()
        self.site.let(0)
        self.site.let(1)
        self.assertEqual(self.received, b"")
        self.read_on()
        self.assertEqual((self.bodies(), len(self.writes)), ([b"0", b"1"], 1))

    def test_last_answer(self) -> None:
        """The last answer is waited for, before the connection is closed."""
        self.stall()
        self.read_on()
        self.send(get("/later", b"Connection: close\r\n"))
        self.stall()
        self.site.let(0)
        self.assertFalse(self.transport.disconnecting)
        self.read_on()
        self.assertEqual(self.bodies(), [b"0"])
        self.assertTrue(self.transport.disconnecting)

    def test_half_a_request_behind(self) -> None:
        """The beginning of a next request does not shorten the time that it has for that."""
        self.send(get("/later") + b"GET /now HT")
        self.stall()
        self.site.let(0)
        self.site.clock.pump([1] * 50)
        self.assertFalse(self.transport.disconnecting)
        self.read_on()
        self.site.clock.pump([1] * 12)
        self.assertTrue(self.transport.disconnecting)

    def test_never_reads(self) -> None:
        """A client that does not read its answer at all is cut off after the time that a connection may rest."""
        self.send(get("/later"))
        self.stall()
        self.site.let(0)
        self.site.clock.pump([1] * 62)
        self.assertTrue(self.transport.aborted)

    def test_producer(self) -> None:
        """Who produces an answer is paused and resumed, also if the client was slow before."""
        calls: list[str] = []

        class Producer:
            def pauseProducing(self) -> None:
                calls.append("pause")

            def resumeProducing(self) -> None:
                calls.append("resume")

            def stopProducing(self) -> None:
                calls.append("stop")

        self.send(get("/parts"))
        request: Any = self.site.asked[0]
        request.registerProducer(Producer(), True)
        self.stall()
        self.read_on()
        self.assertEqual(calls, ["pause", "resume"])
        self.stall()
        request.unregisterProducer()
        request.registerProducer(Producer(), True)
        self.assertEqual(calls, ["pause", "resume", "pause", "pause"])
        self.connection.lose()
        self.assertEqual(calls[4:], ["stop"])

    def test_second_producer(self) -> None:
        """There is one at a time."""
        self.send(get("/parts"))
        channel = self.connection.protocol
        channel.registerProducer(object(), True)
        self.assertRaises(RuntimeError, channel.registerProducer, object(), True)

    def test_pulled_producer(self) -> None:
        """A producer that wants to be asked is asked while the client reads, as files of twisted.web are."""
        test = self

        class Producer:
            left = 5

            def resumeProducing(self) -> None:
                self.left -= 1
                request = test.site.asked[0]
                request.write(b"%d" % self.left)
                if self.left == 3:
                    test.stall()
                if not self.left:
                    request.unregisterProducer()
                    request.finish()

            def stopProducing(self) -> None:
                self.left = -1

        producer: Any = Producer()
        self.send(get("/parts"))
        self.site.asked[0].registerProducer(producer, False)
        self.site.settle()
        self.assertEqual(producer.left, 3)
        self.read_on()
        self.assertEqual(self.connection.body(), b"43210")
        self.send(get("/now"))
        self.assertTrue(self.received.endswith(b'""'))

    def test_pulled_producer_is_stopped(self) -> None:
        """When the client goes, it is not asked any more."""
        test = self
        asked: list[None] = []

        class Producer:
            def resumeProducing(self) -> None:
                asked.append(None)
                test.stall()

            def stopProducing(self) -> None:
                asked.clear()

        self.send(get("/parts"))
        self.site.asked[0].registerProducer(Producer(), False)
        self.site.settle()
        self.assertEqual(len(asked), 1)
        self.connection.lose()
        self.assertEqual(asked, [])


class TimeTests(ChannelTestCase):
    """Beyond what is in ``test_http_limits``."""

    def test_no_deadline_while_it_is_answered(self) -> None:
        """A client may wait as long as it wants to."""
        self.send(get("/later"))
        self.site.clock.pump([10] * 100)
        self.assertFalse(self.transport.disconnecting)
        self.site.let(0)
        self.site.clock.pump([1] * 59)
        self.assertFalse(self.transport.disconnecting)
        self.site.clock.pump([1] * 3)
        self.assertTrue(self.transport.disconnecting)

    def test_rests_between_requests(self) -> None:
        """Each answer begins a new time of rest."""
        for _ in range(5):
            self.send(get("/now"))
            self.site.clock.pump([1] * 50)
            self.assertFalse(self.transport.disconnecting)

    def test_large_body_behind_another(self) -> None:
        """What is thrown away is awaited only once the requests ahead of it are answered."""
        self.send(get("/brief") + b"POST /brief" + HOST + b"Content-Length: 99999999\r\n\r\n")
        self.site.clock.pump([1] * 100)
        self.assertFalse(self.transport.disconnecting)
        self.site.let(0)
        self.site.clock.pump([1] * 9)
        self.assertFalse(self.transport.disconnecting)
        self.site.clock.pump([1] * 3)
        self.assertTrue(self.transport.disconnecting)

    def test_empty_lines(self) -> None:
        """Line ends before a request gain no time."""
        for _ in range(11):
            self.send(b"\r\n")
            self.site.clock.advance(1)
        self.assertTrue(self.transport.disconnecting)

    def test_no_memory_while_it_rests(self) -> None:
        """A connection that rests keeps nothing of what it has read."""
        self.send(get("/now"))
        self.assertEqual(self.connection.protocol._reader._data, b"")

    def test_few_timers(self) -> None:
        """All connections together have one delayed call."""
        self.send(get("/now"))
        before = len(self.site.clock.getDelayedCalls())
        for _ in range(100):
            connection, _ = self.connect()
            connection.send(get("/now"))
        self.assertEqual(len(self.site.clock.getDelayedCalls()), before)


class WebSocketTests(SynchronousTestCase):
    """Connections that become WebSockets."""

    PING = b"\x89\x82\0\0\0\0hi"
    PONG = b"\x8a\x02hi"

    def setUp(self) -> None:
        site = Site()
        presence = Presence(MemoryPeers(MemoryPeersHub(site.clock)), site.clock, site.now)
        tokens = cast(TokenService, site.tokens)
        resource = make_resource(site.gateway, tokens, presence, site.wheel, site.clock, site.now)
        self.site = Site(websocket=resource)
        self.connection = self.site.connect()
        self.channel = self.connection.protocol

    def receive(self, data: bytes) -> None:
        """As a socket does: what has the transport is given what comes."""
        self.connection.transport.protocol.dataReceived(data)
        self.site.settle()

    def test_taken_over(self) -> None:
        """Autobahn has the transport then, and the channel's deadlines are gone."""
        self.receive(HANDSHAKE)
        self.assertTrue(self.connection.received.startswith(b"HTTP/1.1 101 "))
        self.assertIsNot(self.connection.transport.protocol, self.channel)
        self.assertNotIn(self.channel, self.site.wheel._places)
        self.receive(self.PING)
        self.assertTrue(self.connection.received.endswith(self.PONG))

    def test_eager(self) -> None:
        """What came together with the handshake is not lost."""
        self.receive(HANDSHAKE + self.PING)
        self.assertTrue(self.connection.received.endswith(self.PONG))

    def test_behind_requests(self) -> None:
        """A handshake waits for its turn, and the answers ahead of it go out first."""
        self.receive(get("/now") + get("/brief") + HANDSHAKE + self.PING)
        self.assertEqual(self.connection.received.count(b"HTTP/1.1"), 1)
        self.site.let(0)
        self.assertEqual(self.connection.received.count(b"HTTP/1.1 200 OK"), 2)
        self.assertIn(b"HTTP/1.1 101 ", self.connection.received)
        self.assertTrue(self.connection.received.endswith(self.PONG))

    def test_refused(self) -> None:
        """A refused handshake is answered and the connection closed."""
        self.receive(HANDSHAKE.replace(b"token=good", b"token=bad"))
        self.assertTrue(self.connection.received.startswith(b"HTTP/1.1 401 "))
        self.assertTrue(self.connection.transport.disconnecting)

    def test_lost(self) -> None:
        """The channel takes no part in the end."""
        self.receive(HANDSHAKE)
        self.connection.transport.lose()
        self.assertEqual(self.site.wheel._places, {})


class HandOverTests(SynchronousTestCase):
    """A transport that is still full."""

    def test_not_handed_over(self) -> None:
        """A client that does not read gets no WebSocket, whose frames could overtake what it has still to read."""
        rendered: list[object] = []

        class Fake(Resource):
            isLeaf = True

            def render(self, request: Any) -> Any:
                rendered.append(request)
                return NOT_DONE_YET

        site = Site(websocket=cast(IResource, Fake()))
        connection = site.connect()
        write = connection.transport.write

        def full(data: bytes) -> None:
            write(data)
            cast(Any, connection.transport).producer.pauseProducing()

        connection.transport.write = full  # type: ignore[method-assign]
        connection.send(get("/now") + HANDSHAKE)
        self.assertEqual(rendered, [])
        self.assertTrue(connection.transport.aborted)


class RefusalOfHandlersTests(ChannelTestCase):
    """Handlers that refuse after a while."""

    def test_refused_later(self) -> None:
        """A failure of what a handler awaits reaches it."""
        self.send(get("/later"))
        self.site._answers[0].errback(NotFound("later"))
        self.assertTrue(self.received.startswith(b"HTTP/1.1 404"))
        self.assertIn(b'"detail":"later"', self.received)
