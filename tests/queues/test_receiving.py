"""Receiving, and what receipts are for."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from flowgate.errors import (
    BusUnavailable,
    InvalidParameter,
    NotFound,
    ReceiptInvalid,
)
from flowgate.queues.model import (
    InFlightLimit,
)
from flowgate.queues.service import VisibilityTotal
from tests.queues.nodes import BEGIN, ELSEWHERE, HOME, QueuesTestCase, said

HOUR = 3600


class ReceiveTests(QueuesTestCase):
    """Receiving from a standard queue."""

    def test_ranges(self) -> None:
        """Limits of a receive are checked, with the parameter's name."""
        self.make()
        for limit, options in (
            (0, {}),
            (11, {}),
            (True, {}),
            (1, {"wait": -1}),
            (1, {"wait": 21}),
            (1, {"wait": 1.5}),
            (1, {"visibility": -1}),
            (1, {"visibility": 43_201}),
        ):
            failure = self.failureResultOf(self.queues.receive(HOME, "q", limit, **options), InvalidParameter)
            self.assertIn(next(iter(options), "max"), failure.value.detail)

    def test_default_is_one(self) -> None:
        """A receive takes one message if it does not say how many."""
        self.make()
        self.send("a", "b")
        self.assertEqual(said(self.done(self.queues.receive(HOME, "q"))), ["a"])

    def test_order(self) -> None:
        """Messages come in the order in which they were sent."""
        self.make()
        for number in range(25):
            self.send(str(number))
        self.assertEqual([body for _ in range(3) for body in self.bodies()], [str(number) for number in range(25)])

    def test_configured_visibility(self) -> None:
        """A receive that does not say hides for the queue's visibility."""
        self.make(visibility=7)
        self.send("x")
        self.receive()
        self.clock.advance(6.5)
        self.assertEqual(self.receive(), [])
        self.clock.advance(0.5)
        self.assertEqual(self.bodies(), ["x"])

    def test_said_visibility(self) -> None:
        """A receive that says hides for that time."""
        self.make(visibility=7)
        self.send("x")
        self.receive(visibility=2)
        self.clock.advance(2)
        self.assertEqual(self.bodies(), ["x"])

    def test_visibility_zero(self) -> None:
        """A receive that hides for no time leaves the message visible; the next one has another receipt."""
        self.make()
        self.send("x")
        (first,), (second,) = self.receive(visibility=0), self.receive(visibility=0)
        self.assertEqual((first.receive_count, second.receive_count), (1, 2))
        self.assertNotEqual(first.receipt, second.receipt)

    def test_counts_and_times(self) -> None:
        """Each receive is counted; when the first one was is known."""
        self.make()
        self.send("x")
        self.clock.advance(2)
        for number in range(1, 4):
            (one,) = self.receive(visibility=1)
            self.assertEqual((one.receive_count, one.first_received_at), (number, (BEGIN + 2) * 1000))
            self.clock.advance(1)

    def test_another_node(self) -> None:
        """What one node handed out another does not."""
        self.make()
        two = self.node()
        self.send("a", "b")
        self.assertEqual(self.bodies(1, node=two), ["a"])
        self.assertEqual(self.bodies(), ["b"])
        self.assertEqual(self.bodies(node=two), [])

    def test_groups(self) -> None:
        """A tenant with many messages does not keep those of others waiting."""
        self.make()
        self.send(*"aaaaaaaaaaaaaaaaaaaa", group="a")
        self.send("b", group="b")
        self.send("c")
        self.assertEqual(self.bodies(4), ["a", "b", "c", "a"])

    def test_body_missing(self) -> None:
        """A message whose body is not in the log is reported and not handed out; others are."""
        self.make()
        self.send("a")
        self.send("b")
        two = self.node()
        log = two.replica().log
        assert log is not None
        entries = self.shared._bus.logs[HOME, "q"].entries
        del entries[min(entries)]
        self.assertEqual(self.bodies(node=two), ["b"])
        self.assertEqual(self.counts(), (1, 1, 0))

    def test_attempt(self) -> None:
        """A standard queue takes no receive attempt id."""
        self.make()
        self.failureResultOf(self.queues.receive(HOME, "q", attempt="x"), InvalidParameter)

    def test_cancelled_while_reading(self) -> None:
        """What was taken for a receiver that goes while the bodies are read goes back at once, as if never taken."""
        self.make()
        two = self.node()
        two.replica()
        self.patch(self.one.replica("q")._bodies, "get", lambda *_: None)
        self.send("x")
        reading: Deferred[dict[int, bytes]] = Deferred()
        log = self.one.replica().log
        self.patch(log, "read", lambda _: reading)
        receiving = self.queues.receive(HOME, "q")
        self.assertEqual(self.counts(), (0, 1, 0))
        receiving.cancel()
        self.failureResultOf(receiving)
        (one,) = self.receive(node=two)
        self.assertEqual(one.receive_count, 1)

    def test_unreadable_bodies(self) -> None:
        """If the bodies cannot be read the receive is refused, and what was taken goes back."""
        self.make()
        self.send("x")
        self.patch(self.one.replica("q")._bodies, "get", lambda *_: None)
        log = self.one.replica().log
        reading: Deferred[dict[int, bytes]] = Deferred()
        self.patch(log, "read", lambda _: reading)
        receiving = self.queues.receive(HOME, "q")
        reading.errback(BusUnavailable())
        self.failureResultOf(receiving, BusUnavailable)
        self.assertEqual(self.counts(), (1, 0, 0))


class InFlightTests(QueuesTestCase):
    """How much may be in flight; a few messages only, here."""

    max_in_flight = 3

    def test_standard(self) -> None:
        """A standard queue refuses a receive that does not wait, beyond the limit."""
        self.make()
        self.send(*"abcde")
        self.assertEqual(self.bodies(), ["a", "b", "c"])
        self.failureResultOf(self.queues.receive(HOME, "q", wait=0), InFlightLimit)
        self.assertEqual(self.counts(), (2, 3, 0))

    def test_waiting(self) -> None:
        """One that waits gets nothing, unless there is room meanwhile."""
        self.make()
        self.send(*"abcd")
        taken = self.receive(10)
        waiting = self.wait(wait=5)
        self.clock.advance(5)
        self.assertEqual(self.done(waiting), [])
        waiting = self.wait()
        self.delete(taken[1])
        self.assertEqual(said(self.done(waiting)), ["d"])

    def test_waiting_too_late(self) -> None:
        """One that waits, finds that others have what there was, and that its time is over, just gets nothing."""
        self.make()
        self.send(*"abcd")
        taken = self.receive(10)
        waiting = self.wait(wait=5)
        two = self.node()
        two.replica()
        self.one.logs.held = True
        self.done(two.queues.delete(HOME, "q", [taken[0].receipt]))
        self.assertEqual(self.bodies(node=two), ["d"])
        self.clock.advance(5)
        self.one.logs.go_on()
        self.assertEqual(self.done(waiting), [])

    def test_fifo(self) -> None:
        """A FIFO queue just has nothing."""
        self.make("q.fifo", content_dedup=True)
        for body in "abcde":
            self.send(body, name="q.fifo", group=body)
        self.assertEqual(self.bodies(name="q.fifo"), ["a", "b", "c"])
        self.assertEqual(self.bodies(name="q.fifo"), [])

    def test_visibility_ends(self) -> None:
        """Room is there when visibilities have ended, though nobody did anything; also for who waits."""
        self.make()
        self.send(*"abc")
        self.receive(10, visibility=10)
        waiting = self.wait(3)
        self.clock.advance(10)
        self.clock.advance(0.01)
        self.assertEqual(said(self.done(waiting)), ["a", "b", "c"])
        self.clock.advance(30)
        self.assertEqual(self.bodies(), ["a", "b", "c"])


class ReceiptTests(QueuesTestCase):
    """Deleting and changing visibilities by receipts."""

    def setUp(self) -> None:
        super().setUp()
        self.make()

    def test_delete(self) -> None:
        """A deleted message does not come back; deleting it again is no error, also by another receipt of it."""
        self.send("x")
        (first,), (second,) = self.receive(visibility=0), self.receive()
        for one in (second, second, first):
            self.assertEqual(self.delete(one), [None])
        self.clock.advance(100)
        self.assertEqual(self.receive(), [])

    def test_delete_by_an_old_receipt(self) -> None:
        """An old receipt deletes, also while somebody else has the message, or nobody has it."""
        self.send("a", "b")
        old = self.receive(10, visibility=1)
        self.clock.advance(1)
        self.receive()
        self.assertEqual(self.delete(*old), [None, None])
        self.assertEqual(self.counts(), (0, 0, 0))

    def test_delete_at_another_node(self) -> None:
        """Any node takes a receipt."""
        self.send("x")
        self.delete(*self.receive(node=self.node()))
        self.assertEqual(self.counts(), (0, 0, 0))

    def test_batch(self) -> None:
        """Each of a batch has its own answer."""
        self.send("a", "b")
        one, two = self.receive(10)
        results = self.done(self.queues.delete(HOME, "q", [one.receipt, "?", two.receipt]))
        self.assertEqual([type(result) for result in results], [type(None), ReceiptInvalid, type(None)])
        self.assertEqual(self.counts(), (0, 0, 0))

    def test_change(self) -> None:
        """A changed visibility counts from the change, and is not remembered for the next receive."""
        self.send("x")
        (one,) = self.receive()
        self.clock.advance(20)
        self.assertIsNone(self.change(one, 60))
        self.clock.advance(59)
        self.assertEqual(self.receive(), [])
        self.clock.advance(1)
        self.assertEqual(self.bodies(), ["x"])
        self.clock.advance(30)
        self.assertEqual(self.bodies(), ["x"])

    def test_give_back(self) -> None:
        """A visibility of 0 has the message visible at once."""
        self.send("x")
        (one,) = self.receive()
        self.change(one, 0)
        self.assertEqual(self.receive()[0].receive_count, 2)

    def test_change_by_an_old_receipt(self) -> None:
        """An old receipt changes too, also if the message is visible again."""
        self.send("x")
        (one,) = self.receive(visibility=1)
        self.clock.advance(1)
        self.assertIsNone(self.change(one, 10))
        self.assertEqual(self.receive(), [])
        self.clock.advance(10)
        self.receive()
        self.assertIsNone(self.change(one, 0))
        self.assertEqual(self.bodies(), ["x"])

    def test_change_what_is_gone(self) -> None:
        """The visibility of a message that was deleted cannot be changed."""
        self.send("x")
        (one,) = self.receive()
        self.delete(one)
        self.assertIsInstance(self.change(one, 5), NotFound)

    def test_change_range(self) -> None:
        """A visibility out of range is refused."""
        self.send("x")
        (one,) = self.receive()
        for seconds in (-1, 43_201):
            self.assertIsInstance(self.change(one, seconds), InvalidParameter)
        self.assertIsNone(self.change(one, 43_200))

    def test_twelve_hours(self) -> None:
        """A message is with one receiver for twelve hours at most, however often that is changed."""
        self.send("x")
        (one,) = self.receive()
        for _ in range(11):
            self.assertIsNone(self.change(one, HOUR + 10))
            self.clock.advance(HOUR)
        self.assertIsInstance(self.change(one, HOUR + 1), VisibilityTotal)
        self.assertIsNone(self.change(one, HOUR))
        self.clock.advance(HOUR)
        (again,) = self.receive()
        self.assertIsNone(self.change(again, 12 * HOUR))

    def test_foreign(self) -> None:
        """A receipt of another account's queue of the same name, or of another queue, does nothing."""
        self.done(self.queues.configure(ELSEWHERE, "q", {}))
        self.make("r")
        self.send("x")
        (one,) = self.receive(visibility=0)
        for home, name in ((ELSEWHERE, "q"), (HOME, "r")):
            for wish in (
                self.queues.delete(home, name, [one.receipt]),
                self.queues.change_visibility(home, name, [(one.receipt, 1000)]),
            ):
                self.assertEqual([type(result) for result in self.done(wish)], [ReceiptInvalid])
        self.assertEqual(self.counts(), (1, 0, 0))

    def test_made_up(self) -> None:
        """A receipt that was never issued is refused."""
        made_up = ["", "x", "1.1.1", "ä", "=" * 10, "A" * 100]
        for wish in (
            self.queues.delete(HOME, "q", made_up),
            self.queues.change_visibility(HOME, "q", [(one, 1) for one in made_up]),
        ):
            self.assertEqual({type(result) for result in self.done(wish)}, {ReceiptInvalid})

    def test_removed_and_remade(self) -> None:
        """Receipts of a queue that was removed concern no message of the one that was made later."""
        self.send("old")
        (old,) = self.receive()
        self.done(self.queues.remove(HOME, "q"))
        self.make()
        self.send("new")
        (new,) = self.receive(visibility=0)
        self.assertNotEqual(new.receipt, old.receipt)
        self.assertEqual(self.delete(old), [None])
        self.assertIsInstance(self.change(old, 100), NotFound)
        self.assertEqual(self.bodies(), ["new"])

    def test_bus_away(self) -> None:
        """While the bus is away nothing is deleted or changed, and that is said."""
        self.send("x")
        (one,) = self.receive()
        self.one.bus.go_away()
        self.failureResultOf(self.queues.delete(HOME, "q", [one.receipt]), BusUnavailable)
        self.failureResultOf(self.queues.change_visibility(HOME, "q", [(one.receipt, 5)]), BusUnavailable)
        self.one.bus.come_back()
        self.assertEqual(self.delete(one), [None])

    def test_bus_lost_meanwhile(self) -> None:
        """If the bus is lost on the way, each that was on its way says so, and what was wrong anyway says that."""
        self.send("x")
        (one,) = self.receive()
        self.one.logs.held = True
        alone = self.queues.delete(HOME, "q", [one.receipt])
        mixed = self.queues.delete(HOME, "q", ["?", one.receipt])
        self.one.logs.lose(stored=False)
        self.failureResultOf(alone, BusUnavailable)
        self.assertEqual([type(result) for result in self.done(mixed)], [ReceiptInvalid, BusUnavailable])


class RetentionTests(QueuesTestCase):
    """What becomes too old."""

    def test_expired(self) -> None:
        """A message older than the retention is neither received nor counted, also one that is in flight."""
        self.make(retention=60)
        self.send("a", "b")
        (one,) = self.receive(visibility=HOUR)
        self.clock.advance(59)
        self.assertEqual(self.counts(), (1, 1, 0))
        self.clock.advance(1)
        self.assertEqual(self.counts(), (0, 0, 0))
        self.assertEqual(self.receive(), [])
        self.assertEqual(self.delete(one), [None])

    def test_from_sending(self) -> None:
        """It counts from the sending, not from the last receive or the end of the delay."""
        self.make(retention=60)
        self.send("x", delay=50)
        self.clock.advance(55)
        self.receive(visibility=0)
        self.clock.advance(5)
        self.assertEqual(self.receive(), [])

    def test_shortened(self) -> None:
        """A shorter retention concerns the messages that are there."""
        self.make()
        self.send("x")
        self.clock.advance(100)
        self.configure(retention=60)
        self.assertEqual(self.counts(), (0, 0, 0))
        self.assertEqual(self.receive(), [])

    def test_age(self) -> None:
        """The oldest message is never older than the retention, though it may not be gone yet."""
        self.make(retention=60)
        self.clock.advance(1)
        self.send("x")
        self.clock.pump([59, 1.5])
        self.assertEqual(self.stats().oldest_age_seconds, 60)
