"""Queues that the configuration file declares."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.memory_queue_logs import MemoryQueueLogs
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import InvalidParameter, InvalidTopic, StartError
from flowgate.queues.declared import MEMBERS, DeclaredQueue, declare
from flowgate.queues.model import QueueConfig, QueueDescription
from flowgate.queues.service import Queues
from flowgate.topics import Namespace

HOME = Namespace("alice", "shop")


def declared(name: str, **table: object) -> DeclaredQueue:
    return DeclaredQueue.parse({"user": "alice", "app": "shop", "name": name, **table})


class ParseTests(SynchronousTestCase):
    """One table of the file."""

    def test_members(self) -> None:
        """A declaration has the members that REST has, and three that say which queue is meant."""
        config = QueueConfig.parse("q.fifo", {}).members()
        self.assertEqual(set(MEMBERS), {"user", "app", "name", "subscriptions", "aws", *config})

    def test_values(self) -> None:
        """What is declared is kept as it was written; filters become full ones, each once."""
        found = declared("q", delay=5, subscriptions=["a/#", "alice_shop_a/#", "bob_cafe_x"])
        self.assertEqual((found.home, found.name, found.members), (HOME, "q", {"delay": 5}))
        self.assertEqual(found.subscriptions, ("alice_shop_a/#", "alice_shop_bob_cafe_x"))
        self.assertIsNone(declared("q").subscriptions)

    def test_wrong(self) -> None:
        """A declaration that could not be carried out is refused."""
        for table, kind in (
            ({"delay": 901}, InvalidParameter),
            ({"dealy": 1}, InvalidParameter),
            ({"user": "a_b"}, InvalidParameter),
            ({"app": 5}, InvalidParameter),
            ({"name": "a b"}, InvalidParameter),
            ({"subscriptions": "a"}, InvalidParameter),
            ({"subscriptions": [5]}, InvalidParameter),
            ({"subscriptions": ["a#"]}, InvalidTopic),
            ({"subscriptions": ["$SYS/x"]}, InvalidParameter),
        ):
            whole = {"user": "alice", "app": "shop", "name": "q", **table}
            self.assertRaises(kind, DeclaredQueue.parse, whole)


class DeclareTests(SynchronousTestCase):
    """What becomes of them at the start."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.logs = MemoryQueueLogs(self.clock)
        self.queues = Queues(self.logs, MemoryStore(), b"master secret", self.clock, lambda: 1_800_000_000.0)
        self.done(self.queues.start())
        self.addCleanup(self.queues.stop)

    def done(self, deferred: Deferred[Any]) -> Any:
        for _ in range(5):
            self.clock.advance(0)
        return self.successResultOf(deferred)

    def declare(self, *queues: DeclaredQueue) -> None:
        self.done(declare(self.queues, queues))

    def found(self, name: str) -> QueueDescription:
        description: QueueDescription = self.done(self.queues.describe(HOME, name))
        return description

    def sentence(self, *queues: DeclaredQueue) -> str:
        refused = declare(self.queues, queues)
        self.clock.advance(0)
        return str(self.failureResultOf(refused, StartError).value)

    def test_made(self) -> None:
        """A queue that is not there is made."""
        self.declare(declared("q", visibility=60, tags={"a": "b"}))
        self.assertEqual(self.found("q").config, QueueConfig(visibility=60, tags={"a": "b"}))

    def test_order(self) -> None:
        """A dead-letter queue is made before those that need it, wherever it stands."""
        self.declare(
            declared("a", dead_letter={"queue": "b"}),
            declared("b", dead_letter={"queue": "c"}),
            declared("c"),
        )
        self.assertEqual(self.queues.sources(HOME, "c"), ["b"])
        self.assertEqual(self.queues.sources(HOME, "b"), ["a"])

    def test_same_names_elsewhere(self) -> None:
        """The dead-letter queue is the one of the same application."""
        other = {"user": "bob", "app": "shop", "name": "dead"}
        sentence = self.sentence(declared("q", dead_letter={"queue": "dead"}), DeclaredQueue.parse(other))
        self.assertIn("q of alice/shop", sentence)
        self.assertIn("dead", sentence)

    def test_again(self) -> None:
        """What is as declared is left alone, with what others have noted at it."""
        self.declare(declared("q", visibility=60))
        self.done(self.queues.change(HOME, "q", {"tags": {"a": "b"}, "aws": {"Policy": "{}"}}))
        before = self.found("q")
        self.declare(declared("q", visibility=60))
        self.assertEqual(self.found("q"), before)

    def test_changed(self) -> None:
        """What differs becomes as the file says, with the default for what it does not say; notes stay."""
        self.declare(declared("q", visibility=60, delay=5))
        self.done(self.queues.change(HOME, "q", {"tags": {"a": "b"}, "retention": 60}))
        self.declare(declared("q", visibility=50))
        self.assertEqual(self.found("q").config, QueueConfig(visibility=50, tags={"a": "b"}))
        self.declare(declared("q", tags={}))
        self.assertEqual(self.found("q").config, QueueConfig())

    def test_subscriptions(self) -> None:
        """The queue is subscribed to just what is declared; where nothing is, nothing is changed."""
        self.declare(declared("q", subscriptions=["a", "b"]))
        self.assertEqual(self.found("q").subscriptions, ("alice_shop_a", "alice_shop_b"))
        self.declare(declared("q"))
        self.assertEqual(self.found("q").subscriptions, ("alice_shop_a", "alice_shop_b"))
        self.declare(declared("q", subscriptions=["b", "c"]))
        self.assertEqual(self.found("q").subscriptions, ("alice_shop_b", "alice_shop_c"))
        self.declare(declared("q", subscriptions=[]))
        self.assertEqual(self.found("q").subscriptions, ())

    def test_impossible(self) -> None:
        """A queue that cannot be had stops the start, and is named with the reason."""
        sentence = self.sentence(declared("q", dead_letter={"queue": "nowhere"}))
        self.assertIn("q of alice/shop", sentence)
        self.assertIn("nowhere", sentence)

    def test_circle(self) -> None:
        """Dead letters that go in a circle have no queue to begin with."""
        a, b = declared("a", dead_letter={"queue": "b"}), declared("b", dead_letter={"queue": "a"})
        self.assertIn("there is no queue", self.sentence(a, b))

    def test_bus_away(self) -> None:
        """A bus that is away stops the start as well, with its reason."""
        self.logs.go_away()
        self.assertIn("bus", self.sentence(declared("q")))
