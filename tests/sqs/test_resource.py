"""The protocols over HTTP: where they are, who may use them, and what becomes of clients that go."""

# mypy: disable-error-code="import-untyped, no-any-unimported, no-untyped-call"
# (botocore has no annotations)
from __future__ import annotations

import json
from typing import Any
from unittest import mock

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from twisted.internet.defer import Deferred, fail

from flowgate.errors import BusUnavailable
from tests.sqs.client import ACCOUNT, ENDPOINT, SqsCase, signed

TARGET = {"X-Amz-Target": "AmazonSQS.ListQueues", "Content-Type": "application/x-amz-json-1.0"}


class JsonTests(SqsCase):
    """The JSON protocol as it is on the wire."""

    def call(self, target: str, body: bytes = b"{}", path: str = "/") -> Any:
        headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.0"}
        url = ENDPOINT + path
        return self.gateway.exchange("POST", url, signed(self.key, "POST", url, body, headers), body)

    def test_answer(self) -> None:
        answer = self.call("AmazonSQS.CreateQueue", b'{"QueueName":"q"}')
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "application/x-amz-json-1.0"))
        self.assertEqual(answer.json(), {"QueueUrl": f"http://gateway/{ACCOUNT}/q"})
        self.assertEqual(answer.headers["x-amzn-RequestId"], answer.headers["X-Request-Id"])

    def test_no_result(self) -> None:
        """An operation without result has an empty body of a known length."""
        self.queue()
        answer = self.call("AmazonSQS.PurgeQueue", b'{"QueueUrl":"q"}')
        self.assertEqual((answer.status, answer.body, answer.headers["Content-Length"]), (200, b"", "0"))
        self.assertEqual(answer.headers["Content-Type"], "application/x-amz-json-1.0")

    def test_error(self) -> None:
        answer = self.call("AmazonSQS.DeleteQueue", b'{"QueueUrl":"q"}')
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (400, "application/x-amz-json-1.0"))
        self.assertEqual(
            answer.json(),
            {"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "The specified queue does not exist."},
        )
        self.assertEqual(answer.headers["x-amzn-query-error"], "AWS.SimpleQueueService.NonExistentQueue;Sender")
        self.assertTrue(answer.headers["x-amzn-RequestId"])

    def test_bad_requests(self) -> None:
        for target, body, code in (
            ("AmazonSQS.Nonsense", b"{}", "UnknownOperationException"),
            ("DynamoDB.ListTables", b"{}", "UnknownOperationException"),
            ("AmazonSQS.DeleteQueue", b"{", "SerializationException"),
            ("AmazonSQS.DeleteQueue", b"{}", "MissingParameter"),
        ):
            answer = self.call(target, body)
            self.assertEqual((answer.status, answer.json()["__type"].partition("#")[2]), (400, code))

    def test_paths(self) -> None:
        """At the root, at /sqs, and at the URLs of queues."""
        for path in ("/", "/sqs", "/sqs/", f"/{ACCOUNT}/q", f"/sqs/{ACCOUNT}/q", "/1/q.fifo", "/queue/q"):
            self.assertEqual(self.call("AmazonSQS.ListQueues", path=path).status, 200, path)
        for path in ("/other", "/x/q", "/sqs/x/y/z"):
            self.assertEqual(self.call("AmazonSQS.ListQueues", path=path).status, 404, path)

    def test_base_of_urls(self) -> None:
        """URLs of queues begin as the client's own does, behind a proxy that says so with https."""
        body = b'{"QueueName":"q"}'
        self.assertEqual(
            self.call("AmazonSQS.CreateQueue", body, "/sqs").json()["QueueUrl"], f"{ENDPOINT}/sqs/{ACCOUNT}/q"
        )
        url = "https://queues.example.org/"
        headers = {"X-Amz-Target": "AmazonSQS.GetQueueUrl", "X-Forwarded-Proto": "https"}
        answer = self.gateway.exchange("POST", url, signed(self.key, "POST", url, body, headers), body)
        self.assertEqual(answer.json()["QueueUrl"], f"https://queues.example.org/{ACCOUNT}/q")


class QueryTests(SqsCase):
    """The query protocol as it is on the wire."""

    def test_form(self) -> None:
        status, root = self.query("Action=CreateQueue&QueueName=q&Tag.1.Key=k&Tag.1.Value=v&Version=2012-11-05")
        self.assertEqual((status, root.tag), (200, "CreateQueueResponse"))
        self.assertEqual(self.last.headers["Content-Type"], "text/xml")
        self.assertEqual(root.findtext("CreateQueueResult/QueueUrl"), f"http://gateway/{ACCOUNT}/q")
        self.assertEqual(root.findtext("ResponseMetadata/RequestId"), self.last.headers["x-amzn-RequestId"])
        _, root = self.query("Action=ListQueueTags&QueueUrl=q")
        self.assertEqual(root.findtext("ListQueueTagsResult/Tag/Value"), "v")

    def test_url(self) -> None:
        """GET, with the queue in the path."""
        self.queue()
        for path in (f"/{ACCOUNT}/q", "/sqs/123/q", "/queue/q"):
            status, root = self.query("Action=SendMessage&MessageBody=a%0D%0A%2Bb", "GET", path)
            self.assertEqual(status, 200, path)
            status, root = self.query("Action=ReceiveMessage&MaxNumberOfMessages=1&AttributeName.1=All", "GET", path)
            self.assertEqual(root.findtext("ReceiveMessageResult/Message/Body"), "a\r\n+b")
        self.assertIn(b"a&#13;\n+b", self.last.body)

    def test_form_and_url(self) -> None:
        """Parameters may stand in both."""
        body = b"QueueName=q"
        url = f"{ENDPOINT}/?Action=CreateQueue"
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        answer = self.gateway.exchange("POST", url, signed(self.key, "POST", url, body, headers), body)
        self.assertEqual(answer.status, 200)

    def test_presigned(self) -> None:
        """A presigned URL needs no headers."""
        self.queue()
        url = f"{ENDPOINT}/{ACCOUNT}/q?Action=SendMessage&MessageBody=hello"
        request = AWSRequest(method="GET", url=url)
        SigV4QueryAuth(Credentials(*self.key), "sqs", "us-east-1", expires=60).add_auth(request)
        self.assertEqual(self.gateway.exchange("GET", request.url, {}, b"").status, 200)
        self.assertEqual(self.bodies("q"), ["hello"])
        forged = request.url.replace("hello", "other")
        self.assertEqual(self.gateway.exchange("GET", forged, {}, b"").status, 403)

    def test_error(self) -> None:
        status, root = self.query("Action=DeleteQueue&QueueUrl=none")
        self.assertEqual((status, root.tag), (400, "ErrorResponse"))
        self.assertEqual(root.findtext("Error/Code"), "AWS.SimpleQueueService.NonExistentQueue")
        self.assertEqual(root.findtext("Error/Type"), "Sender")

    def test_unknown_action(self) -> None:
        status, root = self.query("Action=Nonsense")
        self.assertEqual((status, root.findtext("Error/Code")), (400, "InvalidAction"))

    def test_empty_batch(self) -> None:
        self.queue()
        _, root = self.query("Action=SendMessageBatch&QueueUrl=q")
        self.assertEqual(root.findtext("Error/Code"), "AWS.SimpleQueueService.EmptyBatchRequest")


class OtherTests(SqsCase):
    """What is neither protocol."""

    def test_browser(self) -> None:
        """A browser is told where it is: the gateway says who it is, and what else there is."""
        answer = self.gateway.exchange("GET", f"{ENDPOINT}/", {}, b"")
        self.assertEqual((answer.status, answer.json()["name"]), (200, "Flow-Gate"))
        answer = self.gateway.exchange("GET", f"{ENDPOINT}/sqs", {}, b"")
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (404, "application/problem+json"))
        self.assertIn("SQS", answer.json()["detail"])

    def test_other_methods(self) -> None:
        """HEAD does nothing, though GET would."""
        self.queue()
        self.send("q", "x")
        url = f"{ENDPOINT}/1/q?Action=ReceiveMessage"
        for method in ("HEAD", "PUT", "DELETE"):
            answer = self.gateway.exchange(method, url, signed(self.key, method, url), b"")
            self.assertEqual(answer.status, 405, method)
        self.assertEqual(self.bodies("q"), ["x"])


class AuthenticationTests(SqsCase):
    """Who may call."""

    def code(self, key: tuple[str, str] | None, **more: Any) -> tuple[int, str]:
        headers = dict(TARGET) if key is None else signed(key, "POST", f"{ENDPOINT}/", b"{}", TARGET, **more)
        answer = self.gateway.exchange("POST", f"{ENDPOINT}/", headers, b"{}")
        return answer.status, answer.json().get("__type", "").partition("#")[2]

    def test_good(self) -> None:
        """A signature of any region."""
        self.assertEqual(self.code(self.key), (200, ""))
        self.assertEqual(self.code(self.key, region="ap-northeast-3"), (200, ""))

    def test_none(self) -> None:
        self.assertEqual(self.code(None), (403, "MissingAuthenticationToken"))

    def test_wrong_secret(self) -> None:
        self.assertEqual(self.code((self.key[0], "x" * 40)), (403, "SignatureDoesNotMatch"))

    def test_unknown_key(self) -> None:
        """A key that is not there, with whatever secret; with the one that it would have, too."""
        unknown = "FGAKAAAAAAAAAAAAAAAA"
        self.assertEqual(self.code((unknown, "x" * 40)), (403, "InvalidClientTokenId"))
        self.assertEqual(self.code((unknown, self.gateway.keyring.secret_of(unknown))), (403, "InvalidClientTokenId"))
        self.assertEqual(self.code(("AKIDEXAMPLE", "x" * 40)), (403, "InvalidClientTokenId"))

    def test_revoked_key(self) -> None:
        self.gateway.keyring.revoke(self.key[0])
        self.assertEqual(self.code(self.key), (403, "InvalidClientTokenId"))

    def test_expired_key(self) -> None:
        key = self.gateway.key(expires_days=1)
        self.assertEqual(self.code(key), (200, ""))
        self.gateway.clock.advance(86400)
        self.assertEqual(self.code(key), (403, "InvalidClientTokenId"))

    def test_suspended_user(self) -> None:
        self.gateway.keyring.suspend("alice", True)
        self.assertEqual(self.code(self.key), (403, "AccessDenied"))

    def test_session_token(self) -> None:
        """There are no session tokens, and one that is sent is not passed over."""
        headers = {**TARGET, "X-Amz-Security-Token": "x"}
        url = f"{ENDPOINT}/"
        answer = self.gateway.exchange("POST", url, signed(self.key, "POST", url, b"{}", headers), b"{}")
        self.assertEqual(
            (answer.status, answer.json()["__type"]), (403, "com.amazon.coral.service#InvalidClientTokenId")
        )

    def test_before_anything_else(self) -> None:
        """Who may not call does not learn which operations and queues there are."""
        headers = signed((self.key[0], "x" * 40), "POST", f"{ENDPOINT}/", b"{", {"X-Amz-Target": "AmazonSQS.Nonsense"})
        answer = self.gateway.exchange("POST", f"{ENDPOINT}/", headers, b"{")
        self.assertEqual(answer.status, 403)

    def test_many_failures(self) -> None:
        """Who has only wrong signatures is not calculated for; others with another key are."""
        wrong = (self.key[0], "x" * 40)
        other = self.gateway.key()
        for _ in range(60):
            self.assertEqual(self.code(wrong), (403, "SignatureDoesNotMatch"))
        self.assertEqual(self.code(wrong), (403, "RequestThrottled"))
        self.assertEqual(self.code(other), (200, ""))


class TroubleTests(SqsCase):
    """Clients that go, and a bus that is away."""

    def test_waiting_client_goes(self) -> None:
        """A receiver that has gone takes no message with it."""
        self.queue()
        cancelled: list[object] = []
        body = json.dumps({"QueueUrl": "q", "WaitTimeSeconds": 20}).encode()
        headers = signed(self.key, "POST", f"{ENDPOINT}/", body, {"X-Amz-Target": "AmazonSQS.ReceiveMessage"})
        connection = self.gateway.connect()
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
        connection.send(head.encode() + body)
        self.assertEqual(connection.received, b"")
        connection.lose()
        self.send("q", "x")
        [message] = self.receive("q", AttributeNames=["ApproximateReceiveCount"])
        self.assertEqual(message["Attributes"], {"ApproximateReceiveCount": "1"})
        with mock.patch.object(self.gateway.queues, "receive", lambda *_, **__: Deferred(cancelled.append)):
            connection = self.gateway.connect()
            connection.send(head.encode() + body)
            connection.lose()
        self.assertEqual(len(cancelled), 1)

    def test_bus_away(self) -> None:
        """503, which SDKs repeat."""
        self.queue()
        with mock.patch.object(self.gateway.queues, "send", lambda *_, **__: fail(BusUnavailable())):
            self.refused("ServiceUnavailable", "send_message", None, QueueUrl="q", MessageBody="x")
        self.assertEqual(self.last.status, 503)
        self.assertEqual(self.last.headers["x-amzn-query-error"], "ServiceUnavailable;Receiver")

    def test_fault_of_ours(self) -> None:
        """What goes wrong inside is logged and not told."""
        self.queue()
        with mock.patch.object(self.gateway.queues, "send", lambda *_, **__: fail(ValueError("secret"))):
            self.refused("InternalFailure", "send_message", None, QueueUrl="q", MessageBody="x")
        self.assertEqual(self.last.status, 500)
        self.assertNotIn(b"secret", self.last.body)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
