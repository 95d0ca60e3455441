"""The verbs of queues, over the fakes."""

from __future__ import annotations

import hashlib

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.memory_queues import MemoryQueues
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import Conflict, InvalidParameter, MessageTooLarge, NotFound, ReceiptInvalid
from flowgate.queues.model import MAX_ATTRIBUTE_BYTES, Configured, QueueConfig, ReceivedMessage
from flowgate.queues.service import BUCKET, Queues
from flowgate.topics import Namespace

HERE = Namespace("alice", "shop")
ELSEWHERE = Namespace("bob", "shop")


class QueuesTests(SynchronousTestCase):
    """One gateway with its queues."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.bus = MemoryQueues(self.clock)
        self.store = MemoryStore()
        self.queues = self.node()

    def node(self) -> Queues:
        queues = Queues(self.bus, self.store, b"secret", self.clock.seconds)
        self.successResultOf(queues.start())
        self.addCleanup(queues.stop)
        return queues

    def make(self, **members: object) -> None:
        self.successResultOf(self.queues.configure(HERE, "q", members))

    def receive(self, **options: int) -> list[ReceivedMessage]:
        return self.successResultOf(self.queues.receive(HERE, "q", **options))

    # Sending

    def test_send(self) -> None:
        """A send answers with an id, the body's MD5 and a sequence; the receiver sees the same."""
        self.make()
        sent = self.successResultOf(self.queues.send(HERE, "q", "grüße", {"n": 1}))
        (received,) = self.receive()
        self.assertEqual(sent.md5, hashlib.md5("grüße".encode()).hexdigest())
        self.assertEqual((received.id, received.md5, received.sequence), (sent.id, sent.md5, sent.sequence))
        self.assertEqual((received.body, received.attributes), ("grüße", {"n": 1}))
        self.assertEqual((received.receive_count, received.sent_at), (1, 1_000_000_000))

    def test_ids_differ(self) -> None:
        """Two messages with the same body have different ids."""
        self.make()
        one = self.successResultOf(self.queues.send(HERE, "q", "x"))
        two = self.successResultOf(self.queues.send(HERE, "q", "x"))
        self.assertNotEqual(one.id, two.id)

    def test_send_to_nothing(self) -> None:
        """A send to a queue that does not exist is refused."""
        self.failureResultOf(self.queues.send(HERE, "q", "x"), NotFound)

    def test_send_makes_queue(self) -> None:
        """A sender that may do so makes the queue, with defaults."""
        self.successResultOf(self.queues.send(HERE, "q", "x", may_create=True))
        self.assertEqual([one.body for one in self.receive()], ["x"])
        self.assertEqual(self.successResultOf(self.queues.describe(HERE, "q")).config, QueueConfig())

    def test_send_keeps_configuration(self) -> None:
        """A sender that may make the queue leaves an existing one as it is."""
        self.make(visibility=5)
        self.successResultOf(self.queues.send(HERE, "q", "x", may_create=True))
        self.assertEqual(self.successResultOf(self.queues.describe(HERE, "q")).config.visibility, 5)

    def test_largest(self) -> None:
        """A message of just the limit is taken."""
        self.make(max_message_bytes=1024)
        self.successResultOf(self.queues.send(HERE, "q", "ä" * 512))

    def test_too_large(self) -> None:
        """A message above the limit is refused; bytes count, not characters, and attributes too."""
        self.make(max_message_bytes=1024)
        self.failureResultOf(self.queues.send(HERE, "q", "ä" * 513), MessageTooLarge)
        self.failureResultOf(self.queues.send(HERE, "q", "x" * 1020, {"name": "value"}), MessageTooLarge)
        self.assertEqual(self.receive(), [])

    def test_largest_attributes(self) -> None:
        """Attributes are bounded by themselves: the bus has less room for them than for a body."""
        self.make()
        largest = MAX_ATTRIBUTE_BYTES - len('{"a": ""}')
        self.successResultOf(self.queues.send(HERE, "q", "x", {"a": "y" * largest}))
        self.failureResultOf(self.queues.send(HERE, "q", "x", {"a": "y" * (largest + 1)}), MessageTooLarge)
        self.failureResultOf(self.queues.send(HERE, "q", "x", {"a": "ü" * (largest // 6 + 1)}), MessageTooLarge)

    def test_lone_surrogate(self) -> None:
        """Text that is not valid Unicode is refused."""
        self.make()
        self.failureResultOf(self.queues.send(HERE, "q", "\ud800"), InvalidParameter)
        self.failureResultOf(self.queues.send(HERE, "q", "x", {"a": "\ud800"}), InvalidParameter)

    def test_bad_names(self) -> None:
        """Every verb refuses a name that no queue can have."""
        queues = self.queues
        for name in ("", "a b", "x.fifo", "../x"):
            self.failureResultOf(queues.send(HERE, name, "x", may_create=True), InvalidParameter)
            self.failureResultOf(queues.receive(HERE, name), InvalidParameter)
            self.failureResultOf(queues.delete(HERE, name, "r"), InvalidParameter)
            self.failureResultOf(queues.change_visibility(HERE, name, "r", 1), InvalidParameter)
            self.failureResultOf(queues.configure(HERE, name, {}), InvalidParameter)
            self.failureResultOf(queues.describe(HERE, name), InvalidParameter)
            self.failureResultOf(queues.stats(HERE, name), InvalidParameter)
            self.failureResultOf(queues.remove(HERE, name), InvalidParameter)

    # Receiving

    def test_receive_from_nothing(self) -> None:
        """A receive from a queue that does not exist is refused."""
        self.failureResultOf(self.queues.receive(HERE, "q"), NotFound)

    def test_ranges(self) -> None:
        """Limits of a receive are checked, with the parameter's name."""
        self.make()
        for options in (
            {"max": 0},
            {"max": 11},
            {"wait": -1},
            {"wait": 21},
            {"visibility": -1},
            {"visibility": 43_201},
            {"max": True},
            {"wait": 1.5},
        ):
            failure = self.failureResultOf(self.queues.receive(HERE, "q", **options), InvalidParameter)
            self.assertIn(next(iter(options)), failure.value.detail)

    def test_default_is_one(self) -> None:
        """A receive takes one message if it does not say how many."""
        self.make()
        for body in "ab":
            self.successResultOf(self.queues.send(HERE, "q", body))
        self.assertEqual([one.body for one in self.receive()], ["a"])

    def test_configured_visibility(self) -> None:
        """A receive that does not say hides for the queue's visibility."""
        self.make(visibility=7)
        self.successResultOf(self.queues.send(HERE, "q", "x"))
        self.receive()
        self.clock.advance(6.5)
        self.assertEqual(self.receive(), [])
        self.clock.advance(0.5)
        self.assertEqual(len(self.receive()), 1)

    def test_said_visibility(self) -> None:
        """A receive that says hides for that time, 0 too."""
        self.make()
        self.successResultOf(self.queues.send(HERE, "q", "x"))
        self.receive(visibility=0)
        self.assertEqual(self.receive()[0].receive_count, 2)

    def test_configured_wait(self) -> None:
        """A receive that does not say waits as the queue is configured."""
        self.make(receive_wait=5)
        waiting = self.queues.receive(HERE, "q")
        self.clock.advance(4)
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(waiting), [])

    def test_cancelled(self) -> None:
        """A receiver that goes away while it waits takes nothing."""
        self.make()
        gone = self.queues.receive(HERE, "q", wait=20)
        gone.cancel()
        self.failureResultOf(gone)
        self.successResultOf(self.queues.send(HERE, "q", "x"))
        self.assertEqual(self.receive()[0].receive_count, 1)

    # Receipts

    def test_delete(self) -> None:
        """A deleted message does not come back; deleting it again is no error."""
        self.make()
        self.successResultOf(self.queues.send(HERE, "q", "x"))
        (received,) = self.receive()
        for _ in range(2):
            self.successResultOf(self.queues.delete(HERE, "q", received.receipt))
        self.clock.advance(100)
        self.assertEqual(self.receive(), [])

    def test_change_visibility(self) -> None:
        """A receiver may change how long a message stays hidden."""
        self.make()
        self.successResultOf(self.queues.send(HERE, "q", "x"))
        (received,) = self.receive()
        self.successResultOf(self.queues.change_visibility(HERE, "q", received.receipt, 60))
        self.clock.advance(59)
        self.assertEqual(self.receive(), [])
        self.clock.advance(1)
        self.assertEqual(len(self.receive()), 1)

    def test_change_visibility_range(self) -> None:
        """A visibility out of range is refused."""
        self.make()
        self.successResultOf(self.queues.send(HERE, "q", "x"))
        (received,) = self.receive()
        for seconds in (-1, 43_201):
            changed = self.queues.change_visibility(HERE, "q", received.receipt, seconds)
            self.failureResultOf(changed, InvalidParameter)

    def test_foreign_receipt(self) -> None:
        """A receipt of another account's queue of the same name deletes nothing."""
        self.make()
        self.successResultOf(self.queues.send(HERE, "q", "x"))
        (received,) = self.receive(visibility=0)
        self.successResultOf(self.queues.configure(ELSEWHERE, "q", {}))
        self.failureResultOf(self.queues.delete(ELSEWHERE, "q", received.receipt), ReceiptInvalid)
        changed = self.queues.change_visibility(ELSEWHERE, "q", received.receipt, 1000)
        self.failureResultOf(changed, ReceiptInvalid)
        self.assertEqual(len(self.receive()), 1)

    def test_made_up_receipt(self) -> None:
        """A receipt that was never issued is refused."""
        self.make()
        for receipt in ("", "x", "1.1.1", "ä", "=" * 10):
            self.failureResultOf(self.queues.delete(HERE, "q", receipt), ReceiptInvalid)

    # Configuration

    def test_configure(self) -> None:
        """The first configuration makes the queue, the same again changes nothing, another one is refused."""
        self.assertIs(self.successResultOf(self.queues.configure(HERE, "q", {})), Configured.CREATED)
        self.assertIs(self.successResultOf(self.queues.configure(HERE, "q", QueueConfig())), Configured.SAME)
        self.failureResultOf(self.queues.configure(HERE, "q", {"visibility": 31}), Conflict)
        self.assertEqual(self.successResultOf(self.queues.describe(HERE, "q")).config, QueueConfig())

    def test_configure_wrongly(self) -> None:
        """A wrong configuration makes nothing, also as a value."""
        self.failureResultOf(self.queues.configure(HERE, "q", {"delay": 3}), InvalidParameter)
        self.failureResultOf(self.queues.configure(HERE, "q", QueueConfig(delay=3)), InvalidParameter)
        self.failureResultOf(self.queues.describe(HERE, "q"), NotFound)

    def test_describe(self) -> None:
        """A description has name, configuration and the time of making."""
        self.make(visibility=3)
        described = self.successResultOf(self.queues.describe(HERE, "q"))
        self.assertEqual((described.name, described.config.visibility, described.created_at), ("q", 3, 1_000_000))

    def test_other_node(self) -> None:
        """Another node knows a queue that was made here, and that it was removed."""
        other = self.node()
        self.make(visibility=3)
        self.assertEqual(self.successResultOf(other.describe(HERE, "q")).config.visibility, 3)
        self.successResultOf(self.queues.remove(HERE, "q"))
        self.failureResultOf(other.describe(HERE, "q"), NotFound)

    def test_node_that_starts_later(self) -> None:
        """A node that starts later knows the queues of before."""
        self.make(visibility=3)
        self.assertEqual(self.successResultOf(self.node().describe(HERE, "q")).config.visibility, 3)

    def test_unreadable_configuration(self) -> None:
        """A queue whose configuration cannot be read is logged and refused; it can be removed, and harms no other."""
        self.make()
        for value in (b"?", b"5", b"{}", b'{"config": {"dead_letter": 1}, "created_at": 1}', b'{"config": 5}'):
            with capturedLogs() as logged:
                self.successResultOf(self.store.put(BUCKET, "alice.shop.bad", value))
            self.assertEqual([event["key"] for event in logged], ["alice.shop.bad"])
            self.failureResultOf(self.queues.describe(HERE, "bad"), Conflict)
            self.failureResultOf(self.queues.send(HERE, "bad", "x", may_create=True), Conflict)
            self.failureResultOf(self.queues.configure(HERE, "bad", {}), Conflict)
        self.successResultOf(self.queues.remove(HERE, "bad"))
        self.successResultOf(self.queues.configure(HERE, "bad", {}))
        self.successResultOf(self.queues.describe(HERE, "q"))

    def test_remove(self) -> None:
        """A removed queue is gone, and one made anew is empty."""
        self.make(visibility=3)
        self.successResultOf(self.queues.send(HERE, "q", "x"))
        self.successResultOf(self.queues.remove(HERE, "q"))
        self.failureResultOf(self.queues.receive(HERE, "q"), NotFound)
        self.failureResultOf(self.queues.remove(HERE, "q"), NotFound)
        self.make()
        self.assertEqual(self.receive(), [])

    def test_remove_what_is_half_gone(self) -> None:
        """A removal that went half the way can be finished."""
        self.make()
        self.successResultOf(self.bus.delete(HERE, "q"))
        self.successResultOf(self.queues.remove(HERE, "q"))
        self.failureResultOf(self.queues.describe(HERE, "q"), NotFound)

    def test_stats(self) -> None:
        """Stats count what is visible and what is with receivers."""
        self.make()
        for body in "abc":
            self.successResultOf(self.queues.send(HERE, "q", body))
        self.receive()
        stats = self.successResultOf(self.queues.stats(HERE, "q"))
        self.assertEqual((stats.visible, stats.in_flight, stats.delayed), (2, 1, 0))

    def test_stats_of_nothing(self) -> None:
        """There are no stats of a queue that does not exist."""
        self.failureResultOf(self.queues.stats(HERE, "q"), NotFound)
