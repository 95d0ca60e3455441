"""History over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from flowgate.http import history
from tests.http_client import Answer, HttpClient, grants, principal


class HistoryTests(SynchronousTestCase):
    """``GET /api/v1/topics/<topic>/messages``."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def publish(self, *messages: tuple[str, object]) -> None:
        for topic, message in messages:
            self.client.call("POST", "/api/v1/publish", {"topic": topic, "message": message})

    def page(self, topic: str, query: str = "", token: str = "good") -> Answer:
        return self.client.call("GET", f"/api/v1/topics/{topic}/messages?{query}", token=token)

    def data(self, topic: str, query: str = "") -> list[Any]:
        return [message["data"] for message in self.page(topic, query).json()["messages"]]

    def test_page(self) -> None:
        """A page has the messages with their cursors, and the cursor to read on from."""
        self.publish(("a", "x"), ("b", "y"), ("a", {"k": 1}))
        body = self.page("a").json()
        self.assertEqual([message["id"] for message in body["messages"]], ["memory-1", "memory-3"])
        self.assertEqual([message["data"] for message in body["messages"]], ["x", {"k": 1}])
        self.assertEqual([message["topic"] for message in body["messages"]], ["a", "a"])
        self.assertEqual(body["next"], "memory-3")
        for message in body["messages"]:
            self.assertRegex(message["ts"], r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")

    def test_any_topic(self) -> None:
        """A topic may have slashes at its ends, and line ends; in a path they are encoded."""
        for topic in ("/a", "a/", "/", "a/b", "a\nb", "\n", "a\r\n", "ä b%", "messages"):
            self.publish((topic, topic))
            self.assertEqual(self.data(quote(topic, safe="")), [topic])

    def test_reading_on(self) -> None:
        """Page by page, everything is seen once."""
        self.publish(*(("a", str(n)) for n in range(7)))
        seen, cursor = [], "earliest"
        for _ in range(4):
            body = self.page("a", f"limit=2&since={cursor}").json()
            seen += [message["data"] for message in body["messages"]]
            cursor = body["next"]
        self.assertEqual(seen, [str(n) for n in range(7)])
        self.assertEqual(self.page("a", f"since={cursor}").json(), {"messages": [], "next": cursor})

    def test_more_than_is_read_at_once(self) -> None:
        """A large page is put together."""
        self.publish(*(("a", str(n)) for n in range(250)))
        self.assertEqual(self.data("a", "limit=230"), [str(n) for n in range(230)])

    def test_bytes_of_a_page(self) -> None:
        """A page ends when it is large enough, and says where to read on."""
        self.patch(history, "PAGE_BYTES", 1000)
        self.patch(history, "_READ_AT_ONCE", 2)
        self.publish(*(("a", str(n) * 600) for n in range(5)))
        body = self.page("a").json()
        self.assertEqual((len(body["messages"]), body["next"]), (2, "memory-2"))

    def test_names(self) -> None:
        """A topic with slashes, at its ends too, a filter, and a full name."""
        self.publish(("s/1/t", "x"), ("/lead", "y"), ("trail/", "z"), ("a//b", "w"))
        self.assertEqual(self.data("s/1/t"), ["x"])
        self.assertEqual(self.data("s%2F1%2Ft"), ["x"])
        self.assertEqual(self.data("s/+/t"), ["x"])
        self.assertEqual(self.data("%23"), ["x", "y", "z", "w"])
        self.assertEqual(self.data("a//b"), ["w"])
        self.assertEqual(self.data("/lead"), ["y"])
        self.assertEqual(self.data("trail/"), ["z"])
        self.assertEqual(self.page("alice_shop_s/1/t").json()["messages"][0]["topic"], "alice_shop_s/1/t")

    def test_foreign_cursor(self) -> None:
        """From a cursor of another epoch all that there is is read."""
        self.publish(("a", "x"))
        body = self.page("a", "since=gone-99").json()
        self.assertEqual(([message["id"] for message in body["messages"]], body["next"]), (["memory-1"], "memory-1"))

    def test_bytes(self) -> None:
        """What is not text is shown in base64."""
        route = self.client.gateway.route(principal(), "a")
        self.client.gateway.publish(route, b"\xff")
        self.client.settle()
        self.assertEqual(self.page("a").json()["messages"][0]["encoding"], "base64")

    def test_refusals(self) -> None:
        """Grants, cursors and limits are checked."""
        self.client.tokens.known["narrow"] = principal(grants(subscribe="a"))
        for answer, status, code in (
            (self.page("b", "nonsense=1", "narrow"), 403, "insufficient_scope"),
            (self.page("a", "", "wrong"), 401, "invalid_token"),
            (self.page("a", "since=x"), 400, "invalid_parameter"),
            (self.page("a", "limit=0"), 400, "invalid_parameter"),
            (self.page("a", "limit=1001"), 400, "invalid_parameter"),
            (self.page("a", "until=x"), 400, "invalid_parameter"),
            (self.page("a/%23/b"), 400, "invalid_topic"),
        ):
            self.assertEqual((answer.status, answer.json()["code"]), (status, code))

    def test_bus_away(self) -> None:
        """Without the bus there is no history."""
        self.client.bus.go_away()
        self.assertEqual(self.page("a").status, 503)
