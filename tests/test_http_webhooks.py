"""Webhooks over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.permissions import Grant, Grants
from flowgate.auth.tokens import TokenService
from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.http.credentials import Credentials
from flowgate.http.site import make_site
from flowgate.http.webhooks import WebhookCalls
from flowgate.queues.subscribing import QueueSubscriptions
from flowgate.webhooks.addresses import AddressPolicy
from flowgate.webhooks.service import Webhooks
from tests.http_client import ADMIN_TOKEN, HOME, OTHER, Answer, HttpClient, grants, principal

URL = "https://receiver.example/hook"


class WebhookCallTests(SynchronousTestCase):
    """``/api/v1/webhooks…``."""

    def setUp(self) -> None:
        client = self.client = HttpClient()
        self.requests: list[tuple[Mapping[str, str], bytes, Deferred[int]]] = []
        self.webhooks = Webhooks(
            client.queues,
            client.store,
            b"master secret",
            self.post,
            AddressPolicy(),
            client.clock,
            client.now,
        )
        subscriptions = QueueSubscriptions(
            client.queues,
            MemoryGroups(MemoryGroupsHub(client.clock, client.bus)),
            lambda: client.bus.epoch,
            client.clock,
        )
        client.queues.prepare_subscriptions(subscriptions.prepare)
        subscriptions.start()
        self.successResultOf(self.webhooks.start())
        client.site = make_site(
            client.gateway,
            cast(TokenService, client.tokens),
            client.accounts,
            client.queues,
            ADMIN_TOKEN,
            {},
            client.wheel,
            client.clock,
            client.now,
            lambda: False,
            WebhookCalls(self.webhooks, Credentials(cast(TokenService, client.tokens))).routes(),
        )

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Deferred[int]:
        answer: Deferred[int] = Deferred()
        self.requests.append((headers, body, answer))
        return answer

    def call(self, method: str, path: str = "", body: object = None, token: str = "good") -> Answer:
        return self.client.call(method, f"/api/v1/webhooks{path}", body, token=token)

    def put(self, name: str = "w", token: str = "good", **members: object) -> Answer:
        return self.call("PUT", f"/{name}", {"topic": "sales/#", "url": URL, **members}, token)

    def refused(self, answer: Answer, status: int, code: str) -> str:
        problem = answer.json()
        self.assertEqual((answer.status, problem["code"]), (status, code), problem)
        detail: str = problem["detail"]
        return detail

    def restricted(self, granted: Grants) -> str:
        """A token that permits less."""
        self.client.tokens.known["less"] = principal(granted)
        return "less"

    def test_made(self) -> None:
        """A new webhook is answered with 201, and with its secret; the same again with 200, and without."""
        made = self.put()
        self.assertEqual(made.status, 201)
        shown = made.json()
        self.assertRegex(shown.pop("secret"), r"\Afgwh_")
        self.assertEqual(
            {name: shown[name] for name in shown if not name.endswith("_at")},
            {
                "name": "w",
                "topic": "sales/#",
                "url": URL,
                "dead_letter": None,
                "max_receives": 10,
                "status": "enabled",
            },
        )
        again = self.put()
        self.assertEqual((again.status, again.json()), (200, shown))

    def test_delivers(self) -> None:
        """What is published afterwards is sent; by the time of the answer the webhook has subscribed."""
        self.put()
        published = self.client.call("POST", "/api/v1/publish", {"topic": "sales/a", "message": {"x": 1}})
        self.client.clock.pump([0.01] * 20)
        ((headers, body, _),) = self.requests
        id_ = published.json()["id"]
        self.assertEqual(body, b'{"id":"%b","topic":"sales/a","data":{"x":1}}' % id_.encode())
        self.assertEqual(headers["Flow-Id"], id_)

    def test_hidden(self) -> None:
        """Among the queues there is none of it."""
        self.put()
        self.assertEqual(self.client.call("GET", "/api/v1/queues").json()["queues"], [])

    def test_described(self) -> None:
        """A description says how it does, and why the last attempt failed; never the secret."""
        self.put()
        described = self.call("GET", "/w").json()
        self.assertEqual(described["stats"], {"waiting": 0, "oldest_age_seconds": 0.0})
        self.assertIsNone(described["last_failure"])
        self.assertNotIn("secret", described)
        self.client.call("POST", "/api/v1/publish", {"topic": "sales/a", "message": "x"})
        self.client.clock.pump([0.01] * 20)
        self.requests[0][2].callback(500)
        self.client.settle()
        described = self.call("GET", "/w").json()
        self.assertEqual(described["stats"]["waiting"], 1)
        self.assertEqual(described["last_failure"]["reason"], "the answer was 500")

    def test_removed(self) -> None:
        """A removed webhook is gone."""
        self.put()
        self.assertEqual(self.call("DELETE", "/w").status, 204)
        self.refused(self.call("DELETE", "/w"), 404, "not_found")
        self.refused(self.call("GET", "/w"), 404, "not_found")

    def test_renewed_secret(self) -> None:
        """A new secret is shown once."""
        old = self.put().json()["secret"]
        answer = self.call("POST", "/w/secret")
        self.assertEqual(answer.status, 200)
        self.assertNotEqual(answer.json()["secret"], old)
        self.refused(self.call("POST", "/v/secret"), 404, "not_found")

    def test_pages(self) -> None:
        """Webhooks are listed by name, page by page."""
        for name in ("c", "a", "b"):
            self.put(name)
        page = self.call("GET", "?limit=2").json()
        self.assertEqual(([one["name"] for one in page["webhooks"]], page["next"]), (["a", "b"], "b"))
        page = self.call("GET", "?limit=2&cursor=b").json()
        self.assertEqual(([one["name"] for one in page["webhooks"]], page["next"]), (["c"], None))
        self.assertEqual(len(self.call("GET", "?prefix=a").json()["webhooks"]), 1)

    def test_wrong_values(self) -> None:
        """What is not as it should be is refused, and named."""
        for members, status, code in (
            ({"url": "http://receiver.example/"}, 400, "invalid_parameter"),
            ({"url": "https://169.254.169.254/"}, 400, "invalid_parameter"),
            ({"url": 5}, 400, "invalid_parameter"),
            ({"topic": "a/#/b"}, 400, "invalid_topic"),
            ({"topic": "$SYS/#"}, 400, "invalid_topic"),
            ({"topic": None}, 400, "invalid_parameter"),
            ({"max_receives": 0}, 400, "invalid_parameter"),
            ({"max_receives": 101}, 400, "invalid_parameter"),
            ({"max_receive": 1}, 400, "invalid_parameter"),
            ({"dead_letter": "nowhere"}, 404, "not_found"),
        ):
            self.refused(self.put(**cast(Any, members)), status, code)
        self.refused(self.call("PUT", "/w", {"topic": "a"}), 400, "missing_field")
        self.refused(self.put("a.b"), 400, "invalid_parameter")
        self.refused(self.call("GET", "?limit=0"), 400, "invalid_parameter")
        self.refused(self.call("GET", "/w?x=1"), 400, "invalid_parameter")
        self.refused(self.call("POST", "/w/secret", {"x": 1}), 400, "invalid_parameter")
        self.assertEqual(self.call("GET").json()["webhooks"], [])

    def test_without_token(self) -> None:
        """Nothing without a token."""
        for method, path in (("GET", ""), ("PUT", "/w"), ("GET", "/w"), ("DELETE", "/w"), ("POST", "/w/secret")):
            answer = self.client.call(method, f"/api/v1/webhooks{path}", token=None)
            self.refused(answer, 401, "missing_token")

    def test_topics_granted(self) -> None:
        """It takes a grant for subscribing to all of the filter."""
        token = self.restricted(grants("sales/#", "sales/a"))
        self.refused(self.put(token=token), 403, "insufficient_scope")
        self.assertEqual(self.put(token=token, topic="sales/a").status, 201)

    def test_dead_letter_granted(self) -> None:
        """It takes a grant for the queue that gets the dead letters."""
        self.client.call("PUT", "/api/v1/queues/dead", {})
        token = self.restricted(grants(None, "#", ("other",)))
        self.refused(self.put(token=token, dead_letter="dead"), 403, "insufficient_scope")
        self.assertEqual(self.put(dead_letter="dead").json()["dead_letter"], "dead")

    def test_of_more_than_is_granted(self) -> None:
        """Who may not subscribe to a webhook's topics neither sees it nor changes anything, by whatever call."""
        self.put()
        token = self.restricted(grants(None, "other/#"))
        self.assertEqual(self.call("GET", token=token).json()["webhooks"], [])
        for answer in (
            self.call("GET", "/w", token=token),
            self.call("DELETE", "/w", token=token),
            self.call("POST", "/w/secret", token=token),
            self.put(token=token, topic="other/#", url="https://thief.example/"),
        ):
            self.refused(answer, 403, "insufficient_scope")
        self.assertEqual(self.call("GET", "/w").json()["url"], URL)

    def test_full_names(self) -> None:
        """A filter of another namespace is shown by its full name, and so is one that was written so."""
        granted = Grants((), (Grant(HOME, "#"), Grant(OTHER, "#")), ())
        token = self.restricted(granted)
        for topic, shown in (("bob_cafe_news", "bob_cafe_news"), ("alice_shop_a", "alice_shop_a"), ("a", "a")):
            self.assertEqual(self.put(token=token, topic=topic).json()["topic"], shown)

    def test_of_a_share_that_ended(self) -> None:
        """A webhook of another account's topics is seen and removed, but not changed, by who has all of the own."""
        token = self.restricted(Grants((), (Grant(HOME, "#"), Grant(OTHER, "#")), ()))
        self.put(token=token, topic="bob_cafe_news")
        self.client.tokens.known["narrow"] = principal(grants(None, "a/#"))
        self.refused(self.call("DELETE", "/w", token="narrow"), 403, "insufficient_scope")
        self.refused(self.put(topic="a"), 403, "insufficient_scope")
        self.refused(self.call("POST", "/w/secret"), 403, "insufficient_scope")
        self.assertEqual([one["topic"] for one in self.call("GET").json()["webhooks"]], ["bob_cafe_news"])
        self.assertEqual(self.call("GET", "/w").status, 200)
        self.assertEqual(self.call("DELETE", "/w").status, 204)

    def test_enabled_again(self) -> None:
        """An answer of 410 disables it; to put it again enables it."""
        self.put()
        self.client.call("POST", "/api/v1/publish", {"topic": "sales/a", "message": "x"})
        self.client.clock.pump([0.01] * 20)
        self.requests.pop()[2].callback(410)
        self.client.clock.pump([0.01] * 20)
        self.assertEqual(self.call("GET", "/w").json()["status"], "disabled")
        self.assertEqual(self.put().json()["status"], "enabled")
        self.client.clock.pump([0.01] * 20)
        self.assertEqual(len(self.requests), 1)
