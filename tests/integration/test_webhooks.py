"""Webhooks with real sockets: TLS, and gateways that deliver to a real receiver."""

# mypy: disallow-untyped-calls=False
# (much of Twisted has no annotations)
from __future__ import annotations

import hmac
import json
import tempfile
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from flowgate.webhooks.addresses import AddressPolicy
from flowgate.webhooks.delivery import VISIBILITY
from flowgate.webhooks.posting import Poster, Undelivered
from tests.certificates import DAY, Authority, Signed
from tests.integration.gateway import RunningGateway, until
from tests.integration.two_nodes import two_nodes

CONFIG = """
[webhooks]
allow = ["127.0.0.0/8"]
http = true
"""


class _Accepting(Resource):
    isLeaf = True

    def render_POST(self, request: Any) -> bytes:
        request.setResponseCode(204)
        return b""


class _Plain(Protocol):
    """Answers whatever comes as a server does that expects HTTP."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        self.transport.loseConnection()


class TlsTests(TestCase):
    """Whom a request is sent to."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.authority = Authority()
        trusted = trustRootFromCertificates([Certificate.loadPEM(self.authority.signed.pem)])
        self.poster = Poster(the_reactor, AddressPolicy(["127.0.0.0/8"]), trusted)

    async def listen(self, signed: Signed | None) -> int:
        """Listen with a certificate, or without TLS; return the port."""
        description = "tcp:0:interface=127.0.0.1"
        if signed is not None:
            certificate, key = signed.save(self.directory, "server")
            description = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        factory = Factory.forProtocol(_Plain) if signed is None else Site(_Accepting())
        port = await serverFromString(the_reactor, description).listen(factory)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def reason(self, signed: Signed | None) -> str:
        """Why a server with this certificate is sent nothing."""
        port = await self.listen(signed)
        undelivered = await self.assertFailure(self.post(port), Undelivered)
        return str(undelivered)

    def post(self, port: int) -> Deferred[int]:
        return self.poster.post(f"https://127.0.0.1:{port}/x", {}, b"{}")

    async def test_good(self) -> None:
        """A server whose certificate is good for the host is sent the request."""
        port = await self.listen(self.authority.sign("receiver", host="127.0.0.1"))
        self.assertEqual(await self.post(port), 204)
        self.assertEqual(await self.post(port), 204)

    async def test_of_another_host(self) -> None:
        """A certificate of another host is refused."""
        reason = await self.reason(self.authority.sign("receiver", host="127.0.0.2"))
        self.assertEqual(reason, "the certificate is of another host")

    async def test_not_trusted(self) -> None:
        """A certificate that an unknown authority signed is refused."""
        reason = await self.reason(Authority("other").sign("receiver", host="127.0.0.1"))
        self.assertEqual(reason, "the certificate is not trusted, or there is no TLS")

    async def test_expired(self) -> None:
        """A certificate that has expired is refused."""
        reason = await self.reason(self.authority.sign("receiver", host="127.0.0.1", life=-DAY))
        self.assertEqual(reason, "the certificate is not trusted, or there is no TLS")

    async def test_no_tls(self) -> None:
        """A server that speaks no TLS is sent nothing."""
        self.assertEqual(await self.reason(None), "the certificate is not trusted, or there is no TLS")

    async def test_name_of_this_machine(self) -> None:
        """A real name that stands for this machine is refused when it is connected to."""
        port = await self.listen(None)
        poster = Poster(the_reactor, AddressPolicy())
        undelivered = await self.assertFailure(poster.post(f"http://localhost:{port}/", {}, b"{}"), Undelivered)
        self.assertEqual(str(undelivered), "the host has an address that webhooks may not lead to")


class Receiver:
    """A receiver in this process.

    :ivar messages: what was accepted: topic to data, in order.
    :ivar seen: head and body of every request.
    :ivar status: what requests are answered with; a function of the body.
    """

    def __init__(self) -> None:
        self.messages: dict[str, list[Any]] = defaultdict(list)
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.status = lambda body: 200
        self.held = threading.Event()
        self.held.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.seen.append((dict(self.headers), raw))
                body = json.loads(raw)
                receiver.held.wait(60)
                status = receiver.status(body)
                if status == 200:
                    receiver.messages[body["topic"]].append(body["data"])
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    return  # the gateway was killed

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.receiver = Receiver()
        self.addCleanup(self.receiver.stop)

    def call(self, node: RunningGateway, method: str, path: str, body: Any = None) -> Any:
        status, answer = node.request(method, f"/api/v1/{path}", body, self.token)
        if status >= 300 or not status:
            raise AssertionError((method, path, status, answer))
        return answer

    token = ""

    def hook(self, node: RunningGateway, **more: Any) -> Any:
        return self.call(node, "PUT", "webhooks/w", {"topic": "t/#", "url": self.receiver.url, **more})

    def publish(self, node: RunningGateway, topic: str, *values: Any) -> None:
        messages = [{"topic": topic, "message": [value]} for value in values]
        self.call(node, "POST", "publish/batch", {"messages": messages})

    def accepted(self, topic: str) -> list[int]:
        """What was accepted of a topic, without immediate repetitions."""
        found: list[int] = []
        for (value,) in list(self.receiver.messages[topic]):
            if not found or found[-1] != value:
                found.append(value)
        return found


class GatewayTests(_Tests):
    """One gateway."""

    def setUp(self) -> None:
        super().setUp()
        self.gateway = RunningGateway(config=CONFIG)
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("alice")

    def test_delivered(self) -> None:
        """Messages of several topics arrive signed, once each, and in order."""
        secret = self.hook(self.gateway)["secret"]
        for topic in ("t/a", "t/b"):
            self.publish(self.gateway, topic, *range(20))
        expected = list(range(20))
        until(lambda: all(len(self.receiver.messages[one]) == 20 for one in ("t/a", "t/b")), "all are delivered")
        for topic in ("t/a", "t/b"):
            self.assertEqual(self.receiver.messages[topic], [[value] for value in expected])
        for headers, body in self.receiver.seen:
            signed = headers["Flow-Timestamp"].encode() + b"." + body
            signature = "v1=" + hmac.new(secret.encode(), signed, "sha256").hexdigest()
            self.assertEqual(headers["Flow-Signature"], signature)

    def test_dead_letter(self) -> None:
        """What is never accepted is in the queue for dead letters, and the next message is delivered."""
        self.call(self.gateway, "PUT", "queues/dead", {})
        self.hook(self.gateway, dead_letter="dead", max_receives=2)
        self.receiver.status = lambda body: 500 if body["data"] == [1] else 200
        self.publish(self.gateway, "t/a", 1, 2)
        until(lambda: self.accepted("t/a") == [2], "the second one is delivered")
        (message,) = self.call(self.gateway, "POST", "queues/dead/messages/receive", {"max": 10})["messages"]
        self.assertEqual((message["body"], message["attributes"]["webhook"]), ("[1]", "w"))
        self.assertEqual(message["attributes"]["reason"], "the answer was 500")

    def test_restart(self) -> None:
        """What is published while the receiver is away survives a restart of the gateway, which does not wait long."""
        self.hook(self.gateway)
        self.receiver.held.clear()
        self.publish(self.gateway, "t/a", *range(10))
        until(lambda: self.receiver.seen, "the first one is on its way")
        began = time.monotonic()
        self.assertEqual(self.gateway.stop(), 0)
        self.assertLess(time.monotonic() - began, 15)
        self.receiver.held.set()
        self.gateway.start()
        until(lambda: self.accepted("t/a") == list(range(10)), "all are delivered, in order")

    def test_not_allowed(self) -> None:
        """Without leave of the operator nothing is sent to this machine."""
        self.gateway.stop()
        self.gateway = RunningGateway(config="[webhooks]\nhttp = true\n")
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("alice")
        status, _ = self.gateway.request(
            "PUT", "/api/v1/webhooks/w", {"topic": "t/#", "url": self.receiver.url}, self.token
        )
        self.assertEqual(status, 400)
        url = self.receiver.url.replace("127.0.0.1", "localhost")
        self.call(self.gateway, "PUT", "webhooks/w", {"topic": "t/#", "url": url})
        self.publish(self.gateway, "t/a", 1)
        failure = until(lambda: self.call(self.gateway, "GET", "webhooks/w")["last_failure"], "an attempt failed")
        self.assertIn("may not lead to", failure["reason"])
        self.assertEqual(self.receiver.seen, [])


class NodesTests(_Tests):
    """Two nodes."""

    def setUp(self) -> None:
        super().setUp()
        self.server, self.nodes, self.token = two_nodes(self, CONFIG)

    def test_killed(self) -> None:
        """When a node is killed in the middle the other one goes on: nothing is missing, and order is kept."""
        one, other = self.nodes
        self.hook(one)
        topics = [f"t/{number}" for number in range(6)]
        for topic in topics:
            self.publish(other, topic, *range(30))
        until(lambda: len(self.receiver.seen) > 40, "some are delivered")
        one.kill_gateway()
        for topic in topics:
            self.publish(other, topic, *range(30, 40))
        until(
            lambda: all(self.accepted(topic) == list(range(40)) for topic in topics),
            "all are delivered, in order",
            VISIBILITY + 40,
        )
