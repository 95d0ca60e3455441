"""Streams of events."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flowgate.auth.permissions import Grant, Grants
from flowgate.connections import IConnection
from flowgate.errors import BusUnavailable, InvalidToken
from flowgate.http import sse
from flowgate.http.subscribe import EventStream
from flowgate.interfaces import IReader, ISubscriber
from flowgate.limits import Limits, Policies, TopicPolicy
from flowgate.message import Cursor, Run
from flowgate.topics import Topic
from tests.http_client import HOME, OTHER, Connection, HttpClient, grants, principal
from tests.test_sse import parse


def producer(connection: Connection) -> Any:
    """What the transport pauses and resumes."""
    return connection.transport.producer


class StreamTestCase(SynchronousTestCase):
    """A site whose topics under ``live/`` have no history."""

    limits = Limits()

    def setUp(self) -> None:
        self.client = HttpClient(self.limits, Policies((TopicPolicy("live/#", history=False),)))

    def subscribe(
        self, query: str = "topic=a", headers: dict[str, str] | None = None, token: str | None = "good"
    ) -> Connection:
        return self.client.open("GET", f"/api/v1/subscribe?{query}", None, headers, token)

    def publish(self, topic: str, message: object, token: str = "good") -> str:
        """Publish, and give back the message's id."""
        answer = self.client.call("POST", "/api/v1/publish", {"topic": topic, "message": message}, token=token)
        self.assertEqual(answer.status, 200)
        return str(answer.json()["id"])

    def publish_live(self, topic: str, *payloads: bytes) -> None:
        """Publish without acknowledgement, as MQTT and WebSocket do."""
        route = self.client.gateway.route(principal(), topic)
        self.client.gateway.publish_unacknowledged(route, Run(route.topic, payloads))
        self.client.gateway.turn.flush()
        self.client.settle()

    def events(self, connection: Connection) -> list[dict[str, str]]:
        return parse(connection.body())

    def data(self, connection: Connection) -> list[Any]:
        return [json.loads(event["data"]).get("data") for event in self.events(connection)]

    def assertLeft(self) -> None:
        """Check that nothing of any stream is left."""
        self.assertEqual(len(self.client.connections), 0)
        self.assertEqual(self.client.router._own, {})
        self.assertEqual(self.client.bus._feeds, [])
        self.assertEqual([item for item in self.client.wheel._places if isinstance(item, EventStream)], [])


class SubscribeTests(StreamTestCase):
    """``GET /api/v1/subscribe``."""

    def test_head_and_first_byte(self) -> None:
        """The stream is announced as one, not to be stored or buffered, and its first bytes go out at once."""
        connection = self.subscribe()
        head = connection.received.decode().lower()
        for line in (
            "200 ok",
            "content-type: text/event-stream\r\n",
            "cache-control: no-store",
            "x-accel-buffering: no",
        ):
            self.assertIn(line, head)
        self.assertEqual(connection.body(), b":\n")

    def test_interfaces(self) -> None:
        """A stream keeps its interfaces' promises."""
        self.subscribe()
        [stream] = self.client.connections
        verifyObject(ISubscriber, stream)
        verifyObject(IConnection, stream)
        [part] = stream._parts.values()  # type: ignore[attr-defined]
        verifyObject(IReader, part)

    def test_message(self) -> None:
        """A message is an event with its cursor as the id."""
        connection = self.subscribe()
        cursor = self.publish("a", "hello")
        [event] = self.events(connection)
        self.assertEqual((event["id"], event["event"]), (cursor, "message"))
        self.assertEqual(json.loads(event["data"]), {"topic": "a", "data": "hello"})

    def test_retry_in_the_first_event_only(self) -> None:
        """How long to wait before coming again is said once, in the block of an event."""
        connection = self.subscribe()
        self.publish("a", 1)
        self.publish("a", 2)
        self.assertEqual([event.get("retry") for event in self.events(connection)], ["2000", None])

    def test_form_of_the_name(self) -> None:
        """The topic is shown in the form that was subscribed with."""
        connection = self.subscribe("topic=alice_shop_a")
        self.publish("a", 1)
        self.assertEqual(json.loads(self.events(connection)[0]["data"])["topic"], "alice_shop_a")

    def test_wildcards(self) -> None:
        """A '+' that stands for a level is the wildcard, also where it was not escaped."""
        for query in ("topic=s/+/t", "topic=s/%2B/t", "topic=s%2F+%2Ft"):
            connection = self.subscribe(query)
            self.publish("s/1/t", 1)
            self.publish("s/1/u", 1)
            self.assertEqual(len(self.events(connection)), 1, query)

    def test_space_in_a_topic(self) -> None:
        """A '+' inside a level is a space, as forms write it."""
        connection = self.subscribe("topic=a+b")
        self.publish("a b", 1)
        self.assertEqual(len(self.events(connection)), 1)

    def test_token_in_the_query(self) -> None:
        """A browser's EventSource has no headers: the token may stand in the URL."""
        self.assertIn(b"200 OK", self.subscribe("topic=a&token=good", token=None).received)

    def test_two_tokens(self) -> None:
        """A token comes in one way (RFC 6750 section 2)."""
        self.assertIn(b"400 Bad Request", self.subscribe("topic=a&token=good").received)

    def refused(
        self, query: str, status: int, code: str, headers: dict[str, str] | None = None, token: str = "good"
    ) -> None:
        answer = self.client.call("GET", f"/api/v1/subscribe?{query}", None, headers, token)
        self.assertEqual((answer.status, answer.json()["code"]), (status, code))
        self.assertLeft()

    def test_refusals(self) -> None:
        """What cannot be followed is refused with a problem, before a stream begins."""
        self.refused("", 400, "missing_field")
        self.refused("topic=a&tpic=b", 400, "invalid_parameter")
        self.refused("topic=a/%23/b", 400, "invalid_topic")
        self.refused("topic=%ff", 400, "invalid_parameter")
        self.refused("topic=a&last_event_id=nonsense", 400, "invalid_parameter")
        self.refused("topic=a&token=x&token=y", 400, "invalid_parameter")
        self.refused("&".join(f"topic=t{n}" for n in range(101)), 400, "invalid_parameter")
        self.refused("topic=a", 401, "invalid_token", token="wrong")

    def test_beyond_the_grants(self) -> None:
        """A filter that is not granted as a whole is refused, though another one is granted."""
        self.client.tokens.known["narrow"] = principal(grants(subscribe="a/+"))
        self.refused("topic=a/b&topic=%23", 403, "insufficient_scope", token="narrow")

    def test_common_filter_shows_nothing_more(self) -> None:
        """What lies between two granted topics is not seen, stored or live."""
        self.client.tokens.known["narrow"] = principal(Grants((), (Grant(HOME, "live/1"), Grant(HOME, "live/2")), ()))
        connection = self.subscribe("topic=live/1&topic=live/2", token="narrow")
        self.publish("live/3", "secret")
        self.publish_live("live/3", b"secret")
        self.publish_live("live/2", b"seen")
        self.assertEqual(self.data(connection), ["seen"])

    def test_other_accounts(self) -> None:
        """No filter sees anything of another namespace."""
        self.client.tokens.known["bob"] = attrs.evolve(
            principal(Grants.everything(OTHER)), user=OTHER.user, app=OTHER.app, home=OTHER
        )
        connections = [self.subscribe(f"topic={one}&last_event_id=earliest") for one in ("%23", "+/%23", "bob_cafe_a")]
        self.publish("a", "secret", token="bob")
        self.assertEqual([self.events(one) for one in connections], [[], [], []])

    def test_bus_away(self) -> None:
        """While the bus is away, a stream does not begin: the answer says when to come again."""
        self.client.bus.go_away()
        self.refused("topic=a", 503, "bus_unavailable")

    def test_too_many_connections(self) -> None:
        """A node that is full says so, and when to come again."""
        client = HttpClient(Limits(connections=1))
        client.open("GET", "/api/v1/subscribe?topic=a")
        answer = client.call("GET", "/api/v1/subscribe?topic=a")
        self.assertEqual((answer.status, answer.json()["code"]), (429, "too_many_connections"))
        self.assertIn("Retry-After", answer.headers)

    def test_draining(self) -> None:
        """A node that is going away begins no stream."""
        self.client.draining = True
        self.refused("topic=a", 503, "bus_unavailable")

    def test_head_request(self) -> None:
        """HEAD tells what GET would, the place where the stream begins included, and leaves nothing behind."""
        cursor = self.publish("a", 1)
        answer = self.client.call("HEAD", "/api/v1/subscribe?topic=a")
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "text/event-stream"))
        self.assertEqual((answer.headers["Flow-Last-Event-ID"], answer.body), (cursor, b""))
        self.assertLeft()
        answer = self.client.call("HEAD", "/api/v1/subscribe?topic=a&last_event_id=earliest")
        self.assertEqual(answer.headers["Flow-Last-Event-ID"], "memory-0")

    def test_head_request_while_the_bus_is_away(self) -> None:
        """HEAD says it too if a stream could not begin."""
        self.client.bus.go_away()
        self.assertEqual(self.client.call("HEAD", "/api/v1/subscribe?topic=a").status, 503)
        self.assertLeft()

    def test_encoded_once(self) -> None:
        """Streams of one form share the bytes of a run."""
        encoded: list[object] = []
        real = sse.events

        def events(*args: Any) -> bytes:
            encoded.append(args)
            return real(*args)

        self.patch(sse, "events", events)
        for _ in range(3):
            self.subscribe("topic=live/a")
        self.publish_live("live/a", b"1")
        self.assertEqual(len(encoded), 1)

    def test_counted(self) -> None:
        """Deliveries are counted."""
        self.subscribe()
        self.publish("a", 1)
        self.assertEqual(self.client.gateway.meter.count("messages_sent", "sse"), 1)


class ResumeTests(StreamTestCase):
    """Where a stream begins."""

    def test_from_now(self) -> None:
        """Without a cursor only what is published from now on is seen."""
        self.publish("a", "old")
        connection = self.subscribe()
        self.publish("a", "new")
        self.assertEqual(self.data(connection), ["new"])

    def test_earliest(self) -> None:
        """All that history holds can be asked for."""
        self.publish("a", 1)
        self.publish("a", 2)
        self.assertEqual(self.data(self.subscribe("topic=a&last_event_id=earliest")), ["1", "2"])

    def test_header(self) -> None:
        """A client that comes back with its last id goes on behind it."""
        cursor = self.publish("a", 1)
        self.publish("a", 2)
        self.assertEqual(self.data(self.subscribe(headers={"Last-Event-ID": cursor})), ["2"])

    def test_header_wins(self) -> None:
        """The header is what the browser knows; the query is what the page knew when it began."""
        self.publish("a", 1)
        cursor = self.publish("a", 2)
        connection = self.subscribe("topic=a&last_event_id=earliest", {"Last-Event-ID": cursor})
        self.assertEqual(self.data(connection), [])

    def test_empty_header(self) -> None:
        """An empty header says nothing: the query counts (a browser that knows no id yet is to send none)."""
        self.publish("a", 1)
        connection = self.subscribe("topic=a&last_event_id=earliest", {"Last-Event-ID": ""})
        self.assertEqual(self.data(connection), ["1"])

    def test_cursor_before_the_first_event(self) -> None:
        """The head says from where a client may go on that has seen no event yet."""
        cursor = self.publish("a", 1)
        self.assertIn(f"Flow-Last-Event-Id: {cursor}".lower(), self.subscribe().received.decode().lower())

    def test_gap(self) -> None:
        """A cursor of another epoch is answered with a gap, before any message."""
        self.publish("a", 1)
        connection = self.subscribe(headers={"Last-Event-ID": "gone-7"})
        first, second = self.events(connection)
        self.assertEqual((first["event"], json.loads(first["data"])), ("gap", {"oldest": "memory-0"}))
        self.assertEqual((second["event"], second["id"]), ("message", "memory-1"))

    def test_overlapping_filters(self) -> None:
        """A message that matches several filters comes once."""
        connection = self.subscribe("topic=a&topic=%23&topic=alice_shop_a")
        self.publish("a", 1)
        self.publish_live("live/x", b"2")
        self.assertEqual(self.data(connection), ["1", "2"])

    def test_several_filters_in_stream_order(self) -> None:
        """Messages of several filters come in the order of the stream, each with its own id."""
        connection = self.subscribe("topic=a&topic=b/c&last_event_id=earliest")
        cursors = [self.publish(topic, n) for n, topic in enumerate(["a", "b/c", "x", "b/c", "a"])]
        events = self.events(connection)
        self.assertEqual([event["id"] for event in events], [cursors[n] for n in (0, 1, 3, 4)])

    def test_coming_back_to_several_filters(self) -> None:
        """From any event's id, one sees all that lies behind it, and nothing twice: though one topic was quiet."""
        topics = ["a", "b/c", "a", "a", "b/c", "a"]
        for n, topic in enumerate(topics):
            self.publish(topic, n)
        whole = self.events(self.subscribe("topic=a&topic=b/c&last_event_id=earliest"))
        for place, event in enumerate(whole):
            again = self.events(self.subscribe("topic=a&topic=b/c", {"Last-Event-ID": event["id"]}))
            self.assertEqual([one["id"] for one in again], [one["id"] for one in whole[place + 1 :]])

    def test_coming_back_to_several_namespaces(self) -> None:
        """Where two feeds are needed, no id is ahead of what either has brought: nothing is lost."""
        both = Grants((Grant(HOME, "#"), Grant(OTHER, "#")), (Grant(HOME, "#"), Grant(OTHER, "#")), ())
        self.client.tokens.known["good"] = principal(both)
        for n, topic in enumerate(["a", "bob_cafe_a", "a", "bob_cafe_a", "a"]):
            self.publish(topic, n)
        query = "topic=a&topic=bob_cafe_a"
        whole = self.events(self.subscribe(query + "&last_event_id=earliest"))
        self.assertEqual(len(whole), 5)
        for place, event in enumerate(whole):
            again = self.data(self.subscribe(query, {"Last-Event-ID": event["id"]}))
            rest = {json.loads(one["data"])["data"] for one in whole[place + 1 :]}
            self.assertTrue(rest <= set(again), (event, rest, again))

    def test_live_only_messages(self) -> None:
        """What history does not hold repeats the last known cursor: coming back from it loses nothing."""
        connection = self.subscribe("topic=%23")
        cursor = self.publish("a", 1)
        self.publish_live("live/x", b"2", b"3")
        self.assertEqual([event["id"] for event in self.events(connection)], [cursor] * 3)

    def test_unacknowledged_with_history(self) -> None:
        """An unacknowledged message that history holds comes once, in stream order."""
        connection = self.subscribe("topic=%23")
        self.publish_live("a", b"1")
        self.assertEqual(self.data(connection), ["1"])

    def test_from_now_while_the_bus_answers(self) -> None:
        """What a feed gives before it is known to follow is not lost."""
        real = self.client.bus.follow
        waiting: Deferred[Any] = Deferred()

        def follow(namespace: Any, filter_: str, reader: Any, after: Any = None) -> Deferred[Any]:
            feed = self.successResultOf(real(namespace, filter_, reader, after))
            return waiting.addCallback(lambda _: feed)

        self.patch(self.client.bus, "follow", follow)
        connection = self.subscribe()
        cursor = self.publish("a", 1)
        self.publish("a", 2)
        self.assertEqual(connection.received, b"")
        waiting.callback(None)
        self.client.settle()
        self.assertEqual(self.events(connection)[0]["id"], cursor)
        self.assertEqual(self.data(connection), ["1", "2"])


class TimeTests(StreamTestCase):
    """Heartbeats and ends."""

    def test_heartbeat(self) -> None:
        """Every 25 seconds there is a sign of life."""
        connection = self.subscribe()
        self.client.clock.pump([1] * 26)
        self.assertEqual(connection.body(), b":\n:\n")
        self.client.clock.pump([1] * 26)
        self.assertEqual(connection.body(), b":\n:\n:\n")

    def test_token_expires(self) -> None:
        """The stream ends when its token does, and the connection serves on."""
        self.client.tokens.known["short"] = principal(lifetime=60)
        connection = self.subscribe(token="short")
        self.client.clock.pump([1] * 58)
        self.assertFalse(connection.received.endswith(b"0\r\n\r\n"))
        self.client.clock.pump([1] * 2)
        self.assertTrue(connection.received.endswith(b"0\r\n\r\n"))
        self.assertLeft()
        connection.transport.clear()
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b"200 OK", connection.received)

    def life(self, lifetime: float, drawn: float) -> float:
        """How many seconds a stream lives whose token expires ``lifetime`` seconds after the test began."""
        self.client.drawn = drawn
        self.client.tokens.known["good"] = principal(lifetime=lifetime)
        connection, began = self.subscribe(), self.client.clock.seconds()
        while not connection.received.endswith(b"0\r\n\r\n"):
            self.client.clock.advance(1 / 32)
        return self.client.clock.seconds() - began

    def test_never_later_than_the_token(self) -> None:
        """However times fall together with the seconds that are looked at, no stream outlives its token."""
        for thirds in range(10):
            self.client.clock.advance(0.1)
            lifetime = 10 + thirds / 3
            lived = self.life(self.client.clock.seconds() + lifetime, 0.0)
            self.assertTrue(lifetime - 2 < lived < lifetime + 1 / 32, (lifetime, lived))

    def test_spread(self) -> None:
        """Streams whose tokens expire together end at different times before: within a tenth of a life, or 30 s."""
        for lifetime, drawn, before in ((100.0, 1.0, 10.0), (100.0, 0.5, 5.0), (900.0, 1.0, 30.0), (900.0, 0.5, 15.0)):
            now = self.client.clock.seconds()
            lived = self.life(now + lifetime, drawn)
            self.assertTrue(lifetime - before - 2 < lived < lifetime - before + 1 / 32, (lifetime, drawn, lived))

    def test_an_instant_before_the_token_expires(self) -> None:
        """A stream whose token is good for less than a second begins, and ends at once."""
        self.assertLessEqual(self.life(0.5, 0.0), 1.0)

    def test_token_revoked(self) -> None:
        """The streams of a revoked token are ended."""
        connection = self.subscribe()
        self.client.connections.end(InvalidToken(), lambda principal: principal.token_id == "t1")
        self.assertTrue(connection.received.endswith(b"0\r\n\r\n"))
        self.assertLeft()

    def test_going_away(self) -> None:
        """A node that goes away ends its streams."""
        connection = self.subscribe()
        self.client.connections.end(None)
        self.assertTrue(connection.received.endswith(b"0\r\n\r\n"))
        self.assertLeft()

    def test_ended_while_it_begins(self) -> None:
        """A stream that is ended before it began is answered with the reason."""
        waiting: Deferred[Any] = Deferred()
        self.patch(self.client.bus, "follow", lambda *_: waiting)
        connection = self.subscribe()
        self.client.connections.end(InvalidToken())
        self.client.settle()
        self.assertIn(b"401 Unauthorized", connection.received)
        self.assertLeft()

    def test_client_goes(self) -> None:
        """Of a client that has gone nothing is left."""
        connection = self.subscribe("topic=a&topic=$x/b&topic=live/%23")
        connection.lose()
        self.assertLeft()
        self.publish("a", 1)

    def test_client_goes_while_it_begins(self) -> None:
        """A feed that begins after its client has gone is stopped at once."""
        real = self.client.bus.follow
        waiting: Deferred[Any] = Deferred()

        def follow(*args: Any) -> Deferred[Any]:
            return waiting.addCallback(lambda _: real(*args))

        self.patch(self.client.bus, "follow", follow)
        connection = self.subscribe()
        connection.lose()
        waiting.callback(None)
        self.client.settle()
        self.assertLeft()

    def test_second_feed_fails(self) -> None:
        """If one of two feeds cannot begin, the other one is stopped."""
        real = self.client.bus.follow
        self.patch(
            self.client.bus,
            "follow",
            lambda *args: fail(BusUnavailable()) if args[1].startswith("$") else real(*args),
        )
        answer = self.client.call("GET", "/api/v1/subscribe?topic=a&topic=$x/b")
        self.assertEqual(answer.status, 503)
        self.assertLeft()

    def test_feed_ends(self) -> None:
        """If the bus gives up a feed, the stream ends: its client comes back with its cursor."""
        connection = self.subscribe()
        self.client.bus._feeds[0].end(BusUnavailable())
        self.assertTrue(connection.received.endswith(b"0\r\n\r\n"))
        self.assertLeft()


class SlowReaderTests(StreamTestCase):
    """Clients that do not read."""

    limits = Limits(subscriber_buffer_bytes=65536)

    def stall(self, connection: Connection) -> None:
        producer(connection).pauseProducing()

    def read_on(self, connection: Connection) -> None:
        producer(connection).resumeProducing()
        self.client.settle()

    def test_history_waits(self) -> None:
        """A slow reader of history is given no more than it reads, and in the end misses nothing."""
        connection = self.subscribe()
        self.stall(connection)
        for n in range(30):
            self.publish("a", f"{n:02}" + "x" * 10_000)
        [stream] = self.client.connections
        self.assertLessEqual(stream._outbox.held, 65536)  # type: ignore[attr-defined]
        self.read_on(connection)
        self.assertEqual([text[:2] for text in self.data(connection)], [f"{n:02}" for n in range(30)])

    def test_run_larger_than_the_buffer(self) -> None:
        """A run that does not fit into the buffer waits outside of it."""
        connection = self.subscribe()
        self.stall(connection)
        self.publish("a", "small")
        self.publish("a", "x" * 100_000)
        self.publish("a", "last")
        self.read_on(connection)
        self.assertEqual([len(text) for text in self.data(connection)], [5, 100_000, 4])

    def test_history_leaves_room_for_live_messages(self) -> None:
        """History fills no more than about half of the buffer, so that a live message does not cut the reader off."""
        connection = self.subscribe("topic=%23")
        self.stall(connection)
        for _ in range(100):
            self.publish("a", "x" * 1000)
        self.publish_live("live/a", b"x" * 20_000)
        self.assertFalse(connection.transport.aborted)

    def test_live_messages_cut_it_off(self) -> None:
        """A reader too slow for messages that history does not hold is cut off, and others are not."""
        slow, fast = self.subscribe("topic=live/a"), self.subscribe("topic=live/a")
        self.stall(slow)
        for _ in range(10):
            self.publish_live("live/a", b"x" * 10_000)
        self.assertTrue(slow.transport.aborted)
        self.assertEqual(len(self.data(fast)), 10)
        slow.lose()
        self.assertEqual(len(self.client.connections), 1)
        self.assertEqual(self.client.gateway.meter.count("clients_cut", ("sse", "slow")), 1)

    def test_no_heartbeat(self) -> None:
        """A client that does not read is sent no heartbeats."""
        connection = self.subscribe()
        self.stall(connection)
        self.publish("a", 1)
        self.client.clock.pump([1] * 60)
        self.read_on(connection)
        self.assertEqual(connection.body().count(b":\n"), 1)

    def test_ends_although_it_does_not_read(self) -> None:
        """A stream that has ended waits a few seconds for its reader, then the connection is closed."""
        connection = self.subscribe()
        self.stall(connection)
        self.publish("a", 1)
        self.client.connections.end(None)
        self.assertFalse(connection.transport.aborted)
        self.client.clock.pump([1] * 7)
        self.assertTrue(connection.transport.aborted)

    def test_reads_the_end(self) -> None:
        """A slow reader that reads on in time gets all of it, and a proper end."""
        connection = self.subscribe()
        self.stall(connection)
        self.publish("a", 1)
        self.client.connections.end(None)
        self.read_on(connection)
        self.assertEqual(self.data(connection), ["1"])
        self.assertTrue(connection.received.endswith(b"0\r\n\r\n"))
        self.client.clock.pump([1] * 7)
        self.assertFalse(connection.transport.aborted)


class RetainedTests(StreamTestCase):
    """``GET /api/v1/subscribe?retained=true``."""

    def retain(self, topic: str, message: object) -> str:
        body = {"topic": topic, "message": message, "retain": True}
        answer = self.client.call("POST", "/api/v1/publish", body)
        self.assertEqual(answer.status, 200)
        return str(answer.json()["id"])

    def retain_live(self, topic: str, payload: bytes) -> None:
        """Publish without acknowledgement, as MQTT does."""
        route = self.client.gateway.route(principal(), topic)
        self.client.gateway.publish_unacknowledged(route, Run(route.topic, [payload], retain=True))
        self.client.gateway.turn.flush()
        self.client.settle()

    def shown(self, connection: Connection) -> list[tuple[str, Any, bool]]:
        found = [json.loads(event["data"]) for event in self.events(connection)]
        return [(one["topic"], one["data"], one.get("retained", False)) for one in found]

    def small_pages(self, size: int = 2) -> None:
        real = self.client.retained.page
        self.patch(
            self.client.retained, "page", lambda space, filter_, after=0, limit=0: real(space, filter_, after, size)
        )

    def hold_pages(self) -> list[Any]:
        """Hold every page back until what is in the list is called."""
        real = self.client.retained.page
        waiting: list[Any] = []

        def page(*args: Any) -> Deferred[Any]:
            asked: Deferred[Any] = Deferred()
            waiting.append(lambda: real(*args).chainDeferred(asked))
            return asked

        self.patch(self.client.retained, "page", page)
        return waiting

    def test_before_what_is_new(self) -> None:
        """What is retained comes first and is marked as such; what is new is not."""
        self.retain("a", 1)
        self.publish("a", 2)
        cursor = self.retain("b", {"k": 3})
        connection = self.subscribe("topic=%23&retained=true")
        self.retain("a", 4)
        self.assertEqual(self.shown(connection), [("a", "1", True), ("b", {"k": 3}, True), ("a", "4", False)])
        first, second, _ = self.events(connection)
        self.assertEqual((first["event"], second["id"]), ("message", cursor))
        self.assertEqual(first["data"], '{"topic":"a","data":"1","retained":true}')

    def test_only_on_request(self) -> None:
        """Without the wish nothing old comes."""
        self.retain("a", 1)
        for query in ("topic=a", "topic=a&retained=false"):
            self.assertEqual(self.shown(self.subscribe(query)), [])

    def test_refused(self) -> None:
        """retained is true or false."""
        answer = self.client.call("GET", "/api/v1/subscribe?topic=a&retained=1")
        self.assertEqual((answer.status, answer.json()["code"]), (400, "invalid_parameter"))

    def test_not_repeated_on_a_resume(self) -> None:
        """Whoever comes back with the last id gets what is new since, and nothing that is retained."""
        self.retain("a", 1)
        self.retain("b", 2)
        connection = self.subscribe("topic=%23&retained=true")
        last = self.events(connection)[-1]["id"]
        connection.lose()
        self.publish("a", 3)
        again = self.subscribe("topic=%23&retained=true", {"Last-Event-ID": last})
        self.assertEqual(self.shown(again), [("a", "3", False)])

    def test_resumed_in_the_middle(self) -> None:
        """Whoever is cut off before all of it came gets the rest, and all that is new since the beginning."""
        self.small_pages()
        for number in range(5):
            self.retain(f"a/{number}", 0)
        self.retain("b", 0)
        query = "topic=a/%23&topic=b&retained=true"
        ids = [event["id"] for event in self.events(self.subscribe(query))]
        for number in range(5):
            connection = self.subscribe(query)
            connection.lose()
            self.publish("a/0", number)
            shown = self.shown(self.subscribe(query, {"Last-Event-ID": ids[number]}))
            rest = [(f"a/{n}", "0", True) for n in range(number + 1, 5)]
            self.assertEqual(shown[: len(rest) + 1], [*rest, ("b", "0", True)])
            self.assertEqual(shown[len(rest) + 1 :], [("a/0", str(n), False) for n in range(number + 1)])

    def test_an_id_from_the_middle_without_the_wish(self) -> None:
        """Such an id is a cursor like any other for a stream that does not ask for what is retained."""
        self.retain("a", 1)
        self.retain("b", 1)
        first = self.events(self.subscribe("topic=%23&retained=true"))[0]["id"]
        self.publish("a", 2)
        self.assertEqual(self.shown(self.subscribe(f"topic=%23&last_event_id={first}")), [("a", "2", False)])

    def test_announced_id(self) -> None:
        """Whoever comes back with the id of the answer's head gets everything."""
        self.retain("a", 1)
        connection = self.subscribe("topic=a&retained=true")
        [announced] = re.findall(rb"\r\nFlow-Last-Event-ID: (.*)\r\n", connection.received, re.IGNORECASE)
        again = self.subscribe("topic=a&retained=true", {"Last-Event-ID": announced.decode()})
        self.assertEqual(self.shown(again), [("a", "1", True)])

    def test_with_all_of_history(self) -> None:
        """Before all that history holds comes what is retained, whether history still has it or not."""
        self.retain("a", 1)
        self.client.clock.advance(25 * 3600)
        self.retain("b", 2)
        connection = self.subscribe("topic=%23&retained=true&last_event_id=earliest")
        self.assertEqual(self.shown(connection), [("a", "1", True), ("b", "2", True), ("b", "2", False)])

    def test_published_meanwhile(self) -> None:
        """What is published while pages are read comes once, behind them, and nothing older follows it."""
        self.small_pages()
        for number in range(6):
            self.retain(f"a/{number}", 0)
        waiting = self.hold_pages()
        connection = self.subscribe("topic=%23&retained=true")
        for _ in range(2):
            waiting.pop()()
            self.client.settle()
        self.retain("a/5", 1)
        self.publish("a/0", 2)
        self.retain("a/5", 3)
        self.retain_live("live/x", b"4")
        while waiting:
            waiting.pop()()
            self.client.settle()
        self.assertEqual(
            [one for one in self.shown(connection) if one[0] != "live/x"],
            [(f"a/{n}", "0", True) for n in range(5)] + [("a/5", "1", False), ("a/0", "2", False), ("a/5", "3", False)],
        )
        self.assertEqual(self.shown(connection).count(("live/x", "4", False)), 1)
        self.assertNotIn(("live/x", "4", True), self.shown(connection))

    def test_late(self) -> None:
        """What another node had published just before is found a second later."""
        connection = self.subscribe("topic=%23&retained=true")
        self.client.retained.put(Topic(HOME, "a"), b"1", 1, None, Cursor("memory", 0))
        self.client.settle()
        self.assertEqual(self.shown(connection), [])
        self.client.clock.advance(1)
        self.client.settle()
        self.assertEqual(self.shown(connection), [("a", "1", True)])

    def test_several_filters(self) -> None:
        """What several filters match comes once, in the form of the first one; no more is shown than they match."""
        for topic in ("a", "b", "c"):
            self.retain(topic, topic)
        self.retain("$x/y", "y")
        connection = self.subscribe("topic=alice_shop_b&topic=%2B&topic=$x/%23&retained=true")
        self.assertEqual(
            self.shown(connection),
            [("alice_shop_b", "b", True), ("a", "a", True), ("c", "c", True), ("$x/y", "y", True)],
        )

    def test_beyond_the_grants(self) -> None:
        """Nothing is shown beside what is granted, though one feed serves several filters."""
        self.retain("a/1", 1)
        self.retain("a/3", "secret")
        self.client.tokens.known["narrow"] = principal(Grants((), (Grant(HOME, "a/1"), Grant(HOME, "a/2")), ()))
        connection = self.subscribe("topic=a/1&topic=a/2&retained=true", token="narrow")
        self.assertEqual(self.shown(connection), [("a/1", "1", True)])

    def test_slow_reader(self) -> None:
        """A slow reader is given pages at its own pace, then what came meanwhile."""
        for number in range(6):
            self.retain(f"a/{number}", "x" * 60_000)
        self.small_pages(1)
        waiting = self.hold_pages()
        connection = self.subscribe("topic=%23&retained=true")
        producer(connection).pauseProducing()
        self.publish("a/0", "new")
        waiting.pop()()
        self.client.settle()
        self.assertEqual((self.shown(connection), waiting), ([], []))
        for number in range(1, 6):
            producer(connection).resumeProducing()
            self.client.settle()
            producer(connection).pauseProducing()
            waiting.pop()()
            self.client.settle()
            self.assertEqual(len(self.shown(connection)), number)
        producer(connection).resumeProducing()
        self.client.settle()
        self.assertEqual(
            [(topic, retained) for topic, _, retained in self.shown(connection)],
            [(f"a/{n}", True) for n in range(6)] + [("a/0", False)],
        )

    def test_bus_away(self) -> None:
        """If the bus goes away in the middle the stream ends: its reader comes back with its last id."""
        self.small_pages()
        for number in range(5):
            self.retain(f"a/{number}", 0)
        real = self.client.retained.page
        self.patch(
            self.client.retained,
            "page",
            lambda space, name, after, limit: fail(BusUnavailable()) if after else real(space, name, after, limit),
        )
        connection = self.subscribe("topic=%23&retained=true")
        self.assertEqual(len(self.shown(connection)), 2)
        self.assertLeft()

    def test_client_that_leaves(self) -> None:
        """A client that leaves in the middle leaves nothing behind."""
        self.retain("a", 0)
        connection = self.subscribe("topic=%23&retained=true")
        connection.lose()
        self.assertLeft()
        self.assertEqual([call for call in self.client.clock.getDelayedCalls() if "deferLater" in str(call)], [])
