"""Publishing over HTTP."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.permissions import Grants
from flowgate.errors import BusUnavailable, Internal, MessageTooLarge, Refused
from flowgate.gateway import Interest
from flowgate.limits import Limits
from flowgate.message import Cursor, Stored
from tests.http_client import HOME, OTHER, HttpClient, grants, principal


class PublishTests(SynchronousTestCase):
    """``POST /api/v1/publish``."""

    def setUp(self) -> None:
        self.client = HttpClient(Limits(message_bytes=1000))

    def publish(self, body: object, token: str | None = "good", **headers: str) -> tuple[int, dict[str, object]]:
        answer = self.client.call("POST", "/api/v1/publish", body, headers, token)
        return answer.status, answer.json()

    def stored(self) -> list[tuple[str, bytes]]:
        runs = self.successResultOf(self.client.bus.history(HOME, "#", Cursor(self.client.bus.epoch, 0), 100))
        return [(run.topic.shown(True), payload) for run in runs for payload in run.payloads]

    def refused(self, body: object, status: int, code: str, **headers: str) -> str:
        """Check that a body is refused and nothing is stored; give back the detail."""
        got, problem = self.publish(body, **headers)
        self.assertEqual((got, problem["code"]), (status, code), problem)
        self.assertEqual(self.stored(), [])
        return str(problem["detail"])

    def test_answers_with_the_cursor(self) -> None:
        """The answer has the message's cursor and the topic as the client wrote it."""
        self.assertEqual(
            self.publish({"topic": "notifications", "message": "Hello World!"}),
            (200, {"id": "memory-1", "topic": "notifications", "duplicate": False}),
        )
        self.assertEqual(self.stored(), [("alice_shop_notifications", b"Hello World!")])

    def test_full_name(self) -> None:
        """A full name is the same topic, and is answered in its own form."""
        self.assertEqual(self.publish({"topic": "alice_shop_a", "message": 1})[1]["topic"], "alice_shop_a")
        self.assertEqual(self.stored(), [("alice_shop_a", b"1")])

    def test_foreign_name_is_a_short_name(self) -> None:
        """The name of somebody else's topic is a short name in the token's own namespace."""
        self.assertEqual(self.publish({"topic": "bob_cafe_a", "message": 1})[0], 200)
        self.assertEqual(self.stored(), [("alice_shop_bob_cafe_a", b"1")])
        theirs = self.client.bus.history(OTHER, "#", Cursor(self.client.bus.epoch, 0), 100)
        self.assertEqual(self.successResultOf(theirs), [])

    def test_answers_only_when_stored(self) -> None:
        """No answer goes out before the bus has the message."""
        waiting: Deferred[object] = Deferred()
        self.patch(self.client.bus, "publish_one", lambda *_, **__: waiting)
        connection = self.client.open("POST", "/api/v1/publish", {"topic": "a", "message": 1})
        self.assertEqual(connection.received, b"")

    def test_client_that_does_not_wait(self) -> None:
        """A client that goes before the answer leaves nothing behind, and nothing is logged."""
        waiting: Deferred[object] = Deferred()
        self.patch(self.client.bus, "publish_one", lambda *_, **__: waiting)
        connection = self.client.open("POST", "/api/v1/publish", {"topic": "a", "message": 1})
        connection.lose()
        self.assertTrue(waiting.called)

    def test_json_value(self) -> None:
        """What is not a string travels as compact JSON."""
        self.publish({"topic": "a", "message": {"b": [1, None]}})
        self.assertEqual(self.stored(), [("alice_shop_a", b'{"b":[1,null]}')])

    def test_null_is_a_message(self) -> None:
        """null is a JSON value like any other."""
        self.publish({"topic": "a", "message": None})
        self.assertEqual(self.stored(), [("alice_shop_a", b"null")])

    def test_idempotency_key(self) -> None:
        """A repeated key is stored once, and answered with the first message's cursor."""
        first = self.publish({"topic": "a", "message": 1}, **{"Idempotency-Key": "k"})[1]
        again = self.publish({"topic": "a", "message": 1}, **{"Idempotency-Key": '"k"'})[1]
        self.assertEqual((again["id"], again["duplicate"]), (first["id"], True))
        self.assertEqual(len(self.stored()), 1)

    def test_key_of_another_message(self) -> None:
        """A key that was used for another body, topic or wish to retain is refused, and nothing is stored."""
        key = {"Idempotency-Key": "k"}
        self.publish({"topic": "a", "message": 1}, **key)
        for other in (
            {"topic": "a", "message": 2},
            {"topic": "b", "message": 1},
            {"topic": "a", "message": 1, "retain": True},
            {"topic": "a", "message": 2, "retain": True},
        ):
            status, problem = self.publish(other, **key)
            self.assertEqual((status, problem["code"]), (422, "idempotency_key_reused"))
        self.assertEqual(self.stored(), [("alice_shop_a", b"1")])
        self.assertEqual(self.retained(), [])

    def test_key_of_a_message_that_is_gone(self) -> None:
        """When history has let go of the first message there is nothing left to compare: it counts as the same."""
        message = {"topic": "a", "message": 1, "ttl": 60}
        first = self.publish(message, **{"Idempotency-Key": "k"})[1]
        self.client.clock.advance(61)
        status, again = self.publish({**message, "message": 2}, **{"Idempotency-Key": "k"})
        self.assertEqual((status, again["id"], again["duplicate"]), (200, first["id"], True))

    def test_key_after_five_minutes(self) -> None:
        """Later a key is as good as new."""
        self.publish({"topic": "a", "message": 1}, **{"Idempotency-Key": "k"})
        self.client.clock.advance(301)
        self.assertFalse(self.publish({"topic": "a", "message": 2}, **{"Idempotency-Key": "k"})[1]["duplicate"])

    def test_key_under_way(self) -> None:
        """While a message is not stored yet, whatever has its key is told to come again."""
        waiting: Deferred[Stored] = Deferred()
        self.patch(self.client.bus, "publish_one", lambda *_, **__: waiting)
        message, key = {"topic": "a", "message": 1}, {"Idempotency-Key": "k"}
        first = self.client.open("POST", "/api/v1/publish", message, key)
        for body in (message, {"topic": "a", "message": 2}):
            answer = self.client.call("POST", "/api/v1/publish", body, key)
            self.assertEqual((answer.status, answer.json()["code"]), (409, "idempotency_in_progress"))
            self.assertEqual(answer.headers["Retry-After"], "1")
        waiting.callback(Stored(1))
        self.client.settle()
        self.assertIn(b'"id":"memory-1"', first.received)

    def test_key_whose_first_message_failed(self) -> None:
        """A key is free again when its message could not be stored, or its client has gone."""
        waiting: Deferred[Stored] = Deferred()
        outcomes = iter([fail(BusUnavailable()), waiting])
        real = self.client.bus.publish_one
        self.patch(self.client.bus, "publish_one", lambda *args, **more: next(outcomes, None) or real(*args, **more))
        message, key = {"topic": "a", "message": 1}, {"Idempotency-Key": "k"}
        self.assertEqual(self.publish(message, **key)[0], 503)
        self.client.open("POST", "/api/v1/publish", message, key).lose()
        self.assertEqual(self.publish(message, **key)[0], 200)

    def test_key_while_the_bus_goes_away(self) -> None:
        """A repetition that cannot be compared is not answered as stored."""
        message, key = {"topic": "a", "message": 1}, {"Idempotency-Key": "k"}
        self.publish(message, **key)
        self.patch(self.client.bus, "fetch", lambda _: fail(BusUnavailable()))
        self.assertEqual(self.publish(message, **key)[0], 503)

    def test_keys_of_namespaces_are_apart(self) -> None:
        """Another account may use the same key at the same time."""
        self.client.tokens.known["bob"] = attrs.evolve(principal(Grants.everything(OTHER)), home=OTHER)
        for token in ("good", "bob"):
            answer = self.publish({"topic": "a", "message": token}, token, **{"Idempotency-Key": "k"})
            self.assertEqual((answer[0], answer[1]["duplicate"]), (200, False))

    def test_bad_idempotency_key(self) -> None:
        """A key has 1 to 255 printable characters."""
        for key in ("", "x" * 256, "a\tb"):
            self.refused({"topic": "a", "message": 1}, 400, "invalid_parameter", **{"Idempotency-Key": key})

    def test_ttl(self) -> None:
        """A message with a ttl is gone from history afterwards."""
        self.publish({"topic": "a", "message": 1, "ttl": 60})
        self.assertEqual(len(self.stored()), 1)
        self.client.clock.advance(61)
        self.assertEqual(self.stored(), [])

    def test_bad_ttl(self) -> None:
        """ttl is a positive integer."""
        for ttl in (0, -1, 1.5, "60", True, 10**12):
            self.refused({"topic": "a", "message": 1, "ttl": ttl}, 400, "invalid_parameter")

    def retained(self) -> list[tuple[str, bytes]]:
        page = self.client.gateway.retained(Interest(HOME, "#", False))
        self.client.settle()
        return [(run.topic.name, payload) for run in self.successResultOf(page).runs for payload in run.payloads]

    def test_retain(self) -> None:
        """A message is retained if that is wished, besides being stored, and replaces the one before it."""
        for message in (1, 2):
            self.assertEqual(self.publish({"topic": "a", "message": message, "retain": True})[0], 200)
        self.publish({"topic": "a", "message": 3})
        self.publish({"topic": "b", "message": 4, "retain": False})
        self.assertEqual(self.retained(), [("a", b"2")])
        self.assertEqual([payload for _, payload in self.stored()], [b"1", b"2", b"3", b"4"])

    def test_retain_nothing(self) -> None:
        """An empty message clears what is retained."""
        self.publish({"topic": "a", "message": 1, "retain": True})
        self.publish({"topic": "a", "message": "", "retain": True})
        self.assertEqual(self.retained(), [])

    def test_answers_only_when_retained(self) -> None:
        """No answer goes out before the message is retained."""
        waiting: Deferred[None] = Deferred()
        self.patch(self.client.retained, "put", lambda *_: waiting)
        connection = self.client.open("POST", "/api/v1/publish", {"topic": "a", "message": 1, "retain": True})
        self.assertEqual((connection.received, len(self.stored())), (b"", 1))

    def test_not_retained(self) -> None:
        """A message that cannot be retained is answered as not stored; when it is sent again under its key it is."""
        message = {"topic": "a", "message": 1, "retain": True}
        self.client.retained.go_away()
        self.assertEqual(self.publish(message, **{"Idempotency-Key": "k"})[0], 503)
        self.client.retained.come_back()
        self.assertTrue(self.publish(message, **{"Idempotency-Key": "k"})[1]["duplicate"])
        self.assertEqual(self.retained(), [("a", b"1")])
        self.assertEqual(len(self.stored()), 1)

    def test_what_is_refused_is_not_retained(self) -> None:
        """A message that history does not take is not retained."""
        self.client.bus.go_away()
        self.assertEqual(self.publish({"topic": "a", "message": 1, "retain": True})[0], 503)
        self.assertEqual(self.retained(), [])

    def test_retained_once(self) -> None:
        """A repetition under the same key does not replace what was retained since, nor bring back what was cleared."""
        for since in ("2", ""):
            key = {"Idempotency-Key": f"k{since}"}
            self.publish({"topic": "a", "message": "1", "retain": True}, **key)
            self.publish({"topic": "a", "message": since, "retain": True})
            self.assertTrue(self.publish({"topic": "a", "message": "1", "retain": True}, **key)[1]["duplicate"])
            self.assertEqual(self.retained(), [("a", b"2")] if since else [])

    def test_retain_for_some_time(self) -> None:
        """A ttl is that of the retained message too; a repetition under the same key does not prolong it."""
        message = {"topic": "a", "message": 1, "retain": True, "ttl": 60}
        self.publish(message, **{"Idempotency-Key": "k"})
        self.assertEqual(self.retained(), [("a", b"1")])
        self.client.clock.advance(61)
        self.assertEqual(self.retained(), [])
        self.assertTrue(self.publish(message, **{"Idempotency-Key": "k"})[1]["duplicate"])
        self.assertEqual(self.retained(), [])

    def test_retain_of_another_type(self) -> None:
        """retain is true or false."""
        for retain in (1, "true", None):
            self.refused({"topic": "a", "message": 1, "retain": retain}, 400, "invalid_parameter")

    def test_unknown_member(self) -> None:
        """A misspelt member is refused, and the nearest known one is named."""
        detail = self.refused({"topic": "a", "message": 1, "tll": 5}, 400, "invalid_parameter")
        self.assertIn("'tll'", detail)
        self.assertIn("'ttl'", detail)

    def test_missing_members(self) -> None:
        """topic and message are required."""
        self.assertIn("'topic'", self.refused({"message": 1}, 400, "missing_field"))
        self.assertIn("'message'", self.refused({"topic": "a"}, 400, "missing_field"))

    def test_topic_of_another_type(self) -> None:
        """A topic is a string."""
        self.refused({"topic": 5, "message": 1}, 400, "invalid_parameter")

    def test_bad_topic(self) -> None:
        """Wildcards, NUL and nothing at all are no topics."""
        for topic in ("", "a/+", "#", "a\0b", "x" * 513):
            self.refused({"topic": topic, "message": 1}, 400, "invalid_topic")

    def test_no_json(self) -> None:
        """What is no JSON object is refused as such."""
        for body in (b"", b"{", b"[]", b'"x"', b"\xff", b"{" * 5000, b'{"topic":"\\ud800","message":1}'):
            self.refused(body, 400, "invalid_json")

    def test_deep_json(self) -> None:
        """A message nested more deeply than can be written again is refused."""
        self.refused(b'{"topic":"a","message":' + b"[" * 400 + b"]" * 400 + b"}", 400, "invalid_parameter")

    def test_media_type(self) -> None:
        """A form is not taken for JSON, nor for a text."""
        for kind in ("application/x-www-form-urlencoded", "text/html", "text/plain2", "application/octet-streams"):
            self.refused({"topic": "a", "message": 1}, 415, "unsupported_media_type", **{"Content-Type": kind})

    def plain(self, query: str, body: bytes, kind: str = "text/plain", **headers: str) -> tuple[int, dict[str, object]]:
        headers["Content-Type"] = kind
        answer = self.client.call("POST", f"/api/v1/publish{query}", body, headers)
        return answer.status, answer.json()

    def test_text(self) -> None:
        """A text is published as it is; its topic is in the query."""
        self.assertEqual(
            self.plain("?topic=a/%C3%A4+b", "grüß {".encode()),
            (200, {"id": "memory-1", "topic": "a/ä b", "duplicate": False}),
        )
        self.assertEqual(self.stored(), [("alice_shop_a/ä b", "grüß {".encode())])

    def test_charset_of_a_text(self) -> None:
        """A text is UTF-8, whatever it may say of that."""
        for kind in (
            "Text/Plain; charset=UTF-8",
            'text/plain;format=flowed; Charset="utf-8"',
            "text/plain;charset=us-ascii",
        ):
            self.assertEqual(self.plain("?topic=a", b"x", kind)[0], 200, kind)
        for kind, body in (("text/plain; charset=iso-8859-1", b"x"), ("text/plain", b"\xff")):
            status, problem = self.plain("?topic=a", body, kind)
            self.assertEqual((status, problem["code"]), (400, "invalid_parameter"))

    def test_bytes(self) -> None:
        """Any bytes are published as they are."""
        payload = bytes(range(256))
        self.assertEqual(self.plain("?topic=a", payload, "application/octet-stream")[0], 200)
        self.assertEqual(self.stored(), [("alice_shop_a", payload)])

    def test_members_in_the_query(self) -> None:
        """With a text, ttl and retain are in the query too; an empty body clears what is retained."""
        self.assertEqual(self.plain("?topic=a&retain=true&ttl=60", b"x")[0], 200)
        self.assertEqual(self.retained(), [("a", b"x")])
        self.client.clock.advance(61)
        self.assertEqual((self.retained(), self.stored()), ([], []))
        self.plain("?topic=a&retain=true", b"y")
        self.plain("?topic=a&retain=true", b"")
        self.assertEqual(self.retained(), [])

    def test_wrong_members_in_the_query(self) -> None:
        """The query is as strict as JSON is."""
        for query, status, code in (
            ("", 400, "missing_field"),
            ("?topic=a&ttl=0", 400, "invalid_parameter"),
            ("?topic=a&retain=1", 400, "invalid_parameter"),
            ("?topic=a&tll=5", 400, "invalid_parameter"),
            ("?topic=a&topic=b", 400, "invalid_parameter"),
            ("?topic=%23", 400, "invalid_topic"),
            ("?topic=%FF", 400, "invalid_parameter"),
        ):
            got, problem = self.plain(query, b"x")
            self.assertEqual((got, problem["code"]), (status, code), query)
        self.assertEqual(self.stored(), [])

    def test_text_too_large(self) -> None:
        """The size of a text is limited as that of any message."""
        self.assertEqual(self.plain("?topic=a", b"x" * 1001)[0], 413)
        self.assertEqual(self.plain("?topic=a", b"x" * 1000)[0], 200)

    def test_text_beyond_the_grants(self) -> None:
        """The topic in the query needs a grant as any does."""
        self.client.tokens.known["good"] = principal(grants(publish="orders/#"))
        self.assertEqual(self.plain("?topic=a&tll=5", b"x")[0], 403)

    def test_key_of_a_text(self) -> None:
        """A text and the same string in JSON are the same message."""
        self.publish({"topic": "a", "message": "x"}, **{"Idempotency-Key": "k"})
        self.assertTrue(self.plain("?topic=a", b"x", **{"Idempotency-Key": "k"})[1]["duplicate"])

    def test_json_with_a_query(self) -> None:
        """Whoever sends JSON and a topic in the query meant another content type."""
        answer = self.client.call("POST", "/api/v1/publish?topic=b", {"topic": "a", "message": 1})
        self.assertEqual((answer.status, answer.json()["code"]), (400, "invalid_parameter"))
        self.assertEqual(self.stored(), [])

    def test_media_type_with_parameter(self) -> None:
        """A charset does not matter."""
        header = {"Content-Type": "Application/JSON; charset=utf-8"}
        self.assertEqual(self.publish({"topic": "a", "message": 1}, **header)[0], 200)

    def test_too_large(self) -> None:
        """A message over the limit is refused; one of just that size is not."""
        self.refused({"topic": "a", "message": "x" * 1001}, 413, "message_too_large")
        self.assertEqual(self.publish({"topic": "a", "message": "x" * 1000})[0], 200)

    def test_bus_away(self) -> None:
        """While the bus is away, the answer says when to come again."""
        self.client.bus.go_away()
        answer = self.client.call("POST", "/api/v1/publish", {"topic": "a", "message": 1})
        self.assertEqual((answer.status, answer.json()["code"]), (503, "bus_unavailable"))
        self.assertEqual(answer.headers["Retry-After"], "1")

    def test_no_token(self) -> None:
        """Without a token the answer asks for one, and says nothing of an error (RFC 6750 section 3.1)."""
        answer = self.client.call("POST", "/api/v1/publish", {"topic": "a", "message": 1}, token=None)
        self.assertEqual((answer.status, answer.json()["code"]), (401, "missing_token"))
        self.assertEqual(answer.headers["WWW-Authenticate"], 'Bearer realm="flow-gate"')

    def test_wrong_token(self) -> None:
        """A wrong token is named as such in the header."""
        answer = self.client.call("POST", "/api/v1/publish", b"{", token="wrong")
        self.assertEqual((answer.status, answer.json()["code"]), (401, "invalid_token"))
        self.assertIn('error="invalid_token"', answer.headers["WWW-Authenticate"])

    def test_malformed_credentials(self) -> None:
        """Credentials that cannot be read are a bad request (RFC 6750 section 3.1)."""
        for value in ("Bearer", "Bearer ", "Bearer a b"):
            answer = self.client.call("POST", "/api/v1/publish", {}, {"Authorization": value})
            self.assertEqual(answer.status, 400, value)
            self.assertIn('error="invalid_request"', answer.headers["WWW-Authenticate"])

    def test_token_in_the_query_is_not_taken(self) -> None:
        """Only streams take a token from the URL."""
        answer = self.client.call("POST", "/api/v1/publish?token=good", {"topic": "a", "message": 1}, token=None)
        self.assertEqual(answer.json()["code"], "missing_token")

    def test_beyond_the_grants(self) -> None:
        """A topic that was not granted is refused before anything else of the body is looked at."""
        self.client.tokens.known["narrow"] = principal(grants(publish="orders/#"))
        status, problem = self.publish({"topic": "other", "ttl": "x"}, "narrow")
        self.assertEqual((status, problem["code"]), (403, "insufficient_scope"))
        self.assertEqual(self.stored(), [])

    def test_a_fault_of_ours(self) -> None:
        """What nobody expected is answered without details, and logged with the request id."""
        self.patch(self.client.bus, "publish_one", lambda *_, **__: fail(RuntimeError("secret")))
        answer = self.client.call("POST", "/api/v1/publish", {"topic": "a", "message": 1}, {"X-Request-Id": "r-1"})
        self.assertEqual((answer.status, answer.json()["code"]), (500, "internal"))
        self.assertNotIn(b"secret", answer.raw)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_counted(self) -> None:
        """A publish is counted."""
        self.publish({"topic": "a", "message": 1})
        self.assertEqual(self.client.gateway.meter.count("messages_received", "http"), 1)


class BatchTests(SynchronousTestCase):
    """``POST /api/v1/publish/batch``."""

    def setUp(self) -> None:
        self.client = HttpClient(Limits(batch_messages=3))

    def publish(self, messages: object, **headers: str) -> tuple[int, dict[str, Any]]:
        answer = self.client.call("POST", "/api/v1/publish/batch", {"messages": messages}, headers)
        return answer.status, answer.json()

    def test_results_in_order(self) -> None:
        """Each message has its result, in the order of the messages."""
        status, answer = self.publish([{"topic": "a", "message": 1}, {"topic": "b", "message": 2}])
        self.assertEqual(status, 200)
        self.assertEqual(
            answer["results"],
            [
                {"id": "memory-1", "topic": "a", "duplicate": False},
                {"id": "memory-2", "topic": "b", "duplicate": False},
            ],
        )

    def test_one_bad_message_refuses_all(self) -> None:
        """Nothing is published if anything is wrong; the message is named."""
        status, problem = self.publish([{"topic": "a", "message": 1}, {"topic": "#", "message": 2}])
        self.assertEqual((status, problem["code"]), (400, "invalid_topic"))
        self.assertIn("messages[1]", str(problem["detail"]))
        self.assertEqual(self.client.gateway.meter.count("messages_received", "http"), 0)

    def test_one_large_message_refuses_all(self) -> None:
        """The size of every message is checked before the first one is published."""
        large = "x" * (self.client.gateway.limits.message_bytes + 1)
        status, problem = self.publish([{"topic": "a", "message": 1}, {"topic": "a", "message": large}])
        self.assertEqual((status, problem["code"]), (413, "message_too_large"))
        self.assertEqual(self.client.gateway.meter.count("messages_received", "http"), 0)

    def test_size(self) -> None:
        """A batch has at least one message, and at most what the limits say."""
        for messages in ([], [{"topic": "a", "message": 1}] * 4, "x", [1]):
            self.assertEqual(self.publish(messages)[0], 400, messages)

    def test_failures_are_told_apart(self) -> None:
        """A message that could not be stored has its problem; the others have their cursors."""
        self.patch(self.client.bus, "publish_many", lambda _: succeed([MessageTooLarge(), Stored(1)]))
        status, answer = self.publish([{"topic": "a", "message": 1}, {"topic": "b", "message": 2}])
        first, second = answer["results"]
        self.assertEqual((status, first["error"]["code"], second["id"]), (200, "message_too_large", "memory-1"))

    def test_nothing_stored(self) -> None:
        """If the bus took none of them, the whole answer is that refusal."""
        self.patch(self.client.bus, "publish_many", lambda _: fail(BusUnavailable()))
        self.assertEqual(self.publish([{"topic": "a", "message": 1}, {"topic": "b", "message": 2}])[0], 503)

    def test_retain(self) -> None:
        """Each message of a batch may be retained; of one topic it is the last."""
        batch = [
            {"topic": "a", "message": 1, "retain": True},
            {"topic": "a", "message": 2, "retain": True},
            {"topic": "b", "message": 3},
        ]
        self.assertEqual(self.publish(batch)[0], 200)
        page = self.client.gateway.retained(Interest(HOME, "#", False))
        self.client.settle()
        self.assertEqual([run.payloads for run in self.successResultOf(page).runs], [[b"2"]])

    def test_idempotency_key(self) -> None:
        """A batch that is sent again with its key is stored once."""
        batch = [{"topic": "a", "message": 1}, {"topic": "a", "message": 1}]
        _, first = self.publish(batch, **{"Idempotency-Key": "k"})
        _, again = self.publish(batch, **{"Idempotency-Key": "k"})
        self.assertEqual([one["duplicate"] for one in first["results"]], [False, False])
        self.assertEqual([one["duplicate"] for one in again["results"]], [True, True])
        self.assertEqual([one["id"] for one in again["results"]], [one["id"] for one in first["results"]])

    def test_keys_are_apart_from_those_of_single_messages(self) -> None:
        """No key of a single message is that of one in a batch."""
        self.publish([{"topic": "a", "message": 1}], **{"Idempotency-Key": "k"})
        for key in ("k", "k/0", "k%090", "k 0"):
            answer = self.client.call("POST", "/api/v1/publish", {"topic": "a", "message": 1}, {"Idempotency-Key": key})
            self.assertFalse(answer.json()["duplicate"], key)

    def test_key_of_another_batch(self) -> None:
        """What differs from the message that had its place in the batch is refused, the others were stored before."""
        batch = [
            {"topic": "a", "message": 1},
            {"topic": "a", "message": 2},
            {"topic": "b", "message": 3, "retain": True},
        ]
        self.publish(batch, **{"Idempotency-Key": "k"})
        batch[1] = {"topic": "a", "message": "other"}
        batch[2] = {"topic": "b", "message": "other", "retain": True}
        status, answer = self.publish(batch, **{"Idempotency-Key": "k"})
        first, *others = answer["results"]
        self.assertEqual((status, first["duplicate"]), (200, True))
        self.assertEqual([one["error"]["code"] for one in others], ["idempotency_key_reused"] * 2)

    def test_wholly_other_batch(self) -> None:
        """If nothing is what it was, the whole answer says so."""
        self.publish([{"topic": "a", "message": 1}], **{"Idempotency-Key": "k"})
        status, problem = self.publish([{"topic": "a", "message": 2}], **{"Idempotency-Key": "k"})
        self.assertEqual((status, problem["code"]), (422, "idempotency_key_reused"))

    def test_key_under_way(self) -> None:
        """A batch that is repeated before the first one is stored is told to come again."""
        waiting: Deferred[list[Stored | Refused]] = Deferred()
        self.patch(self.client.bus, "publish_many", lambda _: waiting)
        batch = [{"topic": "a", "message": 1}, {"topic": "a", "message": 2}]
        connection = self.client.open("POST", "/api/v1/publish/batch", {"messages": batch}, {"Idempotency-Key": "k"})
        status, problem = self.publish(batch, **{"Idempotency-Key": "k"})
        self.assertEqual((status, problem["code"]), (409, "idempotency_in_progress"))
        waiting.callback([Stored(1), Stored(2)])
        self.client.settle()
        self.assertIn(b'"id":"memory-2"', connection.received)

    def test_order(self) -> None:
        """The messages are stored in their order, retained ones and others, on whatever topics."""
        self.client = HttpClient()
        batch = [{"topic": "ab"[n % 2], "message": n, "retain": n % 3 == 0, "ttl": 60 + n % 5} for n in range(30)]
        answer = self.client.call("POST", "/api/v1/publish/batch", {"messages": batch}).json()
        self.assertEqual([one["id"] for one in answer["results"]], [f"memory-{n}" for n in range(1, 31)])
        runs = self.successResultOf(self.client.bus.history(HOME, "#", Cursor("memory", 0), 100))
        self.assertEqual([payload for run in runs for payload in run.payloads], [b"%d" % n for n in range(30)])

    def test_ttl(self) -> None:
        """Each message of a batch has its own time."""
        self.publish([{"topic": "a", "message": 1, "ttl": 60}, {"topic": "a", "message": 2}])
        self.client.clock.advance(61)
        runs = self.successResultOf(self.client.bus.history(HOME, "#", Cursor("memory", 0), 100))
        self.assertEqual([payload for run in runs for payload in run.payloads], [b"2"])

    def test_a_fault_of_ours(self) -> None:
        """What nobody expected is answered without details, and logged."""
        self.patch(self.client.bus, "publish_many", lambda _: fail(RuntimeError("secret")))
        self.assertEqual(self.publish([{"topic": "a", "message": 1}])[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(len(self.flushLoggedErrors(Internal)), 1)  # with the id of the request

    def test_client_that_does_not_wait(self) -> None:
        """A client that goes before the answer leaves nothing behind, and nothing is logged."""
        waiting: Deferred[list[Stored | Refused]] = Deferred()
        self.patch(self.client.bus, "publish_many", lambda _: waiting)
        batch = {"messages": [{"topic": "a", "message": 1}]}
        self.client.open("POST", "/api/v1/publish/batch", batch, {"Idempotency-Key": "k"}).lose()
        self.assertTrue(waiting.called)
        waiting = Deferred()
        self.client.open("POST", "/api/v1/publish/batch", batch, {"Idempotency-Key": "k"})
        self.assertNoResult(waiting)

    def test_counted(self) -> None:
        """Each message of a batch is counted."""
        self.publish([{"topic": "a", "message": 1}, {"topic": "b", "message": 2}])
        self.assertEqual(self.client.gateway.meter.count("messages_received", "http"), 2)
