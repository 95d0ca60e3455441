"""The list of topics."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.permissions import Grant, Grants
from tests.http_client import HOME, OTHER, HttpClient, grants, principal


class TopicListTests(SynchronousTestCase):
    """``GET /api/v1/topics``."""

    def setUp(self) -> None:
        self.client = HttpClient()
        theirs = attrs.evolve(principal(Grants.everything(OTHER)), user=OTHER.user, app=OTHER.app, home=OTHER)
        self.client.tokens.known["bob"] = theirs

    def publish(self, *names: str, token: str = "good") -> None:
        batch = {"messages": [{"topic": name, "message": 1} for name in names]}
        self.assertEqual(self.client.call("POST", "/api/v1/publish/batch", batch, token=token).status, 200)

    def page(self, query: str = "", token: str = "good") -> tuple[int, Any]:
        answer = self.client.call("GET", f"/api/v1/topics{query}", token=token)
        return answer.status, answer.json()

    def names(self, query: str = "", token: str = "good") -> list[str]:
        status, page = self.page(query, token)
        self.assertEqual((status, page.get("next")), (200, None), page)
        return [one["topic"] for one in page["topics"]]

    def test_shape(self) -> None:
        """Each topic with the number of messages that history holds on it, sorted by name."""
        self.publish("b", "a/ä", "b")
        self.assertEqual(
            self.page(),
            (200, {"topics": [{"topic": "a/ä", "messages": 1}, {"topic": "b", "messages": 2}], "next": None}),
        )

    def test_empty(self) -> None:
        """Nothing is a list too."""
        self.assertEqual(self.page(), (200, {"topics": [], "next": None}))

    def test_of_others(self) -> None:
        """Nobody sees the topics of another account, under whatever prefix."""
        self.publish("secret", token="bob")
        self.publish("mine")
        self.assertEqual(self.names(), ["mine"])
        for prefix in ("bob_cafe_", "s", "bob_"):
            self.assertEqual(self.names(f"?prefix={prefix}"), [])
        self.assertEqual(self.names(token="bob"), ["secret"])

    def test_pages(self) -> None:
        """next is the cursor of the next page, and null on the last one."""
        self.publish(*(f"t{n}" for n in range(5)))
        read: list[str] = []
        cursor, pages = "", 0
        while cursor is not None:
            _, page = self.page(f"?limit=2&cursor={cursor}")
            read += [one["topic"] for one in page["topics"]]
            cursor, pages = page["next"], pages + 1
        self.assertEqual((read, pages), ([f"t{n}" for n in range(5)], 3))

    def test_full_last_page(self) -> None:
        """A last page that is just full is known to be the last."""
        self.publish("a", "b")
        self.assertEqual(self.names("?limit=2"), ["a", "b"])

    def test_prefix(self) -> None:
        """The list can be narrowed to names with a certain beginning."""
        self.publish("a/1", "a/2", "b")
        self.assertEqual(self.names("?prefix=a/"), ["a/1", "a/2"])
        self.assertEqual(self.names("?prefix=a/&cursor=a/1"), ["a/2"])

    def test_only_what_is_granted(self) -> None:
        """A topic that the token may not subscribe to is not named; the limit counts those that are."""
        self.publish("a", "orders/1", "orders/2", "x")
        self.client.tokens.known["narrow"] = principal(grants(publish="#", subscribe="orders/+"))
        self.assertEqual(self.names("?limit=2", token="narrow"), ["orders/1", "orders/2"])
        self.client.tokens.known["none"] = principal(grants(publish="#"))
        self.assertEqual(self.names(token="none"), [])

    def test_granted_by_others(self) -> None:
        """The topics of another namespace are listed under its prefix, with full names, as far as they are granted."""
        self.publish("a/1", "a/2", "b", token="bob")
        shared = Grants((), (Grant(HOME, "#"), Grant(OTHER, "a/#")), ())
        self.client.tokens.known["both"] = principal(shared)
        self.assertEqual(self.names("?prefix=bob_cafe_", token="both"), ["bob_cafe_a/1", "bob_cafe_a/2"])
        page = self.page("?prefix=bob_cafe_a&limit=1", token="both")[1]
        self.assertEqual(page["next"], "bob_cafe_a/1")
        self.assertEqual(self.names(f"?prefix=bob_cafe_a&cursor={page['next']}", token="both"), ["bob_cafe_a/2"])

    def test_own_full_prefix(self) -> None:
        """With the prefix of the own namespace the names are full, too."""
        self.publish("a")
        self.assertEqual(self.names("?prefix=alice_shop_"), ["alice_shop_a"])

    def test_name_that_would_be_a_full_one(self) -> None:
        """A topic at home whose short name would stand for somebody else's is shown in full; reading on works."""
        self.publish("bob_cafe_a", "c")
        shared = Grants((), (Grant(HOME, "#"), Grant(OTHER, "#")), ())
        self.client.tokens.known["both"] = principal(shared)
        self.assertEqual(self.names(token="both"), ["alice_shop_bob_cafe_a", "c"])
        self.assertEqual(self.names("?cursor=alice_shop_bob_cafe_a", token="both"), ["c"])

    def test_cursor_of_another_list(self) -> None:
        """A cursor belongs to the namespace of its list."""
        shared = Grants((), (Grant(HOME, "#"), Grant(OTHER, "#")), ())
        self.client.tokens.known["both"] = principal(shared)
        status, problem = self.page("?cursor=bob_cafe_a", token="both")
        self.assertEqual((status, problem["code"]), (400, "invalid_parameter"))

    def test_gone(self) -> None:
        """A topic without messages in history is no longer listed."""
        self.client.call("POST", "/api/v1/publish", {"topic": "a", "message": 1, "ttl": 60})
        self.assertEqual(self.names(), ["a"])
        self.client.clock.advance(61)
        self.assertEqual(self.names(), [])

    def test_bad_parameters(self) -> None:
        """limit has bounds, and nothing unknown is taken."""
        for query in ("?limit=0", "?limit=1001", "?limit=x", "?topic=a", "?prefix=a&prefix=b"):
            status, problem = self.page(query)
            self.assertEqual((status, problem["code"]), (400, "invalid_parameter"), query)

    def test_away(self) -> None:
        """While the bus is away there is no list."""
        self.client.bus.go_away()
        self.assertEqual(self.page()[0], 503)

    def test_no_token(self) -> None:
        """The list needs a token."""
        self.assertEqual(self.client.call("GET", "/api/v1/topics", token=None).status, 401)
