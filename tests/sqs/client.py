"""A site with SQS in memory, and unmodified boto3 as its client."""

# mypy: disable-error-code="import-untyped, no-any-unimported, no-untyped-call"
# (botocore has no annotations)
from __future__ import annotations

import time
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from twisted.trial.unittest import SynchronousTestCase

from flowgate.http.app import Root
from flowgate.http.site import FlowGateSite
from flowgate.limits import Limits
from flowgate.sqs.resource import SqsCalls
from tests.http_client import Answer, HttpClient

ENDPOINT = "http://gateway"
ACCOUNT = "123456789012"
REGION = "us-east-1"


class _Raw:
    """What botocore wants of an answer's body."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: object) -> Any:
        return iter([self._body])


@cache
def _session() -> Any:
    return botocore.session.Session()


class SqsSite(HttpClient):
    """A site over queues in memory that answers Amazon's SQS protocol.

    Requests are signed by the computer's clock; the queues go by ``clock``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.clock.advance(1_000_000)
        self.calls = SqsCalls(self.queues, self.keyring, time.time, **options)
        self.site = FlowGateSite(
            Root(self.calls.routes(), {}, lambda: False), Limits(), self.clock, self.wheel, self.now
        )

    def key(self, user: str = "alice", app: str = "shop", **grants: Any) -> tuple[str, str]:
        """Make an API key; return its id and its secret."""
        made: list[Any] = []
        self.keyring.create(user, app, **grants).addCallback(made.append)
        key_id, _, secret = made[0][1].partition(".")
        return key_id, secret

    def exchange(self, method: str, url: str, headers: dict[str, str], body: bytes, wait: float = 0) -> Answer:
        """Send a request and return its answer.

        :param wait: how far the clock goes, second by second, if there is no answer.
        """
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = {"Host": parts.netloc, **headers}
        if body or method == "POST":
            fields["Content-Length"] = str(len(body))
        connection = self.connect()
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection.send(head.encode() + b"\r\n" + body)
        while not connection.received and wait > 0:
            self.clock.advance(min(1, wait))
            wait -= 1
            self.settle()
        return Answer(connection.received, method)


def signed(
    key: tuple[str, str],
    method: str,
    url: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    region: str = REGION,
    service: str = "sqs",
) -> dict[str, str]:
    """The headers of a request with those of its signature, made by botocore."""
    request = AWSRequest(method=method, url=url, data=body, headers=dict(headers or {}))
    SigV4Auth(Credentials(*key), service, region).add_auth(request)
    return dict(request.headers.items())


class SqsCase(SynchronousTestCase):
    """A test with a site and boto3.

    :ivar wait: how many seconds of the site's clock a call may wait.
    :ivar last: the last answer.
    """

    options: dict[str, Any] = {}

    def setUp(self) -> None:
        self.gateway = SqsSite(**self.options)
        self.key = self.gateway.key()
        self.wait = 0.0
        self.sqs = self.client(self.key)

    def client(self, key: tuple[str, str], region: str = REGION, endpoint: str = ENDPOINT) -> Any:
        """A client of boto3 that talks to the site in memory."""
        client = _session().create_client(
            "sqs",
            region_name=region,
            endpoint_url=endpoint,
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
            config=Config(retries={"max_attempts": 0}),
        )
        client.meta.events.register("before-send.sqs", self._send)
        return client

    def _send(self, request: Any, **_: object) -> Any:
        headers = {
            name: value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()
        }
        headers.pop("Content-Length", None)
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        self.last = self.gateway.exchange(request.method, request.url, headers, body, self.wait)
        return AWSResponse(request.url, self.last.status, dict(self.last.headers.items()), _Raw(self.last.body))

    def queue(self, name: str = "q", **attributes: object) -> str:
        """Make a queue; return its URL."""
        if name.endswith(".fifo"):
            attributes["FifoQueue"] = "true"
        given = {name: str(value) for name, value in attributes.items()}
        url: str = self.sqs.create_queue(QueueName=name, Attributes=given)["QueueUrl"]
        return url

    def send(self, url: str, *bodies: str, **more: Any) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=url, MessageBody=body, **more)

    def receive(self, url: str, most: int = 10, **more: Any) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=most, **more).get(
            "Messages", []
        )
        return messages

    def bodies(self, url: str, most: int = 10, **more: Any) -> list[str]:
        return [message["Body"] for message in self.receive(url, most, **more)]

    def attributes(self, url: str, *names: str) -> dict[str, str]:
        answer = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names or ("All",)))
        found: dict[str, str] = answer.get("Attributes", {})
        return found

    def arn(self, url: str) -> str:
        return self.attributes(url, "QueueArn")["QueueArn"]

    def between(self, least: float, most: float, since: float) -> None:
        """Check how long ago something was by the site's clock."""
        passed = self.gateway.clock.seconds() - since
        self.assertTrue(least <= passed <= most, f"{passed} s")

    def advance(self, seconds: int) -> None:
        """Let time pass for the queues."""
        for _ in range(min(seconds, 50)):
            self.gateway.clock.advance(seconds / min(seconds, 50))
        self.gateway.settle()

    def refused(self, code: str, operation: str, message: str | None = None, **arguments: Any) -> None:
        """Check that a call ends with this error."""
        error: Any = self.assertRaises(ClientError, getattr(self.sqs, operation), **arguments)
        self.assertEqual(error.response["Error"]["Code"], code)
        if message is not None:
            self.assertEqual(error.response["Error"]["Message"], message)

    def query(
        self, parameters: str, method: str = "POST", path: str = "/", key: tuple[str, str] | None = None
    ) -> tuple[int, ElementTree.Element]:
        """Make a call of the query protocol; return the status and the answer without its namespace."""
        body = parameters.encode() if method == "POST" else b""
        url = f"{ENDPOINT}{path}" + ("" if body else f"?{parameters}")
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
        answer = self.gateway.exchange(
            method, url, signed(key or self.key, method, url, body, headers), body, self.wait
        )
        self.last = answer
        return answer.status, ElementTree.fromstring(
            answer.body.replace(b' xmlns="http://queue.amazonaws.com/doc/2012-11-05/"', b"")
        )
