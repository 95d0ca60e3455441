"""AWS Signature Version 4: requests that botocore signs, the examples that Amazon publishes, and everything wrong."""

# mypy: disable-error-code="import-untyped, no-any-unimported, no-untyped-call"
# (botocore has no annotations)
from __future__ import annotations

import calendar
import datetime
import time
from collections.abc import Callable
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from twisted.trial.unittest import SynchronousTestCase

from flowgate.sqs.signature import Claim, Signatures, canonical_path, canonical_query, read_claim, signing_key
from flowgate.sqs.wire import SqsError

KEY, SECRET = "FGAKAAAAAAAAAAAAAAAA", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SIGNED_AT = calendar.timegm((2026, 11, 26, 12, 0, 0))


def botocore_at(now: float) -> Any:
    """Have botocore sign as of ``now``."""
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    return mock.patch("botocore.auth.get_current_datetime", lambda remove_tzinfo=True: moment.replace(tzinfo=None))


class Request:
    """A signed request, whose parts can be changed afterwards."""

    def __init__(
        self,
        method: str = "POST",
        url: str = "http://gateway:8080/",
        body: bytes = b"{}",
        headers: dict[str, str] | None = None,
        *,
        presigned: int | None = None,
        key: str = KEY,
        secret: str = SECRET,
        service: str = "sqs",
        region: str = "eu-west-1",
        at: float = SIGNED_AT,
    ) -> None:
        request = AWSRequest(method=method, url=url, data=body, headers=dict(headers or {}))
        credentials = Credentials(key, secret)
        with botocore_at(at):
            if presigned is None:
                SigV4Auth(credentials, service, region).add_auth(request)
            else:
                SigV4QueryAuth(credentials, service, region, expires=presigned).add_auth(request)
        parts = urlsplit(request.url)
        self.method = method.encode()
        self.path = (parts.path or "/").encode()
        self.query = parts.query.encode()
        self.body = body
        self.headers = {b"host": [parts.netloc.encode()]}
        for name, value in request.headers.items():
            self.headers[name.lower().encode()] = [value.encode()]

    def replace(self, old: bytes, new: bytes) -> None:
        """Change the Authorization header."""
        [value] = self.headers[b"authorization"]
        assert old in value
        self.headers[b"authorization"] = [value.replace(old, new)]


class SignatureCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = float(SIGNED_AT)
        self.asked: list[str] = []
        self.signatures = Signatures(self.secret_of, lambda: self.now)

    def secret_of(self, key_id: str) -> str:
        self.asked.append(key_id)
        return SECRET

    def verify(self, request: Request) -> Claim:
        claim = read_claim(request.query, request.headers)
        self.signatures.verify(claim, request.method, request.path, request.query, request.headers, request.body)
        return claim

    def refused(self, name: str, request: Request) -> None:
        error = self.assertRaises(SqsError, self.verify, request)
        assert isinstance(error, SqsError)
        self.assertEqual(error.name, name, error.message)


class AcceptedTests(SignatureCase):
    """Signatures that are right."""

    def test_header(self) -> None:
        """The key and the region are found."""
        claim = self.verify(Request())
        self.assertEqual((claim.key_id, claim.region), (KEY, "eu-west-1"))

    def test_bodies_and_headers(self) -> None:
        """Any body, any further headers, blanks in them."""
        self.verify(Request(body="ä€😀\0".encode()))
        self.verify(Request(body=b""))
        self.verify(Request(headers={"X-Amz-Target": "AmazonSQS.SendMessage", "X-Amz-Meta": "  a   b ", "Other": "c"}))

    def test_unsigned_headers(self) -> None:
        """What SDKs and proxies add without signing it does not matter."""
        request = Request()
        for name in (b"x-amzn-trace-id", b"amz-sdk-invocation-id", b"user-agent", b"x-forwarded-for"):
            request.headers[name] = [b"anything"]
        self.verify(request)

    def test_paths(self) -> None:
        """Paths as they come: with dots, doubled slashes, percent signs and blanks."""
        for path in ("", "/sqs", "/sqs/", "/a//b", "/a/./b/../c", "/a%20b", "/ä", "/a+b", "/123/q.fifo", "//", "/a~b"):
            self.verify(Request(url=f"http://gateway{path}"))

    def test_queries(self) -> None:
        """Queries in any order, with empty and repeated parameters and signs of all kinds."""
        for query in (
            "Action=ListQueues&Version=2012-11-05",
            "b=2&a=1&a=0&a-b=3",
            "a=&b",
            "a=x%2By%20z%2F%3D",
            "%C3%A4=%E2%82%AC",
            "A=1&a=1",
        ):
            self.verify(Request("GET", f"http://gateway/?{query}", b""))

    def test_presigned(self) -> None:
        """A URL that was signed is good for as long as it says."""
        request = Request("GET", "http://gateway/1/q?Action=ReceiveMessage", b"", presigned=3600)
        self.assertEqual(self.verify(request).lifetime, 3600)
        self.now += 3600
        self.verify(request)
        self.now += 1
        self.refused("RequestExpired", request)

    def test_repeated_header(self) -> None:
        """Values of a header that comes twice are signed together, with a comma."""
        request = Request(headers={"X-Amz-Meta": "a,b"})
        request.headers[b"x-amz-meta"] = [b"a", b"b"]
        self.verify(request)

    def test_blanks_in_authorization(self) -> None:
        """The parts may stand without blanks between them."""
        request = Request()
        request.replace(b", ", b",")
        self.verify(request)

    def test_clock_skew(self) -> None:
        """Clocks may differ by 15 minutes."""
        request = Request()
        for difference, good in ((-901, False), (-900, True), (900, True), (901, False)):
            self.now = SIGNED_AT + difference
            if good:
                self.verify(request)
            else:
                self.refused("RequestExpired", request)

    def test_keys_are_remembered(self) -> None:
        """The secret is looked up once for a key, day and region; the memory is bounded."""
        for _ in range(3):
            self.verify(Request())
        self.assertEqual(self.asked, [KEY])
        self.verify(Request(region="us-east-1"))
        self.assertEqual(len(self.asked), 2)
        with mock.patch("flowgate.sqs.signature._CACHED", 2):
            self.verify(Request(region="us-east-2"))
            self.verify(Request())  # was used longest ago, and is not there any more
        self.assertEqual(len(self.asked), 4)


class RefusedTests(SignatureCase):
    """Signatures that are wrong."""

    def tampered(self, change: Callable[[Request], object], **more: Any) -> None:
        request = Request(**more)
        self.verify(request)
        change(request)
        self.refused("SignatureDoesNotMatch", request)

    def test_wrong_secret(self) -> None:
        self.refused("SignatureDoesNotMatch", Request(secret="x" * 40))

    def test_tampered(self) -> None:
        """Whatever was signed cannot be changed."""
        self.tampered(lambda request: setattr(request, "body", b"{ }"))
        self.tampered(lambda request: setattr(request, "method", b"PUT"))
        self.tampered(lambda request: setattr(request, "path", b"/other"))
        self.tampered(lambda request: setattr(request, "query", b"a=1"))
        self.tampered(lambda request: request.headers.update({b"host": [b"other"]}))
        self.tampered(
            lambda request: request.headers.update({b"x-amz-target": [b"AmazonSQS.PurgeQueue"]}),
            headers={"X-Amz-Target": "AmazonSQS.SendMessage"},
        )
        self.tampered(lambda request: request.headers.pop(b"x-amz-meta"), headers={"X-Amz-Meta": "a"})
        self.tampered(lambda request: request.replace(b"/eu-west-1/", b"/eu-west-2/"))
        self.signatures = Signatures({KEY: SECRET, "FGAKBBBBBBBBBBBBBBBB": "another"}.__getitem__, lambda: self.now)
        self.tampered(lambda request: request.replace(KEY.encode(), b"FGAKBBBBBBBBBBBBBBBB"))

    def test_tampered_url(self) -> None:
        """Of a presigned URL nothing can be changed, added or taken away."""
        url = "http://gateway/1/q?Action=ReceiveMessage"
        for old, new in (
            (b"ReceiveMessage", b"PurgeQueue"),
            (b"X-Amz-Expires=60", b"X-Amz-Expires=600000"),
            (b"Action=", b"MaxNumberOfMessages=10&Action="),
        ):
            request = Request("GET", url, b"", presigned=60)
            self.verify(request)
            self.assertIn(old, request.query)
            request.query = request.query.replace(old, new)
            self.refused("SignatureDoesNotMatch", request)

    def test_body_digest_that_is_only_said(self) -> None:
        """x-amz-content-sha256 is not believed: the body is what counts."""
        self.refused("SignatureDoesNotMatch", Request(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}))

    def test_unsigned_amz_header(self) -> None:
        """Every x-amz-* header has to be signed: otherwise the operation could be swapped."""
        request = Request()
        request.headers[b"x-amz-target"] = [b"AmazonSQS.PurgeQueue"]
        self.refused("SignatureDoesNotMatch", request)

    def test_host_not_signed(self) -> None:
        request = Request()
        request.replace(b"SignedHeaders=host;", b"SignedHeaders=")
        self.refused("SignatureDoesNotMatch", request)

    def test_other_service(self) -> None:
        self.refused("SignatureDoesNotMatch", Request(service="sns"))

    def test_other_day(self) -> None:
        """The day in the scope is that of the request."""
        request = Request()
        request.replace(b"/20261126/", b"/20261125/")
        self.refused("SignatureDoesNotMatch", request)

    def test_no_signature(self) -> None:
        request = Request()
        for value in ([b"Bearer abc"], [b"Basic abc"], [b""]):
            request.headers[b"authorization"] = value
            self.refused("MissingAuthenticationToken", request)
        del request.headers[b"authorization"]
        self.refused("MissingAuthenticationToken", request)

    def test_malformed(self) -> None:
        """What cannot be read is told so, and nothing else happens."""
        for old, new in (
            (b"Credential=", b"Other="),
            (b"SignedHeaders=", b"Other="),
            (b"Signature=", b"Signature=x"),
            (b"/aws4_request", b""),
            (b"/20261126/", b"/x/"),
            (b"SignedHeaders=host", b"SignedHeaders=HOST"),
            (b"SignedHeaders=host", b"SignedHeaders=host;;a"),
            (b"SignedHeaders=host", b"SignedHeaders=" + b"a;" * 64 + b"host"),
            (KEY.encode(), b"x" * 129),
            (KEY.encode(), "ä".encode()),
        ):
            request = Request()
            request.replace(old, new)
            self.refused("IncompleteSignature", request)
        request = Request()
        request.headers[b"authorization"] *= 2
        self.refused("IncompleteSignature", request)

    def test_malformed_date(self) -> None:
        for value in ([], [b"20261126"], [b"Thu, 26 Nov 2026 12:00:00 GMT"], [b"20261126T120000Z"] * 2):
            request = Request()
            request.headers[b"x-amz-date"] = value
            self.refused("IncompleteSignature", request)
        for moment in (b"20261126T126000Z", b"20261126T120062Z"):
            request = Request()
            request.headers[b"x-amz-date"] = [moment]
            self.refused("IncompleteSignature", request)

    def test_malformed_url(self) -> None:
        """A presigned URL has all its parts, once, and is good for a week at most."""
        for life in (b"0", b"604801", b"-1", b"x", b"", "²".encode()):
            request = Request("GET", "http://gateway/?Action=ListQueues", b"", presigned=60)
            request.query = request.query.replace(b"X-Amz-Expires=60", b"X-Amz-Expires=" + life)
            self.refused("IncompleteSignature", request)
        for part in (b"Credential", b"Date", b"SignedHeaders", b"Signature"):
            request = Request("GET", "http://gateway/?Action=ListQueues", b"", presigned=60)
            request.query = request.query.replace(b"X-Amz-" + part, b"X-Other")
            self.refused("IncompleteSignature", request)
        request = Request("GET", "http://gateway/?Action=ListQueues", b"", presigned=60)
        request.query += b"&X-Amz-Expires=6000"
        self.refused("IncompleteSignature", request)

    def test_any_bytes(self) -> None:
        """Nothing but our own errors comes of bytes that are not text."""
        for value in (b"\xff\xfe", b"AWS4-HMAC-SHA256 \xff=\xff", b"AWS4-HMAC-SHA256 ,,,=,=="):
            request = Request()
            request.headers[b"authorization"] = [value]
            self.assertRaises(SqsError, self.verify, request)
        request = Request("GET", "http://gateway/", b"", presigned=60)
        request.query += b"&%ff=%fe&%&%zz=%"
        self.assertRaises(SqsError, self.verify, request)


class PublishedTests(SynchronousTestCase):
    """The examples of "Signature Version 4 signing process" and of its test suite."""

    def test_signing_key(self) -> None:
        for date, service, expected in (
            ("20120215", "iam", "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"),
            ("20150830", "iam", "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"),
        ):
            self.assertEqual(signing_key(SECRET, date, "us-east-1", service).hex(), expected)

    def check(self, method: bytes, query: bytes, signature: str) -> None:
        now = calendar.timegm(time.strptime("20150830T123600Z", "%Y%m%dT%H%M%SZ"))
        signatures = Signatures(lambda _: SECRET, lambda: now, "service")
        scope = "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"
        authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
        headers = {
            b"host": [b"example.amazonaws.com"],
            b"x-amz-date": [b"20150830T123600Z"],
            b"authorization": [authorization.encode()],
        }
        signatures.verify(read_claim(query, headers), method, b"/", query, headers, b"")

    def test_get_vanilla(self) -> None:
        self.check(b"GET", b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")

    def test_post_vanilla(self) -> None:
        self.check(b"POST", b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")

    def test_get_vanilla_query_order(self) -> None:
        signature = "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
        self.check(b"GET", b"Param2=value2&Param1=value1", signature)


class CanonicalTests(SynchronousTestCase):
    """The one way to write a path and a query."""

    def test_path(self) -> None:
        for given, expected in (
            (b"", "/"),
            (b"/", "/"),
            (b"//", "/"),
            (b"/a/", "/a/"),
            (b"/a//b/", "/a/b/"),
            (b"/a/./b/../c", "/a/c"),
            (b"/../..", "/"),
            (b"/a%20b", "/a%2520b"),
            (b"/\xc3\xa4~", "/%C3%A4~"),
        ):
            self.assertEqual(canonical_path(given), expected)

    def test_query(self) -> None:
        """By name and value, as they are encoded; a plus is a plus."""
        pairs = [(b"b", b"+ /"), (b"a", b"2"), (b"a", b"1"), (b"a-", b""), (b"A", b"")]
        self.assertEqual(canonical_query(pairs), "A=&a=1&a=2&a-=&b=%2B%20%2F")
