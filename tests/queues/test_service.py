"""The verbs of queues: sending, deposits, subscriptions, what is counted."""

from __future__ import annotations

import hashlib

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import (
    BusUnavailable,
    Conflict,
    InvalidParameter,
    MessageTooLarge,
    NotFound,
    RateLimited,
)
from flowgate.queues import service
from flowgate.queues.model import (
    Attribute,
    Configured,
    InFlightLimit,
    InvalidAttribute,
    InvalidCharacters,
    Outgoing,
    QueueConfig,
    QueueFull,
    ReceiptExpired,
    Sent,
    md5_of_attributes,
)
from flowgate.queues.service import VisibilityTotal
from tests.queues.nodes import BEGIN, HOME, QueuesTestCase, said

HOUR = 3600


class SendTests(QueuesTestCase):
    """Sending to a standard queue."""

    def test_send(self) -> None:
        """A send answers with id, digests and sequence; the receiver sees the same, and all that was sent."""
        self.make()
        attributes = {"n": Attribute("Number", "1"), "b": Attribute("Binary", "AAE=")}
        (sent,) = self.send("grüße", attributes=attributes, sender="FGAK1", trace="Root=1", group="g")
        (received,) = self.receive()
        self.assertEqual((sent.md5, received.md5), (hashlib.md5("grüße".encode()).hexdigest(),) * 2)
        self.assertEqual(sent.md5_attributes, md5_of_attributes(attributes))
        self.assertEqual(sent.md5_system, md5_of_attributes({"AWSTraceHeader": Attribute("String", "Root=1")}))
        self.assertEqual((received.id, received.sequence), (sent.id, sent.sequence))
        self.assertEqual((received.body, received.attributes), ("grüße", attributes))
        self.assertEqual((received.sender, received.trace, received.group), ("FGAK1", "Root=1", "g"))
        self.assertEqual((received.dedup_id, received.dead_letter_source), (None, None))
        self.assertEqual((received.receive_count, received.sent_at), (1, BEGIN * 1000))

    def test_plain(self) -> None:
        """A message with nothing but a body has no other digests."""
        self.make()
        (sent,) = self.send("x")
        self.assertEqual((sent.md5_attributes, sent.md5_system, sent.duplicate), ("", "", False))

    def test_sequence(self) -> None:
        """Sequences have 20 digits and grow."""
        self.make()
        sequences = [one.sequence for one in self.send("a", "b") + self.send("c")]
        self.assertEqual({len(one) for one in sequences}, {20})
        self.assertEqual(sequences, sorted(set(sequences)))

    def test_ids_differ(self) -> None:
        """Two messages with the same body have different ids."""
        self.make()
        one, two = self.send("x", "x")
        self.assertNotEqual(one.id, two.id)

    def test_batch(self) -> None:
        """A batch is stored in order, and each has its own answer; what is refused stops nothing."""
        self.make()
        batch = [Outgoing("a"), Outgoing(""), Outgoing("b", delay=901), Outgoing("c")]
        results = self.done(self.queues.send(HOME, "q", batch))
        self.assertEqual(
            [type(one) for one in results],
            [Sent, InvalidParameter, InvalidParameter, Sent],
        )
        self.assertEqual(self.bodies(), ["a", "c"])

    def test_to_nothing(self) -> None:
        """A send to a queue that does not exist is refused."""
        self.failureResultOf(self.queues.send(HOME, "q", [Outgoing("x")]), NotFound)

    def test_makes_queue(self) -> None:
        """A sender that may do so makes the queue, with defaults."""
        self.done(self.queues.send(HOME, "q", [Outgoing("x")], may_create=True))
        self.assertEqual(self.bodies(), ["x"])
        self.assertEqual(self.done(self.queues.describe(HOME, "q")).config, QueueConfig())

    def test_keeps_configuration(self) -> None:
        """A sender that may make the queue leaves an existing one as it is."""
        self.make(visibility=5)
        self.done(self.queues.send(HOME, "q", [Outgoing("x")], may_create=True))
        self.assertEqual(self.done(self.queues.describe(HOME, "q")).config.visibility, 5)

    def test_largest(self) -> None:
        """A message of just the limit is taken: bytes of body and attributes together."""
        self.make(max_message_bytes=1024)
        self.send("ä" * 512)
        attributes = {"name": Attribute("String", "value")}
        self.send("x" * (1024 - 4 - 6 - 5), attributes=attributes)

    def test_too_large(self) -> None:
        """A message above the limit is refused; bytes count, not characters, and attributes too."""
        self.make(max_message_bytes=1024)
        self.assertIsInstance(self.refused(Outgoing("ä" * 512 + "x")), MessageTooLarge)
        attributes = {"name": Attribute("String", "value")}
        self.assertIsInstance(self.refused(Outgoing("x" * 1010, attributes)), MessageTooLarge)
        self.assertEqual(self.receive(), [])

    def test_trace_is_not_counted(self) -> None:
        """The trace header is not part of the size."""
        self.make(max_message_bytes=1024)
        self.send("x" * 1024, trace="t" * 100)

    def test_largest_of_all(self) -> None:
        """A message of a mebibyte is taken and comes back."""
        self.make()
        self.send("x" * 1024 * 1024)
        self.assertEqual(len(self.bodies()[0]), 1024 * 1024)

    def test_batch_too_large(self) -> None:
        """A batch of more than a mebibyte is refused as a whole; what is refused by itself does not count."""
        self.make()
        half = Outgoing("x" * 512 * 1024)
        self.done(self.queues.send(HOME, "q", [half, half]))
        self.failureResultOf(self.queues.send(HOME, "q", [half, half, Outgoing("x")]), MessageTooLarge)
        self.done(self.queues.send(HOME, "q", [half, half, Outgoing("x", delay=-1)]))
        self.assertEqual(len(self.receive(10)), 4)

    def test_characters(self) -> None:
        """Characters that XML does not allow are refused, and no body at all."""
        self.make()
        for body in ("\0", "a\x0b", "\ud800", "\ufffe"):
            self.assertIsInstance(self.refused(Outgoing(body)), InvalidCharacters)
        self.assertIs(type(self.refused(Outgoing(""))), InvalidParameter)
        self.send("\t\r\n\U0001f600")

    def test_attributes(self) -> None:
        """Attributes are checked."""
        self.make()
        self.assertIsInstance(self.refused(Outgoing("x", {"AWS.x": Attribute("String", "x")})), InvalidAttribute)

    def test_groups(self) -> None:
        """A group is of printable characters; a standard queue takes no deduplication id."""
        self.make()
        for message in (Outgoing("x", group="a b"), Outgoing("x", group=""), Outgoing("x", dedup_id="1")):
            self.assertIsInstance(self.refused(message), InvalidParameter)
        self.send("x", group="!" + "g" * 127)

    def test_same_body_is_no_repetition(self) -> None:
        """A standard queue takes the same again."""
        self.make()
        self.send("x", "x")
        self.assertEqual(self.bodies(), ["x", "x"])

    def test_full(self) -> None:
        """A queue that holds as many messages as it may takes no more, until some are gone."""
        self.patch(service, "MAX_MESSAGES", 2)
        self.make()
        self.send("a", "b")
        self.assertIsInstance(self.refused(Outgoing("c")), QueueFull)
        self.failureResultOf(self.queues.deposit(HOME, "q", [Outgoing("c")], ["1"]), QueueFull)
        self.delete(*self.receive())
        self.send("c")

    def test_bus_away(self) -> None:
        """While the bus is away a send is refused, and says so."""
        self.make()
        self.send("x")
        self.one.bus.go_away()
        self.failureResultOf(self.queues.send(HOME, "q", [Outgoing("y"), Outgoing("z")]), BusUnavailable)
        self.one.bus.come_back()
        self.send("a")
        self.assertEqual(self.bodies(), ["x", "a"])

    def test_bad_names(self) -> None:
        """Every verb refuses a name that no queue can have."""
        queues = self.queues
        for name in ("", "a b", ".fifo", "../x"):
            for refused in (
                queues.send(HOME, name, [Outgoing("x")], may_create=True),
                queues.deposit(HOME, name, [Outgoing("x")], ["o"]),
                queues.receive(HOME, name),
                queues.peek(HOME, name),
                queues.delete(HOME, name, ["r"]),
                queues.change_visibility(HOME, name, [("r", 1)]),
                queues.configure(HOME, name, {}),
                queues.create(HOME, name, {}),
                queues.change(HOME, name, {}),
                queues.describe(HOME, name),
                queues.stats(HOME, name),
                queues.purge(HOME, name),
                queues.remove(HOME, name),
                queues.start_redrive(HOME, name),
                queues.redrives(HOME, name),
                queues.cancel_redrive(HOME, name, "x"),
                queues.subscribe(HOME, name, "f"),
                queues.unsubscribe(HOME, name, "f"),
            ):
                self.failureResultOf(refused, InvalidParameter)

    def test_no_queue(self) -> None:
        """Every verb says that there is no such queue."""
        queues = self.queues
        for refused in (
            queues.deposit(HOME, "q", [Outgoing("x")], ["o"]),
            queues.receive(HOME, "q"),
            queues.peek(HOME, "q"),
            queues.delete(HOME, "q", ["r"]),
            queues.change_visibility(HOME, "q", [("r", 1)]),
            queues.change(HOME, "q", {}),
            queues.describe(HOME, "q"),
            queues.stats(HOME, "q"),
            queues.purge(HOME, "q"),
            queues.remove(HOME, "q"),
            queues.start_redrive(HOME, "q"),
            queues.redrives(HOME, "q"),
            queues.cancel_redrive(HOME, "q", "x"),
            queues.subscribe(HOME, "q", "f"),
            queues.unsubscribe(HOME, "q", "f"),
        ):
            self.failureResultOf(refused, NotFound)
        self.assertRaises(NotFound, queues.find, HOME, "q")


class DelayTests(QueuesTestCase):
    """Delays."""

    def test_message(self) -> None:
        """A message's delay hides it, and is counted."""
        self.make()
        self.send("x", delay=5)
        self.assertEqual(self.counts(), (0, 0, 1))
        self.clock.advance(4.5)
        self.assertEqual(self.bodies(), [])
        self.clock.advance(0.5)
        self.assertEqual(self.counts(), (1, 0, 0))
        self.assertEqual(self.bodies(), ["x"])

    def test_queue(self) -> None:
        """A queue's delay is that of messages that say nothing."""
        self.make(delay=5)
        self.send("x")
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_overridden(self) -> None:
        """A message's delay overrides the queue's, 0 too."""
        self.make(delay=5)
        self.send("now", delay=0)
        self.send("later", delay=10)
        self.assertEqual(self.bodies(), ["now"])
        self.clock.advance(5)
        self.assertEqual(self.bodies(), [])
        self.clock.advance(5)
        self.assertEqual(self.bodies(), ["later"])

    def test_not_retroactive(self) -> None:
        """A changed delay concerns messages that come."""
        self.make(delay=100)
        self.send("before")
        self.configure(delay=0)
        self.send("after")
        self.assertEqual(self.bodies(), ["after"])

    def test_range(self) -> None:
        """A delay is 0 to 900 seconds."""
        self.make()
        self.send("x", delay=900)
        for delay in (-1, 901, True):
            self.assertIsInstance(self.refused(Outgoing("x", delay=delay)), InvalidParameter)


class StatsTests(QueuesTestCase):
    """What a queue holds."""

    def test_counts(self) -> None:
        """What is visible, in flight and delayed is counted apart, at once and on every node."""
        self.make()
        two = self.node()
        self.send(*"abc")
        self.send("d", delay=10)
        self.receive()
        for node in (self.one, two):
            self.assertEqual(self.counts(node=node), (2, 1, 1))
        self.clock.advance(30)
        for node in (self.one, two):
            self.assertEqual(self.counts(node=node), (4, 0, 0))

    def test_bytes_and_age(self) -> None:
        """Bytes of bodies and attributes, and the age of the oldest message."""
        self.make()
        self.assertEqual(self.stats().oldest_age_seconds, 0)
        self.send("ä", attributes={"n": Attribute("Number", "1")})
        self.clock.advance(7)
        self.send("x")
        stats = self.stats()
        self.assertEqual((stats.bytes, stats.oldest_age_seconds), (2 + 1 + 6 + 1 + 1, 7))

    def test_peek(self) -> None:
        """A look shows visible messages without receipts, and changes nothing."""
        self.make()
        self.send(*"abc")
        self.receive()
        seen = self.done(self.queues.peek(HOME, "q", 1))
        self.assertEqual([(one.body, one.receipt, one.receive_count) for one in seen], [("b", "", 0)])
        self.assertEqual(said(self.done(self.queues.peek(HOME, "q"))), ["b", "c"])
        self.assertEqual(self.receive()[0].receive_count, 1)

    def test_peek_range(self) -> None:
        """A look is at 1 to 1,000 messages."""
        self.make()
        for limit in (0, 1001):
            self.failureResultOf(self.queues.peek(HOME, "q", limit), InvalidParameter)

    def test_bus_away(self) -> None:
        """While the bus is away nothing is told that may have changed meanwhile."""
        self.make()
        self.send("x")
        self.one.bus.go_away()
        for refused in (
            self.queues.stats(HOME, "q"),
            self.queues.peek(HOME, "q"),
            self.queues.receive(HOME, "q", wait=0),
        ):
            self.failureResultOf(refused, BusUnavailable)

    def test_purge(self) -> None:
        """A purge removes everything, and the receipts of what was in flight do nothing any more."""
        self.make()
        self.send(*"abc")
        self.send("d", delay=10)
        (one,) = self.receive()
        self.done(self.queues.purge(HOME, "q"))
        self.assertEqual((self.counts(), self.stats().bytes), ((0, 0, 0), 0))
        self.assertEqual(self.delete(one), [None])
        self.send("e")
        self.clock.advance(60)
        self.assertEqual(self.bodies(), ["e"])


class NewQueueTests(QueuesTestCase):
    """Queues that come into being by being sent to, and how many there may be."""

    def test_refused(self) -> None:
        """What a new queue would not take makes no queue."""
        [result] = self.done(self.queues.send(HOME, "new", [Outgoing("")], may_create=True))
        self.assertIsInstance(result, InvalidParameter)
        self.failureResultOf(self.queues.describe(HOME, "new"), NotFound)

    def test_too_many(self) -> None:
        """An application has a bounded number of queues; those that are there stay as they are."""
        self.patch(service, "MAX_QUEUES", 1)
        self.make("one")
        self.failureResultOf(self.queues.configure(HOME, "two", {}), RateLimited)
        self.failureResultOf(self.queues.send(HOME, "two", [Outgoing("x")], may_create=True), RateLimited)
        self.assertIs(self.done(self.queues.configure(HOME, "one", {})), Configured.SAME)


class DepositTests(QueuesTestCase):
    """Messages that come from topics."""

    def test_once(self) -> None:
        """What has the same origin is stored once, also by two nodes and in parts."""
        self.make()
        two = self.node()
        messages = [Outgoing("a"), Outgoing("b"), Outgoing("c")]
        self.done(self.queues.deposit(HOME, "q", messages[:2], ["1", "2"]))
        self.done(two.queues.deposit(HOME, "q", messages, ["1", "2", "3"]))
        self.assertEqual(self.bodies(), ["a", "b", "c"])

    def test_once_after_deletion(self) -> None:
        """Also if it was received and deleted meanwhile, and after more than five minutes."""
        self.make()
        self.done(self.queues.deposit(HOME, "q", [Outgoing("a")], ["1"]))
        self.delete(*self.receive())
        self.clock.advance(1000)
        self.done(self.queues.deposit(HOME, "q", [Outgoing("a")], ["1"]))
        self.assertEqual(self.receive(), [])

    def test_empty(self) -> None:
        """A deposited body may be empty."""
        self.make()
        self.done(self.queues.deposit(HOME, "q", [Outgoing("")], ["1"]))
        self.assertEqual(self.bodies(), [""])

    def test_delay(self) -> None:
        """The queue's delay holds, on a standard queue."""
        self.make(delay=5)
        self.done(self.queues.deposit(HOME, "q", [Outgoing("a")], ["1"]))
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_fifo(self) -> None:
        """On a FIFO queue order, group and deduplication id are kept."""
        self.make("q.fifo")
        messages = [Outgoing(body, group="g", dedup_id=body) for body in "abc"]
        self.done(self.queues.deposit(HOME, "q.fifo", messages, list("123")))
        received = self.receive(10, name="q.fifo")
        self.assertEqual([(one.body, one.group, one.dedup_id) for one in received], [(b, "g", b) for b in "abc"])

    def test_bus_away(self) -> None:
        """While the bus is away it is refused, and can be done again."""
        self.make()
        self.counts()
        self.one.bus.go_away()
        self.failureResultOf(self.queues.deposit(HOME, "q", [Outgoing("a")], ["1"]), BusUnavailable)
        self.one.bus.come_back()
        self.done(self.queues.deposit(HOME, "q", [Outgoing("a")], ["1"]))
        self.assertEqual(self.bodies(), ["a"])


class SubscriptionTests(QueuesTestCase):
    """Which topics a queue has subscribed to."""

    def setUp(self) -> None:
        super().setUp()
        self.make()
        self.told: list[tuple[str, tuple[str, ...]]] = []

    def listen(self) -> None:
        self.queues.on_subscriptions(lambda _, name, filters: self.told.append((name, filters)))

    def test_subscribe(self) -> None:
        """A subscription is written down once, and told; its end too."""
        self.listen()
        self.assertTrue(self.done(self.queues.subscribe(HOME, "q", "alice_shop_a")))
        self.assertFalse(self.done(self.queues.subscribe(HOME, "q", "alice_shop_a")))
        self.assertTrue(self.done(self.queues.subscribe(HOME, "q", "alice_shop_b")))
        self.assertTrue(self.done(self.queues.unsubscribe(HOME, "q", "alice_shop_a")))
        self.assertFalse(self.done(self.queues.unsubscribe(HOME, "q", "alice_shop_a")))
        a, b = "alice_shop_a", "alice_shop_b"
        self.assertEqual(self.told, [("q", (a,)), ("q", (a, b)), ("q", (b,))])
        self.assertEqual(self.done(self.queues.describe(HOME, "q")).subscriptions, (b,))

    def test_told_at_the_beginning(self) -> None:
        """Whoever begins to listen is told what there is."""
        self.done(self.queues.subscribe(HOME, "q", "alice_shop_a"))
        self.listen()
        self.assertEqual(self.told, [("q", ("alice_shop_a",))])

    def test_removed(self) -> None:
        """A removed queue has no subscriptions any more."""
        self.done(self.queues.subscribe(HOME, "q", "alice_shop_a"))
        self.listen()
        self.done(self.queues.remove(HOME, "q"))
        self.assertEqual(self.told[1:], [("q", ())])

    def test_prepared(self) -> None:
        """A subscription is written down after it was prepared, and not at all if that fails."""
        preparing: Deferred[None] = Deferred()
        self.queues.prepare_subscriptions(lambda *_: preparing)
        subscribing = self.queues.subscribe(HOME, "q", "alice_shop_a")
        self.assertNoResult(subscribing)
        preparing.errback(BusUnavailable())
        self.failureResultOf(subscribing, BusUnavailable)
        self.assertEqual(self.done(self.queues.describe(HOME, "q")).subscriptions, ())

    def test_limit(self) -> None:
        """A queue has a bounded number of subscriptions."""
        self.patch(service, "MAX_SUBSCRIPTIONS", 1)
        self.done(self.queues.subscribe(HOME, "q", "alice_shop_a"))
        self.failureResultOf(self.queues.subscribe(HOME, "q", "alice_shop_b"), InvalidParameter)


class ConflictTests(SynchronousTestCase):
    """Refusals of the service."""

    def test_codes(self) -> None:
        """Their codes are what clients may rely on."""
        for refusal, code, status in (
            (VisibilityTotal(), "visibility_total", 400),
            (ReceiptExpired(), "receipt_expired", 400),
            (InFlightLimit(), "in_flight_limit", 429),
            (QueueFull(), "queue_full", 429),
            (Conflict(), "conflict", 409),
        ):
            self.assertEqual((refusal.code, refusal.status), (code, status))
