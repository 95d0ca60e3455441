"""Move tasks: messages leave a dead-letter queue."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from flowgate.errors import BusUnavailable, InsufficientScope, InvalidParameter, NotFound
from flowgate.queues import redrive
from flowgate.queues.model import Redrive
from flowgate.queues.redrive import BUCKET, RedriveRunning
from tests.queues.nodes import BEGIN, HOME, Node, QueuesTestCase, dead_letter


class RedriveTestCase(QueuesTestCase):
    """Two queues with one dead-letter queue."""

    def setUp(self) -> None:
        super().setUp()
        self.make("dead")
        for name in ("q", "r"):
            self.make(name, dead_letter=dead_letter("dead", 1))

    def kill(self, *bodies: str, name: str = "q") -> None:
        """Have messages be in the dead-letter queue."""
        self.send(*bodies, name=name)
        self.receive(10, name=name, visibility=0)
        self.assertEqual(self.receive(10, name=name), [])

    def start(self, node: Node | None = None, **options: object) -> Redrive:
        return self.done((node or self.one).queues.start_redrive(HOME, "dead", **options))  # type: ignore[arg-type]

    def tasks(self, node: Node | None = None) -> list[Redrive]:
        return self.done((node or self.one).queues.redrives(HOME, "dead"))

    def status(self, node: Node | None = None) -> tuple[str, int]:
        """Of the newest task: its status, and how many messages it has moved."""
        task = self.tasks(node)[0]
        return task.status, task.moved


class MoveTests(RedriveTestCase):
    """Where messages go, and as what."""

    def test_to_sources(self) -> None:
        """Each message goes back to the queue that it came from, the oldest first."""
        self.kill("a", "b")
        self.kill("c", name="r")
        self.kill("d")
        self.start()
        self.assertEqual(self.bodies(), ["a", "b", "d"])
        self.assertEqual(self.bodies(name="r"), ["c"])
        self.assertEqual(self.counts("dead"), (0, 0, 0))
        self.assertEqual(self.status(), ("completed", 4))

    def test_not_granted(self) -> None:
        """Nothing is moved to a queue that who began the task may not use; also if it is no source any more."""
        self.kill("a", name="r")
        start = self.one.queues.start_redrive
        self.failureResultOf(start(HOME, "dead", grants=("dead", "q")), InsufficientScope)
        self.failureResultOf(start(HOME, "dead", "r", grants=("dead", "q*")), InsufficientScope)
        self.done(self.one.queues.change(HOME, "r", {"dead_letter": None}))
        self.start(grants=("dead", "q"))
        self.assertEqual((self.status(), self.counts("r")), (("failed", 0), (0, 0, 0)))
        self.assertIn("may not", self.tasks()[0].failure)
        self.start(grants=("*",))
        self.assertEqual(self.bodies(name="r"), ["a"])

    def test_beside_receivers_that_wait(self) -> None:
        """Who waits for messages of the dead-letter queue does not make it look empty."""
        self.make("dead.fifo")
        self.make("q.fifo", dead_letter=dead_letter("dead.fifo", 1))
        for number in range(30):
            self.send(str(number), name="q.fifo", group="g", dedup_id=str(number))
        self.receive(10, name="q.fifo", visibility=0)
        self.receive(10, name="q.fifo", visibility=0)
        self.receive(10, name="q.fifo", visibility=0)
        for _ in range(2):
            self.wait(name="dead.fifo", wait=20, visibility=2)
        self.done(self.one.queues.start_redrive(HOME, "dead.fifo", "q.fifo"))
        self.clock.pump([0.5] * 60)
        [task] = self.done(self.one.queues.redrives(HOME, "dead.fifo"))
        self.assertEqual(task.status, "completed")
        self.assertEqual(self.counts("dead.fifo")[0], 0)

    def test_to_a_destination(self) -> None:
        """Or all go to a queue that is named, also those that were sent to the dead-letter queue itself."""
        self.make("s")
        self.kill("a")
        self.send("b", name="dead")
        self.start(destination="s")
        self.assertEqual(self.bodies(name="s"), ["a", "b"])
        self.assertEqual((self.counts(), self.counts("dead")), ((0, 0, 0), (0, 0, 0)))

    def test_new_ones(self) -> None:
        """They are new messages: id, time of sending and receives begin anew; what was sent is the same."""
        (sent,) = self.send("x", group="g", sender="me", trace="t")
        self.receive(visibility=0)
        self.receive()
        self.clock.advance(100)
        self.start()
        (one,) = self.receive()
        self.assertNotEqual(one.id, sent.id)
        self.assertEqual((one.body, one.group, one.sender, one.trace), ("x", "g", "me", "t"))
        self.assertEqual((one.sent_at, one.receive_count), ((BEGIN + 100) * 1000, 1))
        self.assertEqual((one.first_received_at, one.dead_letter_source), ((BEGIN + 100) * 1000, None))

    def test_described(self) -> None:
        """A task says what it is to do, and when it began."""
        self.kill("a", "b")
        task = self.start(max_per_second=500)
        self.assertEqual((task.status, task.destination, task.max_per_second), ("running", None, 500))
        self.assertEqual((task.started_at, task.moved, task.to_move), (BEGIN * 1000, 0, 2))
        self.clock.advance(1)
        self.assertEqual(self.tasks()[0].id, task.id)

    def test_in_flight(self) -> None:
        """What somebody has received is left where it is."""
        self.kill("a", "b")
        self.receive(name="dead")
        self.start()
        self.assertEqual(self.bodies(), ["b"])
        self.assertEqual(self.counts("dead"), (0, 1, 0))

    def test_nothing(self) -> None:
        """A task with nothing to do is completed."""
        self.start()
        self.assertEqual(self.status(), ("completed", 0))

    def test_many(self) -> None:
        """More than are received at once are moved, in order."""
        for start in range(0, 50, 10):
            self.kill(*[str(number) for number in range(start, start + 10)])
        self.start()
        bodies = [body for _ in range(5) for body in self.bodies()]
        self.assertEqual(bodies, [str(number) for number in range(50)])

    def test_fifo(self) -> None:
        """Of a FIFO queue order and groups are kept, and nothing is taken for a repetition."""
        self.make("dead.fifo")
        self.make("q.fifo", content_dedup=True, dead_letter=dead_letter("dead.fifo", 1))
        for group in "gh":
            self.send(f"{group}1", f"{group}2", name="q.fifo", group=group)
        self.receive(10, name="q.fifo", visibility=0)
        self.receive(10, name="q.fifo")
        self.assertEqual(self.counts("dead.fifo"), (4, 0, 0))
        self.done(self.queues.start_redrive(HOME, "dead.fifo"))
        self.assertEqual(self.bodies(name="q.fifo"), ["g1", "g2", "h1", "h2"])

    def test_again(self) -> None:
        """A message that dies again can be moved again."""
        self.kill("x")
        for _ in range(3):
            self.start()
            self.assertEqual(self.bodies(visibility=0), ["x"])
            self.assertEqual(self.bodies(), [])
        self.assertEqual(self.counts("dead"), (1, 0, 0))


class TaskTests(RedriveTestCase):
    """How tasks run and end."""

    def test_rate(self) -> None:
        """No more than so many a second are moved, and no fewer."""
        self.kill(*"abcdefgh")
        self.start(max_per_second=2)
        moved = []
        for _ in range(5):
            moved.append(self.counts()[0])
            self.clock.advance(1)
        self.assertEqual(moved, [2, 4, 6, 8, 8])
        self.assertEqual(self.status(), ("completed", 8))

    def test_high_rate(self) -> None:
        """A rate of more than are received at once is kept on average."""
        for start in range(0, 60, 10):
            self.kill(*[str(number) for number in range(start, start + 10)])
        self.start(max_per_second=20)
        self.assertEqual(self.counts()[0], 10)
        self.clock.advance(0.5)
        self.assertEqual(self.counts()[0], 20)
        self.clock.pump([0.5] * 3)
        self.assertEqual(self.counts()[0], 50)

    def test_progress(self) -> None:
        """A task says now and then how far it is."""
        self.kill(*"abcdefgh")
        self.start(max_per_second=1)
        self.clock.pump([1] * 5)
        status, moved = self.status()
        self.assertEqual(status, "running")
        self.assertGreaterEqual(moved, 3)

    def test_one_at_a_time(self) -> None:
        """While a task runs another is refused, at every node; afterwards not."""
        self.kill("a", "b")
        self.start(max_per_second=1)
        two = self.node()
        for node in (self.one, two):
            self.failureResultOf(node.queues.start_redrive(HOME, "dead"), RedriveRunning)
        self.assertEqual(RedriveRunning().code, "redrive_running")
        self.clock.pump([1] * 3)
        self.start(two)
        self.assertEqual([task.status for task in self.tasks()], ["completed", "completed"])

    def test_remembered(self) -> None:
        """The last ten tasks are told, the newest first."""
        ids = [self.start().id for _ in range(12)]
        self.assertEqual([task.id for task in self.tasks()], ids[:1:-1])

    def test_cancelled(self) -> None:
        """A task that is cancelled ends; what was moved stays moved, the rest stays where it is."""
        self.kill(*"abcdef")
        task = self.start(max_per_second=2)
        self.clock.advance(1)
        cancelled = self.done(self.queues.cancel_redrive(HOME, "dead", task.id))
        self.assertEqual((cancelled.id, cancelled.status), (task.id, "cancelling"))
        self.clock.advance(1)
        self.assertEqual(self.status(), ("cancelled", 4))
        self.clock.advance(10)
        self.assertEqual((self.counts()[0], self.counts("dead")), (4, (2, 0, 0)))

    def test_cancelled_elsewhere(self) -> None:
        """Another node than the one that works at it can cancel it."""
        self.kill(*"abcdef")
        task = self.start(max_per_second=2)
        two = self.node()
        self.done(two.queues.cancel_redrive(HOME, "dead", task.id))
        self.clock.advance(1)
        self.assertEqual((self.status(two), self.counts("dead")), (("cancelled", 2), (4, 0, 0)))

    def test_cancelled_in_vain(self) -> None:
        """Only a task that runs can be cancelled."""
        task = self.start()
        for id_ in (task.id, "x"):
            self.failureResultOf(self.queues.cancel_redrive(HOME, "dead", id_), NotFound)
        self.failureResultOf(self.queues.cancel_redrive(HOME, "other", task.id), NotFound)
        self.assertEqual(self.status(), ("completed", 0))

    def test_source_removed(self) -> None:
        """A task fails with the reason if a message's queue is there no more; that message and others stay."""
        self.kill("a")
        self.kill("b", "c", name="r")
        self.done(self.queues.remove(HOME, "r"))
        self.start()
        self.assertEqual(self.status(), ("failed", 1))
        self.assertIn("no such queue", self.tasks()[0].failure)
        self.assertEqual((self.bodies(), self.counts("dead")), (["a"], (2, 0, 0)))

    def test_no_source(self) -> None:
        """Likewise if it came from no other queue."""
        self.send("a", name="dead")
        self.start()
        self.assertEqual(self.status(), ("failed", 0))
        self.assertIn("destination", self.tasks()[0].failure)
        (one,) = self.receive(name="dead")
        self.assertEqual(one.receive_count, 1)

    def test_wrong(self) -> None:
        """Rate and destination are checked."""
        self.make("s.fifo")
        wrong: tuple[dict[str, Any], ...] = (
            {"max_per_second": 0},
            {"max_per_second": 501},
            {"destination": "dead"},
            {"destination": "s.fifo"},
            {"destination": "a b"},
        )
        for options in wrong:
            self.failureResultOf(self.queues.start_redrive(HOME, "dead", **options), InvalidParameter)
        self.failureResultOf(self.queues.start_redrive(HOME, "dead", "other"), NotFound)
        self.assertEqual(self.tasks(), [])

    def test_removed(self) -> None:
        """If the dead-letter queue is removed its task ends, and is forgotten."""
        self.kill(*"abc")
        self.start(max_per_second=1)
        self.done(self.queues.remove(HOME, "dead"))
        self.assertEqual(self.queues._redrives._work, {})
        self.clock.pump([5] * 6)
        self.make("dead")
        self.assertEqual(self.tasks(), [])
        self.assertEqual(self.counts()[0], 1)

    def test_removed_elsewhere(self) -> None:
        """Also if another node removes it."""
        self.kill(*"abc")
        self.start(max_per_second=1)
        self.done(self.node().queues.remove(HOME, "dead"))
        self.clock.pump([5] * 6)
        self.make("dead")
        self.assertEqual(self.tasks(), [])
        self.start()

    def test_unreadable(self) -> None:
        """Tasks that cannot be read are logged and harm nobody."""
        for value in (b"?", b"5", b'[{"redrive": {}}]'):
            with capturedLogs() as logged:
                self.done(self.store.put(BUCKET, "alice.shop.dead", value))
            self.assertIn("alice.shop.dead", [event.get("key") for event in logged])
        self.clock.pump([3] * 6)


class TakeOverTests(RedriveTestCase):
    """A task of a node that is there no more goes on."""

    def setUp(self) -> None:
        super().setUp()
        self.two = self.node()
        self.kill(*"abcdefgh")

    def test_stopped(self) -> None:
        """Another node goes on with the task of one that has stopped, and moves each message once."""
        self.start(max_per_second=2)
        self.clock.advance(1)
        self.queues.stop()
        self.assertEqual(self.counts(node=self.two)[0], 4)
        self.clock.pump([1] * 10)
        self.assertEqual(self.counts(node=self.two)[0], 4)
        self.clock.pump([1] * 12)
        self.assertEqual(self.bodies(node=self.two), list("abcdefgh"))
        self.assertEqual(self.tasks(self.two)[0].status, "completed")

    def test_died(self) -> None:
        """Also of one that died with messages in its hands."""
        for name in ("q", "dead"):
            self.one.replica(name)
        self.one.logs.held = True
        starting = self.leave(self.queues.start_redrive(HOME, "dead"))
        self.one.logs.go_on(1)  # the receive
        self.done(starting)
        self.one.logs.go_on(1)  # the first message is in the queue, and was not deleted
        self.assertEqual(self.counts("dead", self.two), (0, 8, 0))
        self.queues.stop()
        self.one.logs.waiting = []
        self.clock.pump([1] * 25)
        self.assertEqual(self.bodies(node=self.two), list("abcdefgh"))
        self.assertEqual(self.tasks(self.two)[0].status, "completed")

    def test_left_alone(self) -> None:
        """A node that has not heard that another works at a task leaves it alone when it tries to take it."""
        task = self.start(max_per_second=1)
        self.two.queues._redrives._begin(HOME, "dead", task.id)
        self.assertEqual(self.counts()[0], 1)
        self.assertEqual(self.two.queues._redrives._work, {})

    def test_one_takes_over(self) -> None:
        """Only one of several nodes goes on with it."""
        self.start(max_per_second=1)
        self.queues.stop()
        self.node()
        moved = []
        for _ in range(25):
            self.clock.advance(1)
            moved.append(self.counts(node=self.two)[0])
        self.assertEqual(moved[-1], 8)
        self.assertEqual(max(later - before for before, later in pairwise(moved)), 1)

    def test_not_taken_over(self) -> None:
        """A task whose node works at it, if slowly, is not taken over."""
        self.start(max_per_second=1)
        beats = []
        edit = self.two.queues._redrives._begin
        self.patch(self.two.queues._redrives, "_begin", lambda *one: beats.append(one) or edit(*one))  # type: ignore[func-returns-value]
        self.clock.pump([1] * 12)
        self.assertEqual(beats, [])
        self.assertEqual(self.status(self.two), ("completed", 8))

    def test_outage(self) -> None:
        """After an outage of the bus a task goes on, by whatever node."""
        self.start(max_per_second=2)
        for node in (self.one, self.two):
            node.bus.go_away()
        self.clock.pump([1] * 20)
        for node in (self.one, self.two):
            node.bus.come_back()
        self.clock.pump([1] * 30)
        self.assertEqual(self.bodies(), list("abcdefgh"))
        self.assertEqual(self.tasks(self.two)[0].status, "completed")

    def test_cancelled_meanwhile(self) -> None:
        """A task that was cancelled while no node worked at it moves nothing more."""
        task = self.start(max_per_second=2)
        self.queues.stop()
        self.done(self.two.queues.cancel_redrive(HOME, "dead", task.id))
        self.clock.pump([1] * 25)
        self.assertEqual(self.tasks(self.two)[0].status, "cancelled")
        self.assertEqual((self.counts(node=self.two)[0], self.counts("dead", self.two)), (2, (6, 0, 0)))

    def test_lost(self) -> None:
        """A node that was out of reach for so long that another one has taken its task works at it no more."""
        self.start(max_per_second=2)
        self.one.logs.held = True
        self.clock.pump([1] * 25)
        self.assertEqual((self.status(self.two)[0], self.counts("dead", self.two)), ("completed", (0, 0, 0)))
        self.one.logs.held = False
        self.one.logs.go_on()
        self.clock.pump([1] * 5)
        self.delete(*self.receive(10))
        self.kill("i")
        self.clock.pump([1] * 5)
        self.assertEqual(self.counts("dead"), (1, 0, 0))

    def test_gives_back(self) -> None:
        """What a node that stops had in its hands is there for the next one at once."""
        for name in ("q", "dead"):
            self.one.replica(name)
        dead = self.one.replica("q").log
        never: Deferred[int] = Deferred()
        self.patch(dead, "append", lambda *_: never)
        self.start()
        self.assertEqual(self.counts("dead", self.two), (0, 8, 0))
        self.queues.stop()
        self.assertEqual(self.counts("dead", self.two), (8, 0, 0))

    def test_bus_lost(self) -> None:
        """If the bus is lost in the middle the messages go back, and the task goes on later, at this node too."""
        for name in ("q", "dead"):
            self.one.replica(name)
        self.two.queues.stop()
        goal = self.one.replica("q").log
        failing: Deferred[int] = Deferred()
        self.patch(goal, "append", lambda *_: failing)
        self.start()
        failing.errback(BusUnavailable())
        self.assertEqual(self.counts("dead"), (8, 0, 0))
        del goal.append  # type: ignore[union-attr]
        self.clock.pump([1] * 20)
        self.assertEqual(self.bodies(), list("abcdefgh"))
        self.assertEqual(self.tasks()[0].status, "completed")

    def test_hands(self) -> None:
        """Messages are visible again before the task of whoever has taken them last is taken over."""
        self.assertLess(redrive._HIDDEN_MS, (redrive._LOST_SECONDS - redrive._BEAT_SECONDS) * 1000)
