"""Retained messages over HTTP."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.http_client import Answer, HttpClient, grants, principal


class RetainedTests(SynchronousTestCase):
    """``GET /api/v1/retained``."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def retain(self, *messages: tuple[str, object]) -> None:
        for topic, message in messages:
            body = {"topic": topic, "message": message, "retain": True}
            self.assertEqual(self.client.call("POST", "/api/v1/publish", body).status, 200)

    def page(self, query: str, token: str | None = "good") -> Answer:
        return self.client.call("GET", f"/api/v1/retained?{query}", token=token)

    def shown(self, query: str) -> list[tuple[str, Any]]:
        return [(message["topic"], message["data"]) for message in self.page(query).json()["messages"]]

    def test_page(self) -> None:
        """A page has the retained messages with the time of their keeping, and nothing to read on from at the end."""
        self.retain(("a", "x"), ("b", {"k": 1}), ("a", "y"))
        body = self.page("topic=%23").json()
        self.assertEqual([(one["topic"], one["data"]) for one in body["messages"]], [("b", {"k": 1}), ("a", "y")])
        self.assertIsNone(body["next"])
        for message in body["messages"]:
            self.assertRegex(message["ts"], r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")

    def test_nothing(self) -> None:
        """Where nothing is retained, or not any more, the page is empty."""
        self.retain(("a", "x"), ("a", ""))
        self.assertEqual(self.page("topic=a").json(), {"messages": [], "next": None})

    def test_reading_on(self) -> None:
        """Page by page, everything is seen once."""
        self.retain(*((f"a/{n}", n) for n in range(5)))
        seen, after, pages = [], 0, 0
        while after is not None:
            body = self.page(f"topic=a/%2B&limit=2&after={after}").json()
            seen += [one["topic"] for one in body["messages"]]
            after, pages = body["next"], pages + 1
        self.assertEqual((seen, pages), ([f"a/{n}" for n in range(5)], 3))

    def test_wildcards(self) -> None:
        """A '+' that stands for a level is the wildcard, also where it was not escaped."""
        self.retain(("s/1/t", 1), ("s/2/u", 2))
        for query in ("topic=s/+/t", "topic=s/%2B/t", "topic=s%2F+%2Ft"):
            self.assertEqual(self.shown(query), [("s/1/t", "1")], query)

    def test_form_of_the_name(self) -> None:
        """Topics are shown in the form of the filter."""
        self.retain(("a", 1))
        self.assertEqual(self.shown("topic=alice_shop_a"), [("alice_shop_a", "1")])

    def test_bytes(self) -> None:
        """Bytes that are no text are shown in base64."""
        self.retain(("a", 1))
        route = self.client.gateway.route(principal(), "a")
        self.client.gateway.publish(route, b"\xff", retain=True)
        self.client.settle()
        [message] = self.page("topic=a").json()["messages"]
        self.assertEqual((message["data"], message["encoding"]), ("/w==", "base64"))

    def refused(self, query: str, status: int, code: str, token: str | None = "good") -> None:
        answer = self.page(query, token)
        self.assertEqual((answer.status, answer.json()["code"]), (status, code))

    def test_refusals(self) -> None:
        """What cannot be read is refused."""
        self.refused("", 400, "missing_field")
        self.refused("topic=a&topic=b", 400, "invalid_parameter")
        self.refused("topic=a&limt=5", 400, "invalid_parameter")
        self.refused("topic=a&limit=0", 400, "invalid_parameter")
        self.refused("topic=a&limit=1001", 400, "invalid_parameter")
        self.refused("topic=a&after=-1", 400, "invalid_parameter")
        self.refused("topic=a&after=x", 400, "invalid_parameter")
        self.refused("topic=a/%23/b", 400, "invalid_topic")
        self.refused("topic=a", 401, "missing_token", token=None)

    def test_beyond_the_grants(self) -> None:
        """A filter that is not granted as a whole is refused."""
        self.client.tokens.known["narrow"] = principal(grants(subscribe="a/+"))
        self.refused("topic=%23", 403, "insufficient_scope", token="narrow")
        self.assertEqual(self.page("topic=a/%2B", "narrow").status, 200)

    def test_bus_away(self) -> None:
        """While the bus is away, the answer says when to come again."""
        self.client.retained.go_away()
        self.refused("topic=a", 503, "bus_unavailable")
