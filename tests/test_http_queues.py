"""Queues over REST."""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.http_client import Answer, HttpClient, grants, principal


class QueueTests(SynchronousTestCase):
    """``/api/v1/queues/…``."""

    def setUp(self) -> None:
        self.client = HttpClient()

    def call(self, method: str, path: str, body: object = None, token: str = "good") -> Answer:
        return self.client.call(method, f"/api/v1/queues/{path}", body, token=token)

    def send(self, body: str = "hello", **more: object) -> Answer:
        return self.call("POST", "q/messages", {"body": body, **more})

    def receive(self, **wishes: object) -> list[dict[str, Any]]:
        answer = self.call("POST", "q/messages/receive", wishes)
        self.assertEqual(answer.status, 200)
        messages: list[dict[str, Any]] = answer.json()["messages"]
        return messages

    def refused(self, answer: Answer, status: int, code: str) -> None:
        self.assertEqual((answer.status, answer.json()["code"]), (status, code))

    def test_send(self) -> None:
        """A message that is stored is answered with its id and the MD5 of its body; the queue is made for it."""
        answer = self.send("hello")
        self.assertEqual(answer.status, 201)
        self.assertEqual(answer.json()["md5"], hashlib.md5(b"hello").hexdigest())
        self.assertEqual(set(answer.json()), {"id", "md5", "sequence"})

    def test_receive(self) -> None:
        """What was sent is received, with a receipt."""
        sent = self.send("hello", attributes={"a": 1}).json()
        [message] = self.receive()
        self.assertEqual((message["id"], message["body"], message["receive_count"]), (sent["id"], "hello", 1))
        self.assertEqual(message["attributes"], {"a": 1})
        self.assertEqual(self.receive(), [])

    def test_receive_by_query(self) -> None:
        """GET receives too."""
        self.send("one")
        self.send("two")
        answer = self.call("GET", "q/messages/receive?max=2&visibility=10&wait=0")
        self.assertEqual([message["body"] for message in answer.json()["messages"]], ["one", "two"])

    def test_receive_without_body(self) -> None:
        """A receive needs no wishes."""
        self.send()
        self.assertEqual(len(self.call("POST", "q/messages/receive").json()["messages"]), 1)

    def test_head_takes_nothing(self) -> None:
        """HEAD takes no message."""
        self.send()
        answer = self.call("HEAD", "q/messages/receive")
        self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, POST"))
        self.assertEqual(len(self.receive()), 1)

    def test_visibility(self) -> None:
        """A message that is not deleted comes back."""
        self.send()
        self.receive(visibility=5)
        self.client.clock.pump([1] * 6)
        self.assertEqual(self.receive()[0]["receive_count"], 2)

    def test_delete(self) -> None:
        """A deleted message never comes back; deleting it again is no error."""
        self.send()
        [message] = self.receive(visibility=5)
        for _ in range(2):
            answer = self.call("DELETE", f"q/messages/{message['receipt']}")
            self.assertEqual((answer.status, answer.body), (204, b""))
        self.client.clock.pump([1] * 6)
        self.assertEqual(self.receive(), [])

    def test_foreign_receipt(self) -> None:
        """A receipt that was never issued for the queue is refused."""
        self.send()
        self.refused(self.call("DELETE", "q/messages/nonsense"), 400, "receipt_invalid")

    def test_change_visibility(self) -> None:
        """A receiver may hold a message longer, or give it back."""
        self.send()
        [message] = self.receive()
        self.assertEqual(self.call("PATCH", f"q/messages/{message['receipt']}", {"visibility": 0}).status, 204)
        self.assertEqual(len(self.receive()), 1)
        self.refused(self.call("PATCH", f"q/messages/{message['receipt']}", {}), 400, "missing_field")

    def test_waiting_receiver_goes(self) -> None:
        """A receiver that has gone takes no message with it."""
        self.call("PUT", "q", {})
        connection = self.client.open("POST", "/api/v1/queues/q/messages/receive", {"wait": 20})
        self.assertEqual(connection.received, b"")
        connection.lose()
        self.send()
        self.assertEqual(self.receive()[0]["receive_count"], 1)

    def test_cancelled(self) -> None:
        """The wait of a receiver that has gone is cancelled."""
        cancelled: list[object] = []
        self.patch(self.client.queues, "receive", lambda *_, **__: Deferred(cancelled.append))
        self.client.open("POST", "/api/v1/queues/q/messages/receive", {"wait": 20}).lose()
        self.assertEqual(len(cancelled), 1)

    def test_configure(self) -> None:
        """A queue is made once; the same again is no error, another configuration is."""
        answer = self.call("PUT", "q", {"visibility": 60})
        self.assertEqual((answer.status, answer.json()["name"], answer.json()["config"]["visibility"]), (201, "q", 60))
        self.assertEqual(self.call("PUT", "q", {"visibility": 60}).status, 200)
        self.refused(self.call("PUT", "q", {"visibility": 61}), 409, "conflict")
        self.refused(self.call("PUT", "q", {"visibilty": 60}), 400, "invalid_parameter")

    def test_describe(self) -> None:
        """A queue is described with its counts."""
        self.send()
        self.send()
        self.receive()
        body = self.call("GET", "q").json()
        self.assertEqual((body["stats"]["visible"], body["stats"]["in_flight"]), (1, 1))
        self.assertEqual(set(body["stats"]), {"visible", "in_flight", "delayed", "bytes", "oldest_age_seconds"})

    def test_remove(self) -> None:
        """A removed queue is gone."""
        self.send()
        self.assertEqual(self.call("DELETE", "q").status, 204)
        self.refused(self.call("GET", "q"), 404, "not_found")
        self.refused(self.call("POST", "q/messages/receive", {}), 404, "not_found")

    def test_not_offered_yet(self) -> None:
        """What would not be kept is refused."""
        for member in ({"delay": 5}, {"group": "g"}, {"dedup_id": "d"}):
            self.refused(self.send(**member), 400, "invalid_parameter")

    def test_bad_values(self) -> None:
        """Values out of range and unknown members are refused."""
        self.refused(self.call("POST", "q/messages", {"body": {"a": 1}}), 400, "invalid_parameter")
        self.refused(self.call("POST", "q/messages", {}), 400, "missing_field")
        self.refused(self.call("POST", "q/messages", {"body": "x", "dealy": 1}), 400, "invalid_parameter")
        for wishes in ({"max": 0}, {"max": 11}, {"wait": 21}, {"visibility": 43201}, {"max": True}, {"maximum": 1}):
            self.refused(self.call("POST", "q/messages/receive", wishes), 400, "invalid_parameter")
        for query in ("max=0", "max=x", "wait=-1", "visibility=1.5", "maximum=1", "max=1&max=2"):
            self.refused(self.call("GET", f"q/messages/receive?{query}"), 400, "invalid_parameter")
        self.refused(self.call("PUT", "bad%20name", {}), 400, "invalid_parameter")

    def test_beyond_the_grants(self) -> None:
        """A queue that was not granted is refused on every path, before anything else is looked at."""
        self.client.tokens.known["narrow"] = principal(grants(queues=("mine",)))
        for method, path in (
            ("PUT", "q"),
            ("GET", "q"),
            ("DELETE", "q"),
            ("POST", "q/messages"),
            ("POST", "q/messages/receive"),
            ("GET", "q/messages/receive"),
            ("DELETE", "q/messages/x"),
            ("PATCH", "q/messages/x"),
        ):
            body = b"{" if method != "GET" else None
            self.refused(self.call(method, path, body, "narrow"), 403, "insufficient_scope")
            self.refused(self.call(method, path, body, "wrong"), 401, "invalid_token")
        self.assertEqual(self.call("POST", "mine/messages", {"body": "x"}, "narrow").status, 201)
