"""Messages that are received too often move to the dead-letter queue, once."""

from __future__ import annotations

import secrets

from twisted.internet.defer import Deferred, fail

from flowgate.errors import BusUnavailable
from flowgate.queues.model import ReceiptExpired
from tests.queues.nodes import BEGIN, HOME, QueuesTestCase, dead_letter, said


class StandardTests(QueuesTestCase):
    """Of a standard queue."""

    def setUp(self) -> None:
        super().setUp()
        self.make("dead")
        self.make(dead_letter=dead_letter("dead", 2))

    def wear_out(self, *bodies: str) -> None:
        """Send messages that the next receive moves."""
        self.send(*bodies)
        for _ in range(2):
            self.receive(10, visibility=0)

    def test_moved_by_the_next_receive(self) -> None:
        """It is the receive that would be one too many that moves a message, and nothing before it."""
        self.send("x")
        for number in (1, 2):
            self.assertEqual(self.receive(visibility=1)[0].receive_count, number)
            self.clock.advance(1)
        self.clock.advance(1000)
        self.assertEqual((self.counts(), self.counts("dead")), ((1, 0, 0), (0, 0, 0)))
        self.assertEqual(self.receive(), [])
        self.assertEqual((self.counts(), self.counts("dead")), ((0, 0, 0), (1, 0, 0)))

    def test_received_once(self) -> None:
        """With a limit of 1 a message is received once."""
        self.configure(dead_letter=dead_letter("dead", 1))
        self.send("x")
        self.assertEqual(self.bodies(visibility=0), ["x"])
        self.assertEqual(self.bodies(visibility=0), [])
        self.assertEqual(self.bodies(name="dead"), ["x"])

    def test_filled(self) -> None:
        """The receive that moves is filled with others."""
        self.wear_out("a", "b")
        self.send("c", "d", "e")
        self.assertEqual(self.bodies(2), ["c", "d"])
        self.assertEqual(self.bodies(name="dead"), ["a", "b"])

    def test_what_is_kept(self) -> None:
        """Id, time of sending, receive count, first receive and all that was sent are kept; its source is told."""
        (sent,) = self.send("x", group="g", sender="me", trace="t")
        self.clock.advance(5)
        for _ in range(2):
            self.receive(visibility=0)
        self.clock.advance(5)
        self.receive()
        (one,) = self.receive(name="dead")
        self.assertEqual((one.id, one.body, one.group, one.sender, one.trace), (sent.id, "x", "g", "me", "t"))
        self.assertEqual((one.sent_at, one.first_received_at), (BEGIN * 1000, (BEGIN + 5) * 1000))
        self.assertEqual((one.receive_count, one.dead_letter_source), (3, "q"))

    def test_ages_on(self) -> None:
        """A message is as old in the dead-letter queue as it was: its retention counts from the sending."""
        self.configure("dead", retention=60)
        self.wear_out("x")
        self.clock.advance(50)
        self.receive()
        self.assertEqual(self.stats("dead").oldest_age_seconds, 50)
        self.clock.advance(10)
        self.assertEqual(self.receive(name="dead"), [])
        self.assertEqual(self.counts("dead"), (0, 0, 0))

    def test_no_delay(self) -> None:
        """The dead-letter queue's delay does not hide what is moved there."""
        self.configure("dead", delay=100)
        self.wear_out("x")
        self.receive()
        self.assertEqual(self.bodies(name="dead"), ["x"])

    def test_old_receipts(self) -> None:
        """Receipts of a message that was moved do nothing."""
        self.send("x")
        (old,) = self.receive(visibility=0)
        self.receive(visibility=0)
        self.receive()
        self.assertEqual(self.delete(old), [None])
        self.assertEqual(self.bodies(name="dead"), ["x"])

    def test_changed(self) -> None:
        """How often is too often is as the queue is configured at the receive."""
        self.wear_out("x")
        self.configure(dead_letter=dead_letter("dead", 3))
        self.assertEqual(self.bodies(visibility=0), ["x"])
        self.configure(dead_letter=None)
        for _ in range(5):
            self.assertEqual(self.bodies(visibility=0), ["x"])

    def test_removed(self) -> None:
        """If the dead-letter queue was removed, messages are handed out as before."""
        self.wear_out("x")
        self.done(self.queues.remove(HOME, "dead"))
        self.assertEqual(self.receive()[0].receive_count, 3)

    def test_removed_meanwhile(self) -> None:
        """If it is removed while a message is on its way, that is handed out again."""
        self.wear_out("x")
        known = self.queues._directory.known
        self.patch(self.queues._directory, "known", lambda *key: known(*key))
        (grant,) = self.done(self.one.replica().command("r", 1, 1000, 2)).moving
        self.done(self.queues.remove(HOME, "dead"))
        self.done(self.one.replica().move([grant]))
        self.assertEqual(self.counts(), (1, 0, 0))
        self.assertEqual(self.receive()[0].receive_count, 3)

    def test_bus_away(self) -> None:
        """If a message cannot be moved it stays on its way, and is moved later; the receive is answered."""
        self.wear_out("x")
        self.send("y")
        self.one.replica("dead")
        dead = self.one.replica("dead").log
        failing: Deferred[int] = Deferred()
        answers = [failing]
        self.patch(dead, "append", lambda *_: answers.pop() if answers else fail(BusUnavailable()))
        waiting = self.wait()
        self.assertNoResult(waiting)
        failing.errback(BusUnavailable())
        self.assertEqual(said(self.done(waiting)), ["y"])
        self.assertEqual((self.counts(), self.counts("dead")), ((0, 2, 0), (0, 0, 0)))
        self.clock.pump([20] * 3)
        self.assertEqual(self.counts("dead"), (0, 0, 0))
        del dead.append  # type: ignore[union-attr]
        self.clock.advance(25)
        self.assertEqual(self.counts("dead"), (1, 0, 0))
        self.assertEqual(self.one.replica().machine.moving, {})

    def test_node_dies(self) -> None:
        """What a node that died was about to move another one moves."""
        two = self.node()
        two.replica()
        self.wear_out("x")
        self.one.replica("dead")
        self.one.logs.held = True
        self.leave(self.one.queues.receive(HOME, "q", wait=0))
        self.one.logs.go_on(1)  # the receive; the move does not follow
        self.queues.stop()
        self.assertEqual(len(two.replica().machine.moving), 1)
        self.clock.advance(9)
        self.assertEqual(self.counts("dead", two), (0, 0, 0))
        self.clock.pump([6] * 4)
        self.assertEqual(self.bodies(name="dead", node=two), ["x"])
        self.assertEqual(two.replica().machine.moving, {})

    def test_once(self) -> None:
        """A move that was done but for its end is not done twice."""
        two = self.node()
        two.replica()
        self.wear_out("x")
        self.one.replica("dead")
        self.one.logs.held = True
        self.leave(self.one.queues.receive(HOME, "q", wait=0))
        self.one.logs.go_on(1)
        self.one.logs.go_on(1)  # it is in the dead-letter queue; what says so does not follow
        self.assertEqual(self.counts("dead", two), (1, 0, 0))
        self.queues.stop()
        self.clock.pump([12] * 3)
        self.assertEqual(two.replica().machine.moving, {})
        self.assertEqual(self.counts("dead", two), (1, 0, 0))

    def test_left_alone(self) -> None:
        """What another node has just begun to move is left to it for a while."""
        self.patch(secrets, "randbelow", lambda _: 0)
        two = self.node()
        two.replica()
        self.wear_out("x")
        self.one.queues.stop()
        self.done(two.replica().command("r", 1, 0, 2))
        self.clock.advance(5)
        self.send("y", node=two)
        self.receive(visibility=0, node=two)
        self.done(two.queues.change(HOME, "q", {"dead_letter": dead_letter("dead", 1)}))
        self.done(two.replica().command("r", 1, 0, 1))
        self.assertEqual(len(two.replica().machine.moving), 2)
        self.clock.advance(5)
        self.assertEqual(self.bodies(name="dead", node=two), ["x"])
        self.clock.advance(10)
        self.assertEqual(self.bodies(name="dead", node=two), ["y"])

    def test_stays_open(self) -> None:
        """A queue with messages on their way is not closed for being idle."""
        self.wear_out("x")
        dead = self.one.replica("dead").log
        failing: Deferred[int] = Deferred()
        self.patch(dead, "append", lambda *_: failing)
        waiting = self.leave(self.wait(wait=0))
        failing.errback(BusUnavailable())
        self.assertEqual(self.done(waiting), [])
        self.assertFalse(self.one.replica().idle)

    def test_body_missing(self) -> None:
        """A message whose body is lost is not moved; others are."""
        self.send("a")
        self.send("b")
        for _ in range(2):
            self.receive(10, visibility=0)
        entries = self.shared._bus.logs[HOME, "q"].entries
        two = self.node()
        two.replica()
        del entries[min(entries)]
        self.assertEqual(self.bodies(node=two), [])
        self.assertEqual(self.bodies(name="dead"), ["b"])

    def test_chain(self) -> None:
        """A dead-letter queue may have one itself; receives count over all of them."""
        self.make("deader")
        self.configure("dead", dead_letter=dead_letter("deader", 3))
        self.wear_out("x")
        self.receive()
        self.assertEqual(self.receive(name="dead", visibility=0)[0].receive_count, 3)
        self.assertEqual(self.receive(name="dead"), [])
        (one,) = self.receive(name="deader")
        self.assertEqual((one.receive_count, one.dead_letter_source), (4, "dead"))


class FifoTests(QueuesTestCase):
    """Of a FIFO queue."""

    def setUp(self) -> None:
        super().setUp()
        self.make("dead.fifo")
        self.make("q.fifo", content_dedup=True, dead_letter=dead_letter("dead.fifo", 1))

    def test_unblocks(self) -> None:
        """A move unblocks the group: the same receive goes on with the next of it."""
        self.send("a", "b", name="q.fifo", group="g")
        self.receive(name="q.fifo", visibility=1)
        self.clock.advance(1)
        self.assertEqual(self.bodies(name="q.fifo"), ["b"])
        self.assertEqual(self.bodies(name="dead.fifo"), ["a"])

    def test_what_is_kept(self) -> None:
        """The group is kept; the time of sending is that of the move, and the deduplication id is the message's id."""
        (sent,) = self.send("a", name="q.fifo", group="g")
        self.receive(name="q.fifo", visibility=5)
        self.clock.advance(5)
        self.receive(name="q.fifo")
        (one,) = self.receive(name="dead.fifo")
        self.assertEqual((one.id, one.group, one.dedup_id, one.receive_count), (sent.id, "g", sent.id, 2))
        self.assertEqual((one.sent_at, one.first_received_at), ((BEGIN + 5) * 1000, BEGIN * 1000))
        self.assertEqual(one.dead_letter_source, "q.fifo")

    def test_order(self) -> None:
        """The order of a group is kept in the dead-letter queue."""
        self.send(*"abc", name="q.fifo", group="g")
        self.receive(10, name="q.fifo", visibility=0)
        self.assertEqual(self.receive(name="q.fifo"), [])
        self.assertEqual(self.bodies(name="dead.fifo"), ["a", "b", "c"])

    def test_sent_again(self) -> None:
        """A message of the group of one that was moved is taken and handed out."""
        self.send("a", name="q.fifo", group="g")
        self.receive(name="q.fifo", visibility=0)
        self.receive(name="q.fifo")
        self.send("b", name="q.fifo", group="g")
        self.assertEqual(self.bodies(name="q.fifo"), ["b"])

    def test_on_its_way(self) -> None:
        """A receipt of a message that is on its way is over."""
        self.send("a", name="q.fifo", group="g")
        (old,) = self.receive(name="q.fifo", visibility=0)
        self.done(self.one.replica("q.fifo").command("r", 1, 0, 1))
        self.assertEqual([type(one) for one in self.delete(old, name="q.fifo")], [ReceiptExpired])
