"""Queues, of the visitor's own applications alone."""

from __future__ import annotations

from typing import Any

from flowgate.dashboard import queues as module
from flowgate.queues.model import Outgoing
from flowgate.topics import Namespace
from tests.dashboard.case import DashboardCase

HOME = Namespace("alice", "shop")


class QueueTests(DashboardCase):
    """The pages of queues."""

    def setUp(self) -> None:
        super().setUp()
        self.browser = self.signed_in()

    def ask(self, method: str, path: str = "", body: object = None, status: int = 200, app: str = "shop") -> Any:
        answer = self.browser.ask(method, f"apps/{app}/queues{path}", body)
        self.assertEqual(answer.status, status, answer.body)
        return answer.json() if answer.body else None

    def send(self, name: str, *bodies: str, home: Namespace = HOME) -> None:
        messages = [Outgoing(body, {}) for body in bodies]
        self.successResultOf(self.client.queues.send(home, name, messages, may_create=True))

    def test_list(self) -> None:
        """Queues are listed with their figures."""
        self.send("orders", "a", "b")
        self.successResultOf(self.client.queues.receive(HOME, "orders", 1))
        self.client.clock.advance(5)
        (shown,) = self.ask("GET")["queues"]
        self.assertEqual(shown["name"], "orders")
        self.assertEqual((shown["stats"]["visible"], shown["stats"]["in_flight"]), (1, 1))
        self.assertGreaterEqual(shown["stats"]["oldest_age_seconds"], 0)

    def test_pages(self) -> None:
        """Many queues are on several pages."""
        self.patch(module, "PAGE", 2)
        for name in "abc":
            self.ask("POST", body={"name": name}, status=201)
        first = self.ask("GET")
        self.assertEqual(([one["name"] for one in first["queues"]], first["next"]), (["a", "b"], "b"))
        second = self.ask("GET", "?cursor=b")
        self.assertEqual(([one["name"] for one in second["queues"]], second["next"]), (["c"], None))

    def test_create(self) -> None:
        """A queue is made with its dead-letter queue."""
        self.ask("POST", body={"name": "dead"}, status=201)
        made = self.ask("POST", body={"name": "orders", "dead_letter": "dead", "max_receives": 3}, status=201)
        self.assertEqual(made["config"]["dead_letter"], {"queue": "dead", "max_receives": 3})
        self.assertEqual(self.ask("GET", "/dead")["dead_letters_of"], ["orders"])
        for body in ({"name": "a b"}, {"name": "x", "max_receives": 3}, {"name": "x", "more": 1}):
            self.ask("POST", body=body, status=400)

    def test_peek_and_purge(self) -> None:
        """Messages are looked at without being taken, and removed."""
        self.send("orders", "<b>first</b>", "second")
        seen = self.ask("GET", "/orders/messages")["messages"]
        self.assertEqual([one["body"] for one in seen], ["<b>first</b>", "second"])
        self.assertTrue(all("receipt" not in one for one in seen))
        self.assertEqual(self.ask("GET", "/orders")["stats"]["visible"], 2)
        self.ask("POST", "/orders/purge", {}, 204)
        self.assertEqual(self.ask("GET", "/orders")["stats"]["visible"], 0)

    def test_remove(self) -> None:
        """A queue is removed."""
        self.send("orders", "a")
        self.ask("DELETE", "/orders", status=204)
        self.ask("GET", "/orders", status=404)

    def test_redrive(self) -> None:
        """Dead letters are moved back, or elsewhere; a move can be ended."""
        self.ask("POST", body={"name": "dead"}, status=201)
        self.ask("POST", "/dead/redrive", {}, 404)
        self.ask("POST", body={"name": "orders", "dead_letter": "dead", "max_receives": 1}, status=201)
        self.send("dead", *map(str, range(5)))
        started = self.ask("POST", "/dead/redrive", {"destination": "orders", "max_per_second": 1}, 202)
        self.assertEqual((started["status"], started["to_move"]), ("running", 5))
        ended = self.ask("DELETE", f"/dead/redrive/{started['task']}")
        self.assertEqual(ended["status"], "cancelling")
        self.assertEqual([one["task"] for one in self.ask("GET", "/dead")["redrives"]], [started["task"]])
        self.ask("DELETE", "/dead/redrive/nix", status=404)

    def test_other_accounts(self) -> None:
        """The application's name is a name inside the account: no spelling leads out of it."""
        self.send("orders", "secret", home=Namespace("bob", "shop"))
        self.ask("GET", "/orders", status=404)
        self.assertEqual(self.ask("GET")["queues"], [])
        for app in ("bob_shop", "..%2Fbob", "BOB", "%2e%2e"):
            self.ask("GET", "/orders", status=400, app=app)
