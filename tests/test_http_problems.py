"""What every answer has, and how refusals are told."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from flowgate import errors
from flowgate.errors import Refused
from flowgate.http.answers import problem_answer
from flowgate.http.headings import Headings
from flowgate.http.problems import MalformedCredentials, problem
from tests.http_client import HttpClient


def refusals() -> list[type[Refused]]:
    """Every kind of refusal that can reach a peer; rooms may have kinds of their own for themselves."""
    found = [errors.Refused]
    for kind in found:
        found += [below for below in kind.__subclasses__() if below.__module__ == errors.__name__]
    return found


class ProblemTests(SynchronousTestCase):
    """RFC 9457."""

    def test_every_refusal_has_its_problem(self) -> None:
        """Each kind of refusal is a problem with its own status and code, and all the members that are promised."""
        kinds = refusals()
        self.assertGreater(len(kinds), 20)
        for kind in kinds:
            answer = problem_answer(kind("why"), "r-1")
            body = json.loads(answer.body)
            self.assertEqual(set(body), {"type", "title", "status", "detail", "code", "request_id"}, kind)
            self.assertEqual((answer.status, body["status"], body["code"]), (kind.status, kind.status, kind.code))
            self.assertEqual(answer.content_type, b"application/problem+json")
            self.assertEqual(body["request_id"], "r-1")

    def test_challenges(self) -> None:
        """Every 401 says how to come in (RFC 9110 section 15.5.2), and of the others those that RFC 6750 names."""
        for kind in refusals():
            names = dict(problem_answer(kind("why"), "r").headers)
            expected = kind.status == 401 or issubclass(kind, errors.InsufficientScope | MalformedCredentials)
            self.assertEqual(b"WWW-Authenticate" in names, expected, kind)

    def test_retry_after(self) -> None:
        """When to come again is told in whole seconds."""
        self.assertIn((b"Retry-After", b"7"), problem_answer(errors.RateLimited(retry_after=7), "r").headers)
        for kind in refusals():
            if kind.status in (429, 503):
                self.assertIn(b"Retry-After", dict(problem_answer(kind("why"), "r").headers), kind)

    def test_further_members(self) -> None:
        """What a refusal brings along is shown, but takes nothing else's place."""
        found = problem(errors.LimitReached("no more", limit=10, code="x"), "r")
        self.assertEqual((found["limit"], found["code"]), (10, "limit_reached"))

    def test_reason_phrases(self) -> None:
        """The status line has the words of RFC 9110 section 15 and RFC 6585, and some for every refusal."""
        headings = Headings(lambda: 0.0)
        for kind in refusals():
            self.assertRegex(headings.get(kind.status, False), rb"\AHTTP/1\.1 \d{3} [A-Z][A-Za-z -]+\r\n")
        for line in (b"422 Unprocessable ", b"429 Too Many Requests\r\n", b"431 Request Header Fields Too Large\r\n"):
            self.assertIn(b"HTTP/1.1 " + line, headings.get(int(line[:3]), False))

    def test_faults_of_ours_have_no_details(self) -> None:
        """What went wrong inside is not told."""
        self.assertNotIn("secret", json.dumps(problem(errors.Internal("secret"), "r")))


class EveryAnswerTests(SynchronousTestCase):
    """What holds on all paths."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def test_request_id(self) -> None:
        """Every answer has an id of its own."""
        ids = {self.client.call("GET", path).headers["X-Request-Id"] for path in ("/", "/nowhere", "/healthz")}
        self.assertEqual(len(ids), 3)

    def test_request_id_of_the_client(self) -> None:
        """A client's own plain id is taken over, in the header and in the problem."""
        answer = self.client.call("GET", "/nowhere", headers={"X-Request-Id": "abc-1"})
        self.assertEqual((answer.headers["X-Request-Id"], answer.json()["request_id"]), ("abc-1", "abc-1"))

    def test_strange_request_id(self) -> None:
        """Any other id is replaced."""
        for given in ("a b", "x" * 65, "é", ""):
            answer = self.client.call("GET", "/healthz", headers={"X-Request-Id": given})
            self.assertRegex(answer.headers["X-Request-Id"], r"\A[0-9a-f]{32}\Z")

    def test_unknown_path(self) -> None:
        """A path that there is not is a problem with 404."""
        answer = self.client.call("GET", "/api/v1/nothing")
        self.assertEqual((answer.status, answer.json()["code"]), (404, "not_found"))

    def test_wrong_method(self) -> None:
        """A wrong method is told the right ones."""
        answer = self.client.call("DELETE", "/api/v1/publish")
        self.assertEqual(
            (answer.status, answer.json()["code"], answer.headers["Allow"]), (405, "method_not_allowed", "POST")
        )

    def test_wrong_method_at_the_websocket(self) -> None:
        """A WebSocket is opened by GET; every other method is told so, and a preflight is answered as elsewhere."""
        for method in ("POST", "HEAD"):
            answer = self.client.call(method, "/ws")
            self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET"))
        self.assertEqual(self.client.call("OPTIONS", "/ws").status, 204)

    def test_unheard_of_method(self) -> None:
        """A method that nobody knows is refused like a wrong one."""
        answer = self.client.call("BREW", "/healthz")
        self.assertEqual((answer.status, answer.json()["code"]), (405, "method_not_allowed"))

    def test_path_that_is_no_text(self) -> None:
        """A path that is not UTF-8 is a bad request, without a word in the log."""
        for path in ("/%ff", "/api/v1/topics/%fe/messages"):
            self.assertEqual(self.client.call("GET", path).status, 400)

    def test_strange_host(self) -> None:
        """The Host header may be anything."""
        connection = self.client.connect()
        connection.send(b"GET /api/v1/queues/a HTTP/1.1\r\nHost: \xff\xfe:99999999\r\n\r\n")
        self.assertIn(b"401 Unauthorized", connection.received)

    def test_cors(self) -> None:
        """Every origin may ask, and may see the header fields that matter."""
        answer = self.client.call("GET", "/nowhere", headers={"Origin": "https://example.com"})
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "*")
        self.assertIn("Retry-After", answer.headers["Access-Control-Expose-Headers"])

    def test_preflight(self) -> None:
        """A browser's question before a request with a token is answered without one."""
        headers = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
        answer = self.client.call("OPTIONS", "/api/v1/publish", headers=headers, token=None)
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertIn("Idempotency-Key", answer.headers["Access-Control-Allow-Headers"])
        self.assertIn("POST", answer.headers["Access-Control-Allow-Methods"])

    def test_head(self) -> None:
        """HEAD is GET without the body."""
        answer = self.client.call("HEAD", "/healthz")
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_server(self) -> None:
        """The server does not tell its version."""
        self.assertEqual(self.client.call("GET", "/").headers["Server"], "flowgate")

    def test_websocket(self) -> None:
        """/ws is served by what was given for it."""

        class Fake(Resource):
            isLeaf = True

            def render_GET(self, request: object) -> bytes:
                return b"upgraded"

        client = HttpClient(websocket=Fake())
        self.assertEqual(client.call("GET", "/ws?token=x").body, b"upgraded")

    def test_draining(self) -> None:
        """While this node goes away, each answer ends its connection."""
        self.client.draining = True
        connection = self.client.open("GET", "/healthz")
        self.assertIn(b"Connection: close", connection.received)
        self.assertTrue(connection.transport.disconnecting)


class HealthTests(SynchronousTestCase):
    """``/healthz`` and ``/readyz``."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def test_alive(self) -> None:
        """Alive as long as it answers, bus or not."""
        self.client.bus.go_away()
        self.assertEqual(self.client.call("GET", "/healthz", token=None).status, 200)

    def test_ready(self) -> None:
        """Ready while the bus is within reach."""
        self.assertEqual(self.client.call("GET", "/readyz", token=None).status, 200)
        self.client.bus.go_away()
        self.assertEqual(self.client.call("GET", "/readyz", token=None).status, 503)
        self.client.bus.come_back()
        self.assertEqual(self.client.call("GET", "/readyz", token=None).status, 200)

    def test_not_ready_while_it_goes(self) -> None:
        """Nothing new is sent to a node that goes away."""
        self.client.draining = True
        self.assertEqual(self.client.call("GET", "/readyz").status, 503)

    def test_root(self) -> None:
        """The root points to the rest."""
        answer = self.client.call("GET", "/", token=None)
        self.assertEqual((answer.status, answer.json()["links"]["publish"]), (200, "/api/v1/publish"))
