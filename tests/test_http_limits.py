"""Bounds on what is read, and for how long; and bodies of any kind."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate.http.channel import BODY_BYTES
from flowgate.limits import Limits
from flowgate.message import Stored
from tests.http_client import Answer, HttpClient, request


class BodyTests(SynchronousTestCase):
    """The bound of bodies."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def test_length_beyond_the_bound(self) -> None:
        """A body that says it is too large is refused before it is read."""
        connection = self.client.connect()
        connection.send(b"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES + 1))
        answer = Answer(connection.received, "POST")
        self.assertEqual((answer.status, answer.json()["code"]), (413, "message_too_large"))
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")

    def test_what_still_comes_is_thrown_away(self) -> None:
        """The connection stays open while the rest comes, so that the answer is not lost, and is closed then."""
        connection = self.client.connect()
        size = BODY_BYTES + 1
        connection.send(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        before = connection.received
        for _ in range(size // 65536):
            connection.send(b"x" * 65536)
        self.assertFalse(connection.transport.disconnecting)
        connection.send(b"x" * (size % 65536))
        self.assertTrue(connection.transport.disconnecting)
        self.assertEqual(connection.received, before)

    def test_rest_that_never_comes(self) -> None:
        """Waiting for the rest has an end."""
        connection = self.client.connect()
        connection.send(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % 10**12)
        self.client.clock.pump([1] * 11)
        self.assertTrue(connection.transport.disconnecting)

    def test_expecting_client(self) -> None:
        """A client that asks before it sends is not told to go on."""
        connection = self.client.connect()
        connection.send(
            b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (BODY_BYTES + 1)
        )
        self.assertTrue(connection.received.startswith(b"HTTP/1.1 413"))
        self.assertNotIn(b"100 Continue", connection.received)

    def test_chunked_body_beyond_the_bound(self) -> None:
        """A chunked body is refused when it has become too large."""
        connection = self.client.connect()
        connection.send(b"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        for _ in range(BODY_BYTES // 0x100000):
            connection.send(chunk)
        self.assertEqual(connection.received, b"")
        connection.send(chunk)
        self.assertTrue(connection.received.startswith(b"HTTP/1.1 413"))
        connection.send(b"0\r\n\r\n")
        self.assertTrue(connection.transport.disconnecting)

    def test_chunked_body(self) -> None:
        """A chunked body is as good as any other."""
        connection = self.client.connect()
        body = json.dumps({"topic": "a", "message": 1}).encode()
        connection.send(
            b"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        )
        self.assertIn(b"200 OK", connection.received)

    def test_two_lengths(self) -> None:
        """A request with two lengths is refused: somebody on the way may have believed the other one."""
        connection = self.client.connect()
        connection.send(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.assertTrue(connection.received.startswith(b"HTTP/1.1 400"))
        self.assertTrue(connection.transport.disconnecting)


class HeadTests(SynchronousTestCase):
    """The bound of heads."""

    def setUp(self) -> None:
        self.client = HttpClient(Limits(requests_head_bytes=1024))

    def test_head_too_large(self) -> None:
        """Endless headers end the connection."""
        connection = self.client.connect()
        connection.send(b"GET / HTTP/1.1\r\n" + b"X-A: %s\r\n" % (b"x" * 500) * 4)
        self.assertTrue(connection.transport.disconnecting)

    def test_line_too_long(self) -> None:
        """So does one line that has no end."""
        connection = self.client.connect()
        for _ in range(10):
            connection.send(b"x" * 1000)
        self.assertTrue(connection.transport.disconnecting)


class TimeTests(SynchronousTestCase):
    """Requests that do not come to an end."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def test_head_drop_by_drop(self) -> None:
        """A head has to be whole in time, however often a byte of it comes."""
        connection = self.client.connect()
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"[:12]:
            connection.send(bytes([byte]))
            self.client.clock.advance(1)
        self.assertTrue(connection.transport.disconnecting)

    def test_body_drop_by_drop(self) -> None:
        """So has a body."""
        connection = self.client.connect()
        connection.send(b"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        for _ in range(12):
            connection.send(b"x")
            self.client.clock.advance(1)
        self.assertTrue(connection.transport.disconnecting)

    def test_large_body_has_more_time(self) -> None:
        """A large body may take longer."""
        connection = self.client.connect()
        connection.send(b"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES)
        self.client.clock.pump([1] * 60)
        self.assertFalse(connection.transport.disconnecting)

    def test_nothing_at_all(self) -> None:
        """A connection on which nothing comes is closed."""
        connection = self.client.connect()
        self.client.clock.pump([1] * 11)
        self.assertTrue(connection.transport.disconnecting)

    def test_idle_between_requests(self) -> None:
        """Between two requests a connection may rest for a minute."""
        connection = self.client.open("GET", "/healthz")
        self.client.clock.pump([1] * 55)
        self.assertFalse(connection.transport.disconnecting)
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(connection.received.count(b"200 OK"), 2)
        self.client.clock.pump([1] * 61)
        self.assertTrue(connection.transport.disconnecting)

    def test_second_request_drop_by_drop(self) -> None:
        """A second request has to be whole in time too."""
        connection = self.client.open("GET", "/healthz")
        for _ in range(12):
            connection.send(b"x")
            self.client.clock.advance(1)
        self.assertTrue(connection.transport.disconnecting)

    def test_second_request_after_a_large_one(self) -> None:
        """That a first request could take longer does not help a second one."""
        connection = self.client.connect()
        connection.send(b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n")
        self.client.clock.pump([1] * 11)
        self.assertTrue(connection.transport.disconnecting)

    def test_second_request_after_a_slow_answer(self) -> None:
        """What came of a second request while the first one was answered counts from then."""
        waiting: Deferred[Any] = Deferred()
        self.patch(self.client.bus, "publish_one", lambda *_, **__: waiting)
        connection = self.client.connect()
        connection.send(request("POST", "/api/v1/publish", {"topic": "a", "message": 1}) + b"GET / HTTP/1.1\r\n")
        waiting.callback(Stored(1))
        self.assertIn(b"200 OK", connection.received)
        self.client.clock.pump([1] * 11)
        self.assertTrue(connection.transport.disconnecting)

    def test_streams_rest(self) -> None:
        """A stream of events is not timed out."""
        connection = self.client.open("GET", "/api/v1/subscribe?topic=a")
        self.client.clock.pump([1] * 200)
        self.assertFalse(connection.transport.disconnecting)

    def test_pipelined(self) -> None:
        """Requests that come together are answered one by one."""
        connection = self.client.connect()
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        self.assertEqual(connection.received.count(b"200 OK"), 3)


class LogTests(SynchronousTestCase):
    """What is written down."""

    def test_tokens_are_not_logged(self) -> None:
        """No line of any log has a token, though it stood in the URL."""
        lines: list[str] = []

        @implementer(ILogObserver)
        def observer(event: Any) -> None:
            lines.append(repr(event))

        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        client = HttpClient()
        client.site.doStart()
        self.addCleanup(client.site.doStop)
        client.open("GET", "/api/v1/subscribe?topic=a&token=SECRET", token=None)
        client.open("GET", "/nowhere?token=SECRET", token="SECRET")
        client.connect().send(b"BAD\xff /?token=SECRET HTTP/9\r\n\r\n")
        client.clock.pump([1] * 100)
        self.assertEqual([line for line in lines if "SECRET" in line], [])


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a", "alice_shop_a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["topic", "message", "ttl", "retain", "messages", "body", "max", "api_key", "user"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
_PATHS = (
    "/api/v1/publish",
    "/api/v1/publish/batch",
    "/token/",
    "/token/revoke",
    "/api/v1/queues/q/messages",
    "/api/v1/queues/q/messages/receive",
    "/api/v1/admin/keys",
    "/api/v1/admin/users",
)


class AnyInputTests(SynchronousTestCase):
    """Bad input costs its sender one clear error."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def check(self, answer: Answer) -> None:
        self.assertLess(answer.status, 500, answer.raw)
        if answer.body:
            answer.json()

    @settings(max_examples=150, deadline=None)
    @given(path=st.sampled_from(_PATHS), body=_JSON, token=st.sampled_from(["good", "admin-token"]))
    def test_any_json(self, path: str, body: object, token: str) -> None:
        """No JSON is a fault of ours, and every answer is JSON."""
        self.check(HttpClient().call("POST", path, body, token=token))

    @settings(max_examples=100, deadline=None)
    @given(path=st.sampled_from(_PATHS), body=st.binary(max_size=50), form=st.booleans())
    def test_any_body(self, path: str, body: bytes, form: bool) -> None:
        """No bytes are a fault of ours."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        self.check(HttpClient().call("POST", path, body, headers))

    @settings(max_examples=200, deadline=None)
    @given(
        method=st.sampled_from(["GET", "PUT", "DELETE", "PATCH", "POST", "HEAD"]),
        path=st.sampled_from(
            ["/api/v1/topics/{}/messages", "/api/v1/queues/{}", "/{}", "/api/v1/queues/q/messages/{}"]
        ),
        part=st.binary(max_size=12).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw))
        | st.text("a/+#%.?=&$", max_size=6),
        query=st.text("topicsincelastw=&%+1/#", max_size=20),
    )
    def test_any_path(self, method: str, path: str, part: str, query: str) -> None:
        """No path and no query is a fault of ours."""
        self.check(self.client.call(method, f"{path.format(part)}?{query}"))

    @settings(max_examples=200, deadline=None)
    @given(
        data=st.binary(max_size=200),
        prefix=st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST /token/ HTTP/1.1\r\nHost: x\r\nAuthorization: "]),
    )
    def test_any_bytes(self, data: bytes, prefix: bytes) -> None:
        """Whatever comes in on a connection, nothing is raised and nothing is a fault of ours."""
        client = HttpClient()
        connection = client.connect()
        connection.send(prefix + data + b"\r\n\r\n")
        self.assertNotIn(b" 500 ", connection.received)
        client.clock.pump([1] * 100)
        self.assertTrue(connection.transport.disconnecting)
