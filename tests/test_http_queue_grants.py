"""Grants of queues at the calls of REST: which verbs each of them takes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.permissions import VERBS
from flowgate.http.credentials import Credentials
from flowgate.http.queues import QueueCalls
from tests.http_client import HOME, Answer, HttpClient, grants, principal

_MESSAGE = {"body": "x"}
_RECEIPTS = {"receipts": ["x"]}

TABLE: tuple[tuple[str, str, object, str], ...] = (
    ("POST", "<name>/messages", _MESSAGE, "send"),
    ("POST", "<name>/messages/batch", {"messages": [{"id": "1", "body": "x"}]}, "send"),
    ("POST", "<name>/messages/receive", {}, "receive"),
    ("GET", "<name>/messages/receive", None, "receive"),
    ("GET", "<name>/messages", None, "receive"),
    ("GET", "<name>/messages/peek", None, "receive"),
    ("POST", "<name>/messages/delete", _RECEIPTS, "receive"),
    ("POST", "<name>/messages/visibility", {"entries": [{"id": "1", "receipt": "x", "visibility": 1}]}, "receive"),
    ("DELETE", "<name>/messages/<receipt>", None, "receive"),
    ("PATCH", "<name>/messages/<receipt>", {"visibility": 1}, "receive"),
    ("GET", "<name>", None, "receive manage"),
    ("GET", "<name>/dead-letter-sources", None, "receive manage"),
    ("POST", "", {"name": "q"}, "manage"),
    ("PUT", "<name>", {}, "manage"),
    ("PATCH", "<name>", {}, "manage"),
    ("POST", "<name>/purge", None, "manage"),
    ("POST", "<name>/redrive", None, "manage"),
    ("GET", "<name>/redrive", None, "manage"),
    ("DELETE", "<name>/redrive/<task>", None, "manage"),
    ("PUT", "<name>/subscriptions", {"topic": "a"}, "manage"),
    ("GET", "<name>/subscriptions", None, "manage"),
    ("DELETE", "<name>/subscriptions", {"topic": "a"}, "manage"),
    ("GET", "", None, "send receive manage"),
    ("DELETE", "<name>", None, "manage"),
)
"""Method, path, body, and the verbs of which one is needed."""


class QueueGrantTests(SynchronousTestCase):
    """What a token with a verb may do."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def token(self, *queues: str) -> str:
        """A token for these queues, and for subscribing to anything."""
        self.client.tokens.known[" ".join(queues)] = principal(grants(subscribe="#", queues=queues))
        return " ".join(queues)

    def call(self, method: str, path: str, body: object, *queues: str) -> Answer:
        path = path.replace("<name>", "q").replace("<receipt>", "x").replace("<task>", "x")
        url = f"/api/v1/queues/{quote(path)}".rstrip("/")
        # The client's header cannot hold blanks: the fake knows tokens by any text.
        self.client.tokens.known["asking"] = self.client.tokens.known[self.token(*queues)]
        return self.client.call(method, url, body, token="asking")

    def exists(self, name: str, **config: object) -> None:
        self.client.queues.configure(HOME, name, config)

    def allowed(self, method: str, path: str, body: object, verbs: Iterable[str]) -> bool:
        self.exists("q")
        answer = self.call(method, path, body, *(f"{verb}:q" for verb in verbs))
        if (method, path) == ("GET", ""):  # refused nobody: it shows what may be used
            return bool(answer.json()["queues"])
        if answer.status == 403:
            self.assertEqual(answer.json()["code"], "insufficient_scope")
        return answer.status != 403

    def test_every_call(self) -> None:
        """Each call is permitted with one of its verbs, and with all others together it is not."""
        routes = QueueCalls(self.client.queues, Credentials(self.client.tokens)).routes()  # type: ignore[arg-type]
        prefix = "/api/v1/queues"
        calls = {(method, f"{prefix}/{path}".rstrip("/")) for method, path, _, _ in TABLE}
        self.assertEqual(calls, {(route.method, route.path) for route in routes})
        for method, path, body, needed in TABLE:
            for count in range(len(VERBS) + 1):
                for verbs in combinations(VERBS, count):
                    expected = bool(set(verbs) & set(needed.split()))
                    self.assertIs(self.allowed(method, path, body, verbs), expected, (method, path, verbs))

    def test_of_another_queue(self) -> None:
        """A verb is for the queues that are named with it."""
        self.exists("q")
        for method, path, body, _ in TABLE:
            granted = tuple(f"{verb}:{name}" for verb in VERBS for name in ("other", "qq*"))
            answer = self.call(method, path, body, *granted)
            if (method, path) == ("GET", ""):
                self.assertEqual(answer.json()["queues"], [])
            else:
                self.assertEqual(answer.status, 403, (method, path))

    def test_made_by_the_first_message(self) -> None:
        """The first message makes the queue for who may manage it; for others there is none."""
        for path, body in (("", _MESSAGE), ("/batch", {"messages": [{"id": "1", "body": "x"}]})):
            self.assertEqual(self.call("POST", f"<name>/messages{path}", body, "send:*").status, 404)
            self.assertEqual(self.call("POST", f"<name>/messages{path}", body, "send:*", "manage:q").status // 100, 2)
            self.client.queues.remove(HOME, "q")

    def test_dead_letters(self) -> None:
        """Naming a dead-letter queue takes managing the one and sending to the other, or managing both."""
        self.exists("dead")
        config = {"dead_letter": {"queue": "dead"}}
        for queues, expected in (
            (("manage:q", "send:dead"), True),
            (("manage:*",), True),
            (("q", "send:dead"), True),
            (("*",), True),
            (("manage:q",), False),
            (("manage:q", "receive:dead"), False),
            (("send:*", "receive:*", "manage:dead"), False),
            (("manage:q", "dead"), False),  # or who may not receive from q could read it in dead
            (("manage:q", "receive:q", "dead"), True),
        ):
            for method, path, body in (
                ("PUT", "<name>", config),
                ("POST", "", {"name": "q", **config}),
                ("PATCH", "<name>", config),
            ):
                self.exists("q")
                self.assertIs(self.call(method, path, body, *queues).status != 403, expected, (method, queues))
                self.client.queues.remove(HOME, "q")

    def test_redrive(self) -> None:
        """So does moving messages, back to their sources or elsewhere."""
        self.exists("q")
        for source in ("one", "two"):
            self.exists(source, dead_letter={"queue": "q", "max_receives": 1})
        self.exists("else")
        for body, queues, status in (
            (None, ("manage:*",), 202),
            (None, ("manage:q", "send:one", "send:two"), 202),
            (None, ("manage:q", "send:one"), 403),
            (None, ("manage:q", "receive:*"), 403),
            ({"destination": "else"}, ("manage:q", "send:else"), 202),
            ({"destination": "else"}, ("manage:q", "else"), 403),
            ({"destination": "else"}, ("q", "else"), 202),
            ({"destination": "else"}, ("q", "receive:else"), 403),
        ):
            self.assertEqual(self.call("POST", "<name>/redrive", body, *queues).status, status, (body, queues))
            self.client.clock.pump([1] * 2)

    def test_subscription(self) -> None:
        """A queue is subscribed by who may manage it and subscribe to the filter; neither replaces the other."""
        self.exists("q")
        for subscribe, queues, status in (("a/#", "manage:q", 201), ("b", "q", 403), (None, "q", 403)):
            self.client.tokens.known["asking"] = principal(grants(subscribe=subscribe, queues=(queues,)))
            answer = self.client.call("PUT", "/api/v1/queues/q/subscriptions", {"topic": "a/+"}, token="asking")
            self.assertEqual(answer.status, status, (subscribe, queues))
