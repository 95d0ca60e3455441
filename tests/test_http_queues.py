"""Queues over REST."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.permissions import Grant, Grants
from flowgate.http.queue_values import read_attributes, shown_attributes
from flowgate.queues.model import Attribute, InvalidAttribute
from tests.http_client import HOME, OTHER, Answer, HttpClient, grants, principal


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = HttpClient()

    def call(
        self, method: str, path: str, body: object = None, token: str = "good", headers: dict[str, str] | None = None
    ) -> Answer:
        return self.client.call(method, f"/api/v1/queues/{path}".rstrip("/"), body, token=token, headers=headers)

    def made(self, name: str, **config: object) -> None:
        """Have a queue."""
        self.assertEqual(self.call("PUT", name, config).status, 201)

    def send(self, body: str = "hello", queue: str = "q", **more: object) -> Answer:
        return self.call("POST", f"{queue}/messages", {"body": body, **more})

    def receive(self, queue: str = "q", **wishes: object) -> list[dict[str, Any]]:
        answer = self.call("POST", f"{queue}/messages/receive", wishes)
        self.assertEqual(answer.status, 200, answer.body)
        messages: list[dict[str, Any]] = answer.json()["messages"]
        return messages

    def refused(self, answer: Answer, status: int, code: str) -> Any:
        problem = answer.json()
        self.assertEqual((answer.status, problem["code"]), (status, code), problem)
        return problem

    def wait(self, seconds: int) -> None:
        self.client.clock.pump([1] * seconds)


class MessageTests(_Tests):
    """``/api/v1/queues/<name>/messages…``."""

    def test_send(self) -> None:
        """A message that is stored is answered with its id and the MD5 of its body; the queue is made for it."""
        answer = self.send("hello")
        self.assertEqual(answer.status, 201)
        self.assertEqual(answer.json()["md5"], hashlib.md5(b"hello").hexdigest())
        self.assertEqual(set(answer.json()), {"id", "md5", "sequence"})
        self.assertRegex(answer.json()["sequence"], r"\A[0-9]{20}\Z")

    def test_receive(self) -> None:
        """What was sent is received, with a receipt; what is not known of a message is left out."""
        self.wait(1)
        sent = self.send("hello").json()
        [message] = self.receive()
        self.assertEqual((message["id"], message["body"], message["receive_count"]), (sent["id"], "hello", 1))
        self.assertEqual((message["md5"], message["sequence"]), (sent["md5"], sent["sequence"]))
        self.assertEqual(message["sender"], principal().key_id)
        self.assertEqual(
            set(message),
            {
                *("id", "receipt", "body", "md5", "attributes", "receive_count"),
                *("sent_at", "first_received_at", "sequence", "sender"),
            },
        )
        self.assertEqual(self.receive(), [])

    def test_attributes(self) -> None:
        """Attributes are received as they were sent, with the digest that SQS clients compute."""
        attributes = {"a": 1, "b": "text", "c": {"type": "Binary.png", "value": "AAE="}}
        sent = self.send(attributes=attributes).json()
        [message] = self.receive()
        self.assertEqual(message["attributes"], attributes)
        self.assertEqual(message["md5_attributes"], sent["md5_attributes"])

    def test_wrong_attributes(self) -> None:
        """An attribute that could not be received by an SQS client is refused."""
        wrong: tuple[object, ...] = (
            *(None, True, [], "", {"type": "String"}),
            *(
                {"type": "Number", "value": 1},
                {"type": "x", "value": "x"},
                {"type": "String", "value": "x", "more": "x"},
            ),
        )
        for value in wrong:
            self.refused(self.send(attributes={"a": value}), 400, "invalid_attribute")
        self.refused(self.send(attributes={"AWS.a": "x"}), 400, "invalid_attribute")
        self.refused(self.send(attributes={str(i): "x" for i in range(11)}), 400, "invalid_attribute")
        self.refused(self.send(attributes=[]), 400, "invalid_parameter")

    def test_forms_of_attributes(self) -> None:
        """Every attribute is shown in a form that is read as the very same one."""
        for attribute, shown in (
            (Attribute("String", "1"), "1"),
            (Attribute("Number", "1"), 1),
            (Attribute("Number", "-1.5"), -1.5),
            *(
                (attribute, {"type": attribute.type, "value": attribute.value})
                for attribute in (
                    *(Attribute("Number", text) for text in ("007", "+1", "1.50", "-0", "1e3", ".5", "9" * 30)),
                    *(Attribute("Number", text) for text in ("9007199254740993", "1e999")),
                    *(Attribute(kind, "1") for kind in ("Number.int", "String.x", "Binary")),
                )
            ),
        ):
            text = json.dumps(shown_attributes({"a": attribute}))
            self.assertEqual(json.loads(text), {"a": shown})
            self.assertEqual(read_attributes(json.loads(text)), {"a": attribute})
        self.assertRaises(InvalidAttribute, read_attributes, {"a": 1e300})

    def test_bytes(self) -> None:
        """A body of bytes is base64; SQS clients see it as text with an attribute that says so."""
        text = base64.b64encode(b"\0\xff").decode()
        answer = self.call("POST", "q/messages", {"body_base64": text, "attributes": {"a": "b"}})
        self.assertEqual(answer.json()["md5"], hashlib.md5(text.encode()).hexdigest())
        [message] = self.receive()
        self.assertEqual((message["body_base64"], message["md5"]), (text, answer.json()["md5"]))
        self.assertNotIn("body", message)
        self.assertEqual(message["attributes"], {"a": "b", "ContentEncoding": "base64"})
        # What was received can be sent on.
        again = {"body_base64": text, "attributes": message["attributes"]}
        self.assertEqual(self.call("POST", "q/messages", again).status, 201)

    def test_attribute_of_somebody_else(self) -> None:
        """A text stays one, whatever an attribute says of it."""
        self.send("no base64!", attributes={"ContentEncoding": "base64"})
        self.assertEqual(self.receive()[0]["body"], "no base64!")

    def test_wrong_bytes(self) -> None:
        """What is no base64, or two bodies at once, is refused."""
        for body in ({"body_base64": "?"}, {"body_base64": "é"}, {"body_base64": 5}, {"body_base64": "", "body": "x"}):
            self.refused(self.call("POST", "q/messages", body), 400, "invalid_parameter")
        wrong = {"body_base64": "AA==", "attributes": {"ContentEncoding": "gzip"}}
        self.refused(self.call("POST", "q/messages", wrong), 400, "invalid_attribute")

    def test_characters(self) -> None:
        """Characters that Amazon SQS does not take are refused here too."""
        self.refused(self.send("a\0"), 400, "invalid_characters")
        self.refused(self.send(""), 400, "invalid_parameter")

    def test_too_large(self) -> None:
        """A message larger than the queue takes is refused."""
        self.made("q", max_message_bytes=1024)
        self.assertEqual(self.send("x" * 1024).status, 201)
        self.refused(self.send("x" * 1024, attributes={"a": "b"}), 413, "message_too_large")

    def test_delay(self) -> None:
        """A delayed message comes later; the message's own delay goes before the queue's, 0 too."""
        self.made("q", delay=5)
        self.send("later")
        self.send("latest", delay=9)
        self.send("now", delay=0)
        self.assertEqual([one["body"] for one in self.receive(max=10)], ["now"])
        self.wait(6)
        self.assertEqual([one["body"] for one in self.receive(max=10)], ["later"])
        self.wait(4)
        self.assertEqual([one["body"] for one in self.receive(max=10)], ["latest"])
        self.refused(self.send(delay=901), 400, "invalid_parameter")

    def test_receive_by_query(self) -> None:
        """GET receives too, at both paths."""
        for body in ("one", "two", "three"):
            self.send(body)
        answer = self.call("GET", "q/messages/receive?max=2&visibility=10&wait=0")
        self.assertEqual([message["body"] for message in answer.json()["messages"]], ["one", "two"])
        answer = self.call("GET", "q/messages")
        self.assertEqual([message["body"] for message in answer.json()["messages"]], ["three"])
        self.assertEqual(answer.headers["Cache-Control"], "no-store")

    def test_receive_without_body(self) -> None:
        """A receive needs no wishes."""
        self.send()
        self.assertEqual(len(self.call("POST", "q/messages/receive").json()["messages"]), 1)

    def test_head_takes_nothing(self) -> None:
        """HEAD takes no message."""
        self.send()
        for path in ("q/messages/receive", "q/messages"):
            answer = self.call("HEAD", path)
            self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, POST"))
        self.assertEqual(len(self.receive()), 1)

    def test_visibility(self) -> None:
        """A message that is not deleted comes back; the queue says when if the receiver does not."""
        self.made("q", visibility=5)
        self.send()
        self.receive()
        self.wait(6)
        self.assertEqual(self.receive(visibility=2)[0]["receive_count"], 2)
        self.wait(3)
        self.assertEqual(self.receive()[0]["receive_count"], 3)

    def test_delete(self) -> None:
        """A deleted message never comes back; deleting it again is no error."""
        self.send()
        [message] = self.receive(visibility=5)
        for _ in range(2):
            answer = self.call("DELETE", f"q/messages/{message['receipt']}")
            self.assertEqual((answer.status, answer.body), (204, b""))
        self.wait(6)
        self.assertEqual(self.receive(), [])

    def test_receipts_fit_into_paths(self) -> None:
        """A receipt is a plain segment of a path, shorter than 256 characters."""
        self.send()
        self.assertRegex(self.receive()[0]["receipt"], r"\A[A-Za-z0-9_-]{1,255}\Z")

    def test_foreign_receipt(self) -> None:
        """A receipt that was never issued for the queue is refused, also one of another queue."""
        self.send()
        [message] = self.receive()
        self.made("other")
        for path in ("q/messages/nonsense", f"other/messages/{message['receipt']}", "q/messages/receive"):
            self.refused(self.call("DELETE", path), 400, "receipt_invalid")
            self.refused(self.call("PATCH", path, {"visibility": 1}), 400, "receipt_invalid")

    def test_change_visibility(self) -> None:
        """A receiver may hold a message longer, or give it back."""
        self.send()
        [message] = self.receive()
        path = f"q/messages/{message['receipt']}"
        answer = self.call("PATCH", path, {"visibility": 0})
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(len(self.receive()), 1)
        self.refused(self.call("PATCH", path, {}), 400, "missing_field")
        for wrong in (43201, -1, "5", True, 1.5):
            self.refused(self.call("PATCH", path, {"visibility": wrong}), 400, "invalid_parameter")

    def test_change_visibility_of_what_is_gone(self) -> None:
        """A message that was deleted needs no other time: that is no error."""
        self.send()
        path = f"q/messages/{self.receive()[0]['receipt']}"
        self.call("DELETE", path)
        self.assertEqual(self.call("PATCH", path, {"visibility": 60}).status, 204)

    def test_waiting_receiver(self) -> None:
        """A receiver that waits is answered as soon as there is a message."""
        self.made("q")
        connection = self.client.open("POST", "/api/v1/queues/q/messages/receive", {"wait": 20})
        self.wait(5)
        self.assertEqual(connection.received, b"")
        self.send("at last")
        [message] = Answer(connection.received, "POST").json()["messages"]
        self.assertEqual(message["body"], "at last")

    def test_waiting_in_vain(self) -> None:
        """At the end of the wait the answer is an empty list."""
        self.made("q", receive_wait=3)
        connection = self.client.open("POST", "/api/v1/queues/q/messages/receive")
        self.assertEqual(connection.received, b"")
        self.wait(4)
        self.assertEqual(Answer(connection.received, "POST").json(), {"messages": []})

    def test_waiting_receiver_goes(self) -> None:
        """A receiver that has gone takes no message with it."""
        self.made("q")
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
        self.client.open("GET", "/api/v1/queues/q/messages/receive?wait=20").lose()
        self.assertEqual(len(cancelled), 2)

    def test_peek(self) -> None:
        """Looking at messages changes nothing, and gives no receipts."""
        self.send("one")
        self.send("two")
        for _ in range(2):
            messages = self.call("GET", "q/messages/peek").json()["messages"]
            self.assertEqual([(one["body"], one["receive_count"]) for one in messages], [("one", 0), ("two", 0)])
            self.assertFalse({"receipt", "first_received_at"} & set(messages[0]))
        self.assertEqual(len(self.call("GET", "q/messages/peek?limit=1").json()["messages"]), 1)
        self.assertEqual(self.receive()[0]["receive_count"], 1)

    def test_bad_values(self) -> None:
        """Values out of range and unknown members are refused."""
        self.refused(self.call("POST", "q/messages", {"body": {"a": 1}}), 400, "invalid_parameter")
        self.refused(self.call("POST", "q/messages", {}), 400, "missing_field")
        values: tuple[tuple[str, object], ...] = (
            *(("dealy", 1), ("delay", "1"), ("delay", True), ("group", 5), ("dedup_id", []), ("trace", "x")),
        )
        for member, value in values:
            self.refused(self.call("POST", "q/messages", {"body": "x", member: value}), 400, "invalid_parameter")
        for wishes in ({"max": 0}, {"max": 11}, {"wait": 21}, {"visibility": 43201}, {"max": True}, {"maximum": 1}):
            self.refused(self.call("POST", "q/messages/receive", wishes), 400, "invalid_parameter")
        for query in ("max=0", "max=x", "wait=-1", "visibility=1.5", "maximum=1", "max=1&max=2"):
            self.refused(self.call("GET", f"q/messages/receive?{query}"), 400, "invalid_parameter")
        for query in ("limit=0", "limit=101", "max=1"):
            self.refused(self.call("GET", f"q/messages/peek?{query}"), 400, "invalid_parameter")

    def test_parameters_where_none_are_read(self) -> None:
        """A call whose values are in its body does not ignore others in its query."""
        self.send()
        for method, path in (
            ("POST", "q/messages?delay=5"),
            ("POST", "q/messages/receive?wait=20"),
            ("POST", "q/messages/batch?x"),
            ("POST", "q/purge?x=1"),
            ("PUT", "q?visibility=1"),
            ("DELETE", "q?force=true"),
            ("GET", "q?stats=false"),
        ):
            detail = self.refused(self.call(method, path, {} if method != "GET" else None), 400, "invalid_parameter")
            self.assertIn("unknown parameter", detail["detail"])
        self.assertEqual(self.call("POST", "q/messages/receive?").status, 200)

    def test_percent_encoding(self) -> None:
        """A name is decoded as one part of the path."""
        self.send(queue="q")
        self.assertEqual(self.call("GET", "%71").json()["name"], "q")
        self.refused(self.call("GET", "q%2Fmessages"), 400, "invalid_parameter")
        self.refused(self.call("GET", "%ff"), 400, "invalid_parameter")

    def test_wrong_method(self) -> None:
        """A wrong method is told the right ones."""
        for method, path, allowed in (
            ("PUT", "q/messages", "GET, HEAD, POST"),
            ("DELETE", "q/purge", "POST"),
            ("POST", "q", "DELETE, GET, HEAD, PATCH, PUT"),
            ("PATCH", "q/subscriptions", "DELETE, GET, HEAD, PUT"),
        ):
            answer = self.call(method, path, {})
            self.assertEqual((answer.status, answer.headers["Allow"]), (405, allowed), path)
        self.refused(self.call("GET", "q/nothing"), 404, "not_found")


class FifoTests(_Tests):
    """FIFO queues."""

    def setUp(self) -> None:
        super().setUp()
        self.made("f.fifo")

    def put(self, body: str, group: str = "g", headers: dict[str, str] | None = None, **more: object) -> Answer:
        return self.call("POST", "f.fifo/messages", {"body": body, "group": group, **more}, headers=headers)

    def test_order(self) -> None:
        """While a message of a group is with a receiver, the next of that group waits."""
        self.put("a1", "a", dedup_id="1")
        self.put("a2", "a", dedup_id="2")
        self.put("b1", "b", dedup_id="3")
        [first] = self.receive("f.fifo")
        self.assertEqual((first["body"], first["group"], first["dedup_id"]), ("a1", "a", "1"))
        self.assertEqual([one["body"] for one in self.receive("f.fifo", max=10)], ["b1"])
        self.assertEqual(self.call("DELETE", f"f.fifo/messages/{first['receipt']}").status, 204)
        self.assertEqual([one["body"] for one in self.receive("f.fifo", max=10)], ["a2"])

    def test_duplicate(self) -> None:
        """A message that was sent before is answered as then, with 200 and ``duplicate``."""
        first = self.put("a", dedup_id="1")
        again = self.put("other", dedup_id="1")
        self.assertEqual((first.status, again.status), (201, 200))
        self.assertEqual(again.json()["duplicate"], True)
        self.assertEqual(again.json()["id"], first.json()["id"])
        self.assertNotIn("duplicate", first.json())

    def test_idempotency_key(self) -> None:
        """The header ``Idempotency-Key`` is the deduplication id."""
        first = self.put("a", headers={"Idempotency-Key": "k1"})
        self.assertEqual(first.status, 201)
        self.assertEqual(self.put("a", headers={"Idempotency-Key": '"k1"'}).status, 200)
        self.assertEqual(self.put("a", dedup_id="k1").status, 200)
        self.assertEqual(self.put("a", headers={"Idempotency-Key": "k1"}, dedup_id="k1").status, 200)
        wrong = self.put("a", headers={"Idempotency-Key": "k1"}, dedup_id="k2")
        self.refused(wrong, 400, "invalid_parameter")

    def test_idempotency_key_where_there_is_none(self) -> None:
        """A standard queue does not pass over a key in silence, and neither does a batch."""
        key = {"Idempotency-Key": "k1"}
        self.refused(self.call("POST", "q/messages", {"body": "x"}, headers=key), 400, "invalid_parameter")
        batch = {"messages": [{"id": "1", "body": "x", "group": "g", "dedup_id": "d"}]}
        self.refused(self.call("POST", "f.fifo/messages/batch", batch, headers=key), 400, "invalid_parameter")

    def test_needed(self) -> None:
        """A FIFO queue's message needs a group, and a deduplication id unless its content is one."""
        answer = self.call("POST", "f.fifo/messages", {"body": "x", "dedup_id": "1"})
        self.assertEqual(answer.status, 400)
        self.assertEqual(self.put("x").status, 400)
        self.made("c.fifo", content_dedup=True)
        for status in (201, 200):
            self.assertEqual(self.call("POST", "c.fifo/messages", {"body": "x", "group": "g"}).status, status)

    def test_attempt(self) -> None:
        """A receive that is repeated with its attempt id gets the same messages."""
        self.put("a", dedup_id="1")
        [first] = self.receive("f.fifo", attempt_id="t1")
        [again] = self.receive("f.fifo", attempt_id="t1")
        self.assertEqual(again["id"], first["id"])
        answer = self.call("GET", "f.fifo/messages/receive?attempt_id=t1")
        self.assertEqual([one["id"] for one in answer.json()["messages"]], [first["id"]])


class BatchTests(_Tests):
    """Several messages at once."""

    def batch(self, *messages: object) -> Answer:
        return self.call("POST", "q/messages/batch", {"messages": messages})

    def test_send(self) -> None:
        """Each message is answered under its id; the queue is made for them."""
        answer = self.batch({"id": "x", "body": "one", "attributes": {"a": 1}}, {"id": "y", "body": "two", "delay": 0})
        self.assertEqual(answer.status, 200)
        found = answer.json()
        self.assertEqual([one["id"] for one in found["successful"]], ["x", "y"])
        self.assertEqual(found["failed"], [])
        self.assertEqual(found["successful"][0]["md5"], hashlib.md5(b"one").hexdigest())
        messages = self.receive(max=10)
        self.assertEqual([one["body"] for one in messages], ["one", "two"])
        self.assertEqual([one["id"] for one in messages], [one["message_id"] for one in found["successful"]])
        self.assertEqual(found["successful"][0]["md5_attributes"], messages[0]["md5_attributes"])

    def test_partly(self) -> None:
        """A message whose value is wrong fails alone."""
        found = self.batch({"id": "x", "body": "one"}, {"id": "y", "body": "two", "delay": 901}).json()
        self.assertEqual([one["id"] for one in found["successful"]], ["x"])
        [failed] = found["failed"]
        self.assertEqual((failed["id"], failed["code"], failed["sender_fault"]), ("y", "invalid_parameter", True))
        self.assertIn("delay", failed["detail"])

    def test_malformed(self) -> None:
        """A malformed batch is refused as a whole, with the place of what is wrong."""
        good = {"id": "x", "body": "one"}
        for messages, code in (
            ([], "batch_empty"),
            ([{"id": str(i), "body": "x"} for i in range(11)], "batch_too_many"),
            ([good, {"id": "a b", "body": "x"}], "batch_id_invalid"),
            ([good, {"id": "", "body": "x"}], "batch_id_invalid"),
            ([good, good], "batch_id_repeated"),
            ([good, {"body": "x"}], "missing_field"),
            ([good, {"id": "y"}], "missing_field"),
            ([good, {"id": "y", "body": 5}], "invalid_parameter"),
            ([good, {"id": "y", "body": "x", "dealy": 5}], "invalid_parameter"),
            ([good, {"id": "y", "body": "x", "attributes": {"a": None}}], "invalid_attribute"),
            ([good, "x"], "invalid_parameter"),
        ):
            problem = self.refused(self.call("POST", "q/messages/batch", {"messages": messages}), 400, code)
            if len(messages) == 2:
                self.assertIn("messages[1]: ", problem["detail"])
        self.refused(self.call("POST", "q/messages/batch", {}), 400, "missing_field")
        self.refused(self.call("POST", "q/messages/batch", {"messages": {}}), 400, "invalid_parameter")
        self.refused(self.call("POST", "q/messages/batch", {"entries": []}), 400, "invalid_parameter")
        self.refused(self.call("GET", "q"), 404, "not_found")

    def test_too_large(self) -> None:
        """Messages that are too much together are refused together."""
        body = "x" * 600_000
        self.refused(self.batch({"id": "x", "body": body}, {"id": "y", "body": body}), 413, "message_too_large")

    def received(self, count: int) -> list[str]:
        for index in range(count):
            self.send(str(index))
        return [one["receipt"] for one in self.receive(max=count)]

    def test_delete(self) -> None:
        """Receipts are given as entries with ids, or as a list, where each has its place as its id."""
        first, second, third = self.received(3)
        entries = [{"id": "a", "receipt": first}, {"id": "b", "receipt": "nonsense"}]
        found = self.call("POST", "q/messages/delete", {"entries": entries}).json()
        self.assertEqual(found["successful"], [{"id": "a"}])
        [failed] = found["failed"]
        self.assertEqual((failed["id"], failed["code"], failed["sender_fault"]), ("b", "receipt_invalid", True))
        found = self.call("POST", "q/messages/delete", {"receipts": [second, third, first]}).json()
        self.assertEqual(found, {"successful": [{"id": "0"}, {"id": "1"}, {"id": "2"}], "failed": []})
        self.wait(31)
        self.assertEqual(self.receive(), [])

    def test_wrong_delete(self) -> None:
        """Malformed batches of deletes are refused as a whole."""
        self.made("q")
        for body, code in (
            ({}, "missing_field"),
            ({"receipts": [], "entries": []}, "missing_field"),
            ({"receipts": []}, "batch_empty"),
            ({"receipts": ["x"] * 11}, "batch_too_many"),
            ({"receipts": [5]}, "invalid_parameter"),
            ({"entries": []}, "batch_empty"),
            ({"entries": [{"id": "a"}]}, "missing_field"),
            ({"entries": [{"id": "a", "receipt": "x", "visibility": 1}]}, "invalid_parameter"),
        ):
            self.refused(self.call("POST", "q/messages/delete", body), 400, code)

    def test_change_visibility(self) -> None:
        """Each entry has a time of its own; what is wrong fails alone, and what is gone needs none."""
        first, second, third = self.received(3)
        self.call("DELETE", f"q/messages/{third}")
        entries = [
            {"id": "a", "receipt": first, "visibility": 0},
            {"id": "b", "receipt": second, "visibility": 43201},
            {"id": "c", "receipt": "nonsense", "visibility": 1},
            {"id": "d", "receipt": third, "visibility": 1},
        ]
        found = self.call("POST", "q/messages/visibility", {"entries": entries}).json()
        self.assertEqual(found["successful"], [{"id": "a"}, {"id": "d"}])
        codes = [(one["id"], one["code"]) for one in found["failed"]]
        self.assertEqual(codes, [("b", "invalid_parameter"), ("c", "receipt_invalid")])
        self.assertEqual([one["body"] for one in self.receive(max=10)], ["0"])
        wrong = {"entries": [{"id": "a", "receipt": first}]}
        self.refused(self.call("POST", "q/messages/visibility", wrong), 400, "missing_field")


class QueueTests(_Tests):
    """``/api/v1/queues…``."""

    def test_configure(self) -> None:
        """A queue is made once; the same again is no error, another configuration is."""
        answer = self.call("PUT", "q", {"visibility": 60})
        self.assertEqual((answer.status, answer.json()["name"], answer.json()["config"]["visibility"]), (201, "q", 60))
        self.assertEqual(self.call("PUT", "q", {"visibility": 60}).status, 200)
        problem = self.refused(self.call("PUT", "q", {"visibility": 61, "tags": {"a": "b"}}), 409, "conflict")
        self.assertEqual(problem["differing"], ["tags", "visibility"])
        self.refused(self.call("PUT", "q", {"visibilty": 60}), 400, "invalid_parameter")
        self.refused(self.call("PUT", "bad%20name", {}), 400, "invalid_parameter")
        self.assertEqual(self.call("PUT", "r").status, 201)

    def test_everything(self) -> None:
        """All members of a configuration are kept and shown."""
        self.made("dead.fifo")
        config = {
            "type": "fifo",
            "visibility": 1,
            "delay": 2,
            "receive_wait": 3,
            "max_message_bytes": 2048,
            "retention": 60,
            "dead_letter": {"queue": "dead.fifo", "max_receives": 3},
            "dead_letter_allow": "none",
            "content_dedup": True,
            "dedup_scope": "group",
            "throughput_limit": "group",
            "tags": {"team": "a"},
        }
        self.assertEqual(self.call("PUT", "q.fifo", config).json()["config"], config)
        self.assertEqual(self.call("GET", "q.fifo").json()["config"], config)

    def test_create(self) -> None:
        """POST makes a queue too, and says where it is."""
        answer = self.call("POST", "", {"name": "q", "visibility": 5})
        self.assertEqual((answer.status, answer.headers["Location"]), (201, "/api/v1/queues/q"))
        self.assertEqual(self.call("GET", "q").json()["config"]["visibility"], 5)
        self.assertEqual(self.call("POST", "", {"name": "q", "visibility": 5}).status, 200)
        self.refused(self.call("POST", "", {"name": "q"}), 409, "conflict")
        self.refused(self.call("POST", "", {}), 400, "missing_field")
        self.refused(self.call("POST", "", {"name": "a b"}), 400, "invalid_parameter")
        self.refused(self.call("POST", "", {"name": "r", "x": 1}), 400, "invalid_parameter")

    def test_describe(self) -> None:
        """A queue is described with its counts."""
        self.send()
        self.send()
        self.send(delay=10)
        self.receive()
        body = self.call("GET", "q").json()
        self.assertEqual(set(body), {"name", "config", "created_at", "modified_at", "stats"})
        stats = body["stats"]
        self.assertEqual((stats["visible"], stats["in_flight"], stats["delayed"]), (1, 1, 1))
        self.assertEqual(set(stats), {"visible", "in_flight", "delayed", "bytes", "oldest_age_seconds"})

    def test_change(self) -> None:
        """What is named is changed, null sets it back, tags are merged."""
        self.made("q", visibility=60, delay=5, tags={"a": "1", "b": "2"})
        answer = self.call("PATCH", "q", {"visibility": 10, "delay": None, "tags": {"a": None, "c": "3"}})
        self.assertEqual(answer.status, 200)
        config = self.call("GET", "q").json()["config"]
        self.assertEqual(answer.json()["config"], config)
        self.assertEqual((config["visibility"], config["delay"]), (10, 0))
        self.assertEqual(config["tags"], {"b": "2", "c": "3"})
        self.assertEqual(self.call("PATCH", "q", {"tags": None}).json()["config"]["tags"], {})
        self.assertEqual(self.call("PATCH", "q", {"type": "standard"}).status, 200)

    def test_wrong_change(self) -> None:
        """A change that cannot be is refused, and nothing is changed."""
        self.made("q")
        self.refused(self.call("PATCH", "q", {"type": "fifo"}), 409, "immutable")
        self.refused(self.call("PATCH", "q", {"visibility": 5, "delay": -1}), 400, "invalid_parameter")
        self.refused(self.call("PATCH", "q", {"name": "r"}), 400, "invalid_parameter")
        self.refused(self.call("PATCH", "q", {"tags": {"a": 5}}), 400, "invalid_parameter")
        self.refused(self.call("PATCH", "q", {"tags": []}), 400, "invalid_parameter")
        self.refused(self.call("PATCH", "nowhere", {"tags": {}}), 404, "not_found")
        self.refused(self.call("PATCH", "nowhere", {"delay": 1}), 404, "not_found")
        self.assertEqual(self.call("GET", "q").json()["config"]["visibility"], 30)

    def test_remove(self) -> None:
        """A removed queue is gone."""
        self.send()
        self.assertEqual(self.call("DELETE", "q").status, 204)
        self.refused(self.call("GET", "q"), 404, "not_found")
        self.refused(self.call("POST", "q/messages/receive", {}), 404, "not_found")
        self.refused(self.call("DELETE", "q"), 404, "not_found")

    def test_purge(self) -> None:
        """A purge takes all messages, those with receivers too; the queue stays."""
        self.send()
        self.send()
        self.receive(visibility=1)
        self.assertEqual(self.call("POST", "q/purge").status, 204)
        self.wait(2)
        self.assertEqual(self.receive(), [])
        self.refused(self.call("POST", "q/purge", {"x": 1}), 400, "invalid_parameter")
        self.refused(self.call("POST", "nowhere/purge"), 404, "not_found")

    def names(self, query: str = "", token: str = "good") -> tuple[list[str], str | None]:
        page = self.call("GET", query, token=token).json()
        return [one["name"] for one in page["queues"]], page["next"]

    def test_list(self) -> None:
        """Queues are listed by name, in pages, with their configurations."""
        for name in ("b", "a1", "a2", "c", "a3.fifo"):
            self.made(name)
        self.assertEqual(self.names(), (["a1", "a2", "a3.fifo", "b", "c"], None))
        self.assertEqual(self.names("?prefix=a"), (["a1", "a2", "a3.fifo"], None))
        self.assertEqual(self.names("?limit=2"), (["a1", "a2"], "a2"))
        self.assertEqual(self.names("?limit=2&cursor=a2"), (["a3.fifo", "b"], "b"))
        self.assertEqual(self.names("?limit=2&cursor=b"), (["c"], None))
        self.assertEqual(self.names("?limit=3&prefix=a"), (["a1", "a2", "a3.fifo"], None))
        self.assertEqual(self.names("?prefix=x"), ([], None))
        [queue] = self.call("GET", "?limit=1").json()["queues"]
        self.assertEqual(set(queue), {"name", "config", "created_at", "modified_at"})
        for query in ("?limit=0", "?limit=1001", "?x=1", "?prefix=a&prefix=b"):
            self.refused(self.call("GET", query), 400, "invalid_parameter")

    def test_list_of_what_is_granted(self) -> None:
        """A token sees the queues that it may use, of its own application."""
        self.client.tokens.known["narrow"] = principal(grants(queues=("b*", "x")))
        for name in ("a", "b1", "b2", "c"):
            self.made(name)
        self.assertEqual(self.names(token="narrow"), (["b1", "b2"], None))
        self.assertEqual(self.names("?limit=1", token="narrow"), (["b1"], "b1"))


class DeadLetterTests(_Tests):
    """Dead-letter queues, and the way back."""

    def setUp(self) -> None:
        super().setUp()
        self.made("dead")
        self.made("q", visibility=0, dead_letter={"queue": "dead", "max_receives": 1})

    def fill(self, count: int = 1) -> None:
        for index in range(count):
            self.send(str(index))
            self.receive()
            self.receive()

    def test_moved(self) -> None:
        """A message that is received too often is in the dead-letter queue, with its source."""
        self.fill()
        [message] = self.receive("dead")
        self.assertEqual((message["body"], message["dead_letter_source"]), ("0", "q"))

    def test_sources(self) -> None:
        """A dead-letter queue knows whose it is; queues that are not granted are not told."""
        self.made("other", dead_letter={"queue": "dead"})
        self.assertEqual(self.call("GET", "dead/dead-letter-sources").json(), {"queues": ["other", "q"]})
        self.client.tokens.known["narrow"] = principal(grants(queues=("q", "dead")))
        answer = self.call("GET", "dead/dead-letter-sources", token="narrow")
        self.assertEqual(answer.json(), {"queues": ["q"]})
        self.refused(self.call("GET", "nowhere/dead-letter-sources"), 404, "not_found")

    def test_redrive(self) -> None:
        """A task brings messages back, and is listed."""
        self.fill()
        answer = self.call("POST", "dead/redrive")
        self.assertEqual(answer.status, 202)
        task = answer.json()
        self.assertEqual((task["destination"], task["max_per_second"]), (None, None))
        self.wait(3)
        [message] = self.receive("q", visibility=30)
        self.assertEqual(message["body"], "0")
        [shown] = self.call("GET", "dead/redrive").json()["tasks"]
        self.assertEqual((shown["task"], shown["status"], shown["moved"]), (task["task"], "completed", 1))
        self.assertEqual(
            set(shown), {"task", "status", "destination", "max_per_second", "started_at", "moved", "to_move"}
        )

    def test_redrive_elsewhere(self) -> None:
        """A task may have another destination, and a rate; one at a time, and it can be ended."""
        self.fill(5)
        self.made("elsewhere")
        wishes = {"destination": "elsewhere", "max_per_second": 1}
        task = self.call("POST", "dead/redrive", wishes).json()
        self.assertEqual((task["destination"], task["max_per_second"]), ("elsewhere", 1))
        self.refused(self.call("POST", "dead/redrive", wishes), 409, "redrive_running")
        self.wait(4)
        ended = self.call("DELETE", f"dead/redrive/{task['task']}")
        self.assertEqual(ended.status, 200)
        self.assertIn(ended.json()["status"], ("cancelling", "cancelled"))
        self.assertGreaterEqual(ended.json()["moved"], 1)
        self.assertTrue(self.receive("elsewhere"))

    def test_wrong_redrive(self) -> None:
        """What cannot be done is refused."""
        for body in ({"destination": 5}, {"max_per_second": 0}, {"max_per_second": 501}, {"rate": 5}):
            self.refused(self.call("POST", "dead/redrive", body), 400, "invalid_parameter")
        self.refused(self.call("POST", "dead/redrive", {"destination": "nowhere"}), 404, "not_found")
        self.refused(self.call("POST", "nowhere/redrive"), 404, "not_found")
        self.refused(self.call("DELETE", "dead/redrive/nonsense"), 404, "not_found")

    def test_grants(self) -> None:
        """Every queue that is named has to be granted, also those that messages are brought back to."""
        self.client.tokens.known["narrow"] = principal(grants(queues=("dead", "mine*")))
        self.client.tokens.known["other"] = principal(grants(queues=("mine*",)))
        dead = {"dead_letter": {"queue": "dead"}}
        self.refused(self.call("PUT", "mine", dead, "other"), 403, "insufficient_scope")
        self.refused(self.call("POST", "", {"name": "mine", **dead}, "other"), 403, "insufficient_scope")
        self.assertEqual(self.call("PUT", "mine", {}, "other").status, 201)
        self.refused(self.call("PATCH", "mine", dead, "other"), 403, "insufficient_scope")
        self.refused(self.call("POST", "dead/redrive", {"destination": "q"}, "narrow"), 403, "insufficient_scope")
        self.refused(self.call("POST", "dead/redrive", {}, "narrow"), 403, "insufficient_scope")
        self.assertEqual(self.call("POST", "dead/redrive", {"destination": "mine"}, "narrow").status, 202)


class SubscriptionTests(_Tests):
    """Queues that messages on topics are sent to."""

    PATH = "q/subscriptions"

    def setUp(self) -> None:
        super().setUp()
        self.made("q")

    def topics(self, token: str = "good") -> list[str]:
        return [one["topic"] for one in self.call("GET", self.PATH, token=token).json()["subscriptions"]]

    def test_subscribe(self) -> None:
        """A subscription is made once, shown, and ended."""
        self.assertEqual(self.topics(), [])
        answer = self.call("PUT", self.PATH, {"topic": "orders/#"})
        self.assertEqual((answer.status, answer.json()), (201, {"topic": "orders/#"}))
        answer = self.call("PUT", self.PATH, {"topic": "alice_shop_orders/#"})
        self.assertEqual((answer.status, answer.json()), (200, {"topic": "alice_shop_orders/#"}))
        self.assertEqual(self.topics(), ["orders/#"])
        self.assertEqual(self.call("DELETE", self.PATH, {"topic": "alice_shop_orders/#"}).status, 204)
        self.assertEqual(self.topics(), [])
        self.refused(self.call("DELETE", self.PATH, {"topic": "orders/#"}), 404, "not_found")

    def test_unsubscribe_by_query(self) -> None:
        """The filter may stand in the query of DELETE, since not every client can send a body with it."""
        for topic, query in (("a/+/b", "a/+/b"), ("a/#", "a/%23"), ("a b", "a%20b")):
            self.assertEqual(self.call("PUT", self.PATH, {"topic": topic}).status, 201)
            self.assertEqual(self.call("DELETE", f"{self.PATH}?topic={query}").status, 204)
        self.refused(self.call("DELETE", f"{self.PATH}?filter=a"), 400, "invalid_parameter")
        self.refused(self.call("DELETE", f"{self.PATH}?topic=a&topic=b"), 400, "invalid_parameter")
        self.refused(self.call("DELETE", f"{self.PATH}?topic=a", {"topic": "b"}), 400, "invalid_parameter")

    def test_other_namespace(self) -> None:
        """A filter of another application needs a grant there, and is shown with its full name."""
        self.refused(self.call("PUT", self.PATH, {"topic": "bob_cafe_x"}, "narrow"), 401, "invalid_token")
        both = Grants((), (Grant(HOME, "a/#"), Grant(OTHER, "menu")), ("*",))
        self.client.tokens.known["both"] = principal(both)
        self.assertEqual(self.call("PUT", self.PATH, {"topic": "bob_cafe_menu"}, "both").status, 201)
        self.assertEqual(self.topics("both"), ["bob_cafe_menu"])
        for topic in ("bob_cafe_#", "b", "#", "carol_x_menu"):
            self.refused(self.call("PUT", self.PATH, {"topic": topic}, "both"), 403, "insufficient_scope")

    def test_share_that_ended(self) -> None:
        """A subscription in another namespace is shown, and ended, also by who holds no grant there any more."""
        self.client.tokens.known["both"] = principal(Grants((), (Grant(OTHER, "menu"),), ("*",)))
        self.assertEqual(self.call("PUT", self.PATH, {"topic": "bob_cafe_menu"}, "both").status, 201)
        self.assertEqual(self.topics(), ["bob_cafe_menu"])
        self.assertEqual(self.call("DELETE", self.PATH, {"topic": "bob_cafe_menu"}).status, 204)
        self.assertEqual(self.topics(), [])
        self.refused(self.call("DELETE", self.PATH, {"topic": "bob_cafe_menu"}), 404, "not_found")

    def test_ambiguous(self) -> None:
        """A topic of ours whose short name looks like a full one is shown so that it can be written again."""
        self.call("PUT", self.PATH, {"topic": "alice_shop_alice_shop_x"})
        [shown] = self.topics()
        self.assertEqual(shown, "alice_shop_alice_shop_x")
        self.assertEqual(self.call("PUT", self.PATH, {"topic": shown}).status, 200)

    def test_wrong(self) -> None:
        """What is no filter, or holds nothing that is stored, is refused."""
        for topic in ("", "a/#/b", "a#", "$SYS/#"):
            self.refused(self.call("PUT", self.PATH, {"topic": topic}), 400, "invalid_topic")
        self.refused(self.call("PUT", self.PATH, {"topic": 5}), 400, "invalid_parameter")
        self.refused(self.call("PUT", self.PATH, {}), 400, "missing_field")
        self.refused(self.call("PUT", self.PATH, {"topics": ["a"]}), 400, "invalid_parameter")
        self.refused(self.call("DELETE", self.PATH, {"topic": ""}), 400, "invalid_topic")
        self.refused(self.call("PUT", "nowhere/subscriptions", {"topic": "a"}), 404, "not_found")
        self.refused(self.call("GET", "nowhere/subscriptions"), 404, "not_found")


class GrantTests(_Tests):
    """Who may call what."""

    def test_beyond_the_grants(self) -> None:
        """A queue that was not granted is refused on every path, before anything else is looked at."""
        self.client.tokens.known["narrow"] = principal(grants(subscribe="#", queues=("mine",)))
        for method, path in (
            ("PUT", "q"),
            ("GET", "q"),
            ("PATCH", "q"),
            ("DELETE", "q"),
            ("POST", "q/purge"),
            ("GET", "q/dead-letter-sources"),
            ("POST", "q/redrive"),
            ("GET", "q/redrive"),
            ("DELETE", "q/redrive/x"),
            ("PUT", "q/subscriptions"),
            ("GET", "q/subscriptions"),
            ("DELETE", "q/subscriptions"),
            ("POST", "q/messages"),
            ("GET", "q/messages"),
            ("POST", "q/messages/batch"),
            ("POST", "q/messages/receive"),
            ("GET", "q/messages/receive"),
            ("GET", "q/messages/peek"),
            ("POST", "q/messages/delete"),
            ("POST", "q/messages/visibility"),
            ("DELETE", "q/messages/x"),
            ("PATCH", "q/messages/x"),
        ):
            body = b"{" if method != "GET" else None
            self.refused(self.call(method, path, body, "narrow"), 403, "insufficient_scope")
            self.refused(self.call(method, path, body, "wrong"), 401, "invalid_token")
        self.refused(self.call("POST", "", {"name": "q"}, "narrow"), 403, "insufficient_scope")
        self.refused(self.call("GET", "", token="wrong"), 401, "invalid_token")
        self.assertEqual(self.call("POST", "mine/messages", {"body": "x"}, "narrow").status, 201)
