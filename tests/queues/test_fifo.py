"""Sending to and receiving from a FIFO queue."""

from __future__ import annotations

import hashlib
from typing import Any

from flowgate.errors import (
    InvalidParameter,
    MissingField,
)
from flowgate.queues.model import (
    Attribute,
    Outgoing,
    ReceiptExpired,
    Sent,
)
from tests.queues.nodes import HOME, QueuesTestCase, said

HOUR = 3600


class FifoTests(QueuesTestCase):
    """Sending to and receiving from a FIFO queue."""

    def make(self, name: str = "q.fifo", **members: object) -> None:
        super().make(name, **members)

    def send_to(self, group: str, *bodies: str, **options: Any) -> list[Sent]:
        return self.send(*bodies, name="q.fifo", group=group, **options)

    def taken(self, limit: int = 10, **options: Any) -> list[str]:
        return self.bodies(limit, name="q.fifo", **options)

    def test_group_needed(self) -> None:
        """A message needs a group."""
        self.make(content_dedup=True)
        self.assertIsInstance(self.refused(Outgoing("x"), "q.fifo"), MissingField)

    def test_dedup_id_needed(self) -> None:
        """A message needs a deduplication id, if its content is not to stand for it."""
        self.make()
        self.assertIsInstance(self.refused(Outgoing("x", group="g"), "q.fifo"), InvalidParameter)
        self.send_to("g", "x", dedup_id="1")
        self.configure("q.fifo", content_dedup=True)
        self.send_to("g", "x")

    def test_tokens(self) -> None:
        """Groups, deduplication ids and attempt ids are 1 to 128 printable characters."""
        self.make()
        for wrong in ("", "a b", "ä", "x" * 129, "a\n"):
            self.assertIsInstance(self.refused(Outgoing("x", group=wrong, dedup_id="1"), "q.fifo"), InvalidParameter)
            self.assertIsInstance(self.refused(Outgoing("x", group="g", dedup_id=wrong), "q.fifo"), InvalidParameter)
            self.failureResultOf(self.queues.receive(HOME, "q.fifo", attempt=wrong), InvalidParameter)

    def test_delay(self) -> None:
        """A message has no delay of its own but 0; the queue's holds."""
        self.make(delay=5, content_dedup=True)
        self.assertIsInstance(self.refused(Outgoing("x", group="g", delay=1), "q.fifo"), InvalidParameter)
        self.send_to("g", "a")
        self.assertEqual(self.counts("q.fifo"), (0, 0, 1))
        self.send_to("g", "b", delay=0)
        self.assertEqual(self.taken(), ["b"])

    def test_order_of_a_batch(self) -> None:
        """A batch is in order, and so is what several nodes send."""
        self.make(content_dedup=True)
        two = self.node()
        self.send_to("g", "a", "b")
        self.send("c", "d", name="q.fifo", group="g", node=two)
        self.assertEqual(self.taken(), ["a", "b", "c", "d"])

    def test_blocked(self) -> None:
        """While some of a group are in flight, no node hands out others of it; other groups go on."""
        self.make(content_dedup=True)
        two = self.node()
        self.send_to("g", "a", "b", "c")
        self.send_to("h", "d")
        taken = self.receive(2, name="q.fifo")
        self.assertEqual(said(taken), ["a", "b"])
        self.assertEqual(self.taken(node=two), ["d"])
        self.delete(taken[0], name="q.fifo")
        self.assertEqual(self.taken(node=two), [])
        self.delete(taken[1], name="q.fifo")
        self.assertEqual(self.taken(node=two), ["c"])

    def test_unblocked_by_time(self) -> None:
        """A group whose messages are visible again is handed out from its beginning."""
        self.make(content_dedup=True, visibility=10)
        self.send_to("g", "a", "b")
        self.taken(1)
        self.clock.advance(10)
        self.assertEqual(self.taken(), ["a", "b"])

    def test_purge_unblocks(self) -> None:
        """After a purge nothing is blocked."""
        self.make(content_dedup=True)
        self.send_to("g", "a")
        self.taken()
        self.done(self.queues.purge(HOME, "q.fifo"))
        self.send_to("g", "b")
        self.assertEqual(self.taken(), ["b"])

    def test_expired_receipt(self) -> None:
        """A receipt whose visibility ended is refused, also if somebody else has the message."""
        self.make(content_dedup=True)
        self.send_to("g", "a")
        (old,) = self.receive(name="q.fifo", visibility=1)
        self.clock.advance(1)
        self.assertEqual([type(one) for one in self.delete(old, name="q.fifo")], [ReceiptExpired])
        self.assertIsInstance(self.change(old, 5, "q.fifo"), ReceiptExpired)
        (new,) = self.receive(name="q.fifo")
        self.assertEqual([type(one) for one in self.delete(old, name="q.fifo")], [ReceiptExpired])
        self.assertEqual(self.delete(new, name="q.fifo"), [None])
        self.assertEqual(self.delete(new, old, name="q.fifo"), [None, None])

    def test_repetition(self) -> None:
        """A repetition is answered as the first was, and not stored, also at another node."""
        self.make()
        (first,) = self.send_to("g", "x", dedup_id="1")
        (again,) = self.send("y", name="q.fifo", group="g", dedup_id="1", node=self.node())
        self.assertEqual((again.id, again.sequence, again.duplicate), (first.id, first.sequence, True))
        self.assertFalse(first.duplicate)
        self.assertEqual(self.taken(), ["x"])

    def test_repetition_window(self) -> None:
        """Five minutes from the first, also after it was received and deleted."""
        self.make()
        self.send_to("g", "x", dedup_id="1")
        self.delete(*self.receive(name="q.fifo"), name="q.fifo")
        self.clock.advance(299)
        self.assertTrue(self.send_to("g", "y", dedup_id="1")[0].duplicate)
        self.clock.advance(1)
        self.assertFalse(self.send_to("g", "z", dedup_id="1")[0].duplicate)
        self.assertEqual(self.taken(), ["z"])

    def test_content(self) -> None:
        """The content's digest is an id like others: attributes do not count, and who gives the digest repeats."""
        self.make(content_dedup=True)
        self.send_to("g", "x")
        self.assertTrue(self.send_to("g", "x", attributes={"n": Attribute("Number", "1")})[0].duplicate)
        self.assertTrue(self.send_to("g", "y", dedup_id=hashlib.sha256(b"x").hexdigest())[0].duplicate)
        self.assertFalse(self.send_to("g", "x", dedup_id="1")[0].duplicate)
        received = self.receive(10, name="q.fifo")
        self.assertEqual([one.dedup_id for one in received], [hashlib.sha256(b"x").hexdigest(), "1"])

    def test_scope(self) -> None:
        """Ids are the queue's, or each group has its own."""
        self.make()
        self.send_to("g", "x", dedup_id="1")
        self.assertTrue(self.send_to("h", "x", dedup_id="1")[0].duplicate)
        self.configure("q.fifo", dedup_scope="group")
        self.assertFalse(self.send_to("g", "x", dedup_id="2")[0].duplicate)
        self.assertFalse(self.send_to("h", "x", dedup_id="2")[0].duplicate)
        self.assertTrue(self.send_to("h", "x", dedup_id="2")[0].duplicate)

    def test_repetition_within_a_batch(self) -> None:
        """A batch may repeat itself."""
        self.make(content_dedup=True)
        sent = self.send_to("g", "x", "x", "y")
        self.assertEqual([one.duplicate for one in sent], [False, True, False])
        self.assertEqual(self.taken(), ["x", "y"])

    def test_attempt(self) -> None:
        """A repeated attempt gets the same messages with the same receipts, and hides them anew; at any node."""
        self.make(content_dedup=True)
        self.send_to("g", "a", "b")
        first = self.receive(1, name="q.fifo", attempt="1")
        self.clock.advance(20)
        self.assertEqual(self.receive(1, name="q.fifo", attempt="1", node=self.node()), first)
        self.clock.advance(20)
        self.assertEqual(self.taken(attempt="2"), [])
        self.assertEqual(self.delete(*first, name="q.fifo"), [None])
        self.assertEqual(self.taken(1, attempt="1"), ["b"])

    def test_attempt_that_waits(self) -> None:
        """An attempt that waits gets what comes; its repetition the same."""
        self.make(content_dedup=True)
        waiting = self.wait(name="q.fifo", attempt="1")
        self.send_to("g", "a")
        self.clock.advance(0.01)
        first = self.done(waiting)
        self.assertEqual(said(first), ["a"])
        self.assertEqual(self.receive(1, name="q.fifo", attempt="1"), first)

    def test_groups_take_turns(self) -> None:
        """A busy group does not starve another."""
        self.make(content_dedup=True)
        self.send_to("g", *"abcdef")
        self.send_to("h", "x")
        served = []
        for _ in range(3):
            (one,) = self.receive(name="q.fifo")
            served.append(one.body)
            self.delete(one, name="q.fifo")
        self.assertEqual(served, ["a", "x", "b"])
