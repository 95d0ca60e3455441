"""Giving a new subscription what is retained."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate import replay
from flowgate.bus.memory_retained import MemoryRetained
from flowgate.errors import BusUnavailable, Internal
from flowgate.gateway import Gateway, Interest
from flowgate.message import Cursor, RetainedPage, Run
from flowgate.replay import LATE_SECONDS, Place, Replay
from flowgate.topics import Namespace, Topic

SHOP = Namespace("alice", "shop")
OTHER = Namespace("alice", "other")


class ReplayTests(SynchronousTestCase):
    """A subscriber that the test plays, over retained messages in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryRetained(self.clock)
        self.reads: list[tuple[str, int]] = []
        self.given: list[tuple[str, bytes, bool, Place | None]] = []
        self.ends: list[object] = []
        self.appetite = 10**9
        self.page_size = 2
        self.leaving: Replay | None = None

    def retained(self, interest: Interest, after: int = 0) -> Deferred[RetainedPage]:
        """What stands for the gateway."""
        self.reads.append((interest.filter, after))
        return self.store.page(interest.namespace, interest.filter, after, self.page_size)

    def give(self, run: Run, full: bool, place: Place | None) -> None:
        self.appetite -= 1
        if self.leaving is not None:
            self.leaving.stop()
        self.given.append((run.topic.name, run.payloads[0], full, place))

    def settle(self) -> None:
        self.clock.pump([0] * 20)

    def put(self, name: str, payload: bytes = b"1", place: int = 0, namespace: Namespace = SHOP) -> None:
        self.store.put(Topic(namespace, name), payload, 1, None, Cursor("e", place) if place else None)
        self.settle()

    def replay(self, *filters: str | Interest, **more: Any) -> Replay:
        interests = [Interest(SHOP, one, False) if isinstance(one, str) else one for one in filters]
        made = Replay(
            cast(Gateway, self),
            interests,
            self.clock,
            lambda: self.appetite <= 0,
            self.give,
            self.ends.append,
            **more,
        )
        self.addCleanup(made.stop)
        return made

    def started(self, *filters: str | Interest, **more: Any) -> Replay:
        made = self.replay(*filters, **more)
        made.start()
        self.settle()
        return made

    def names(self) -> list[str]:
        return [name for name, *_ in self.given]

    def live(self, name: str, retain: bool = True, namespace: Namespace = SHOP) -> Run:
        return Run(Topic(namespace, name), [b"live"], retain=retain)

    # -- pages

    def test_all(self) -> None:
        """Everything is given, in order, each with the place to go on behind it; the end is told once."""
        for number in range(5):
            self.put(f"a/{number}")
        self.put("b")
        self.started("a/#")
        self.assertEqual(
            self.given,
            [(f"a/{n}", b"1", False, Place(0, n + 1) if n < 4 else None) for n in range(5)],
        )
        self.assertEqual(self.ends, [None])

    def test_nothing(self) -> None:
        """Where nothing is retained the end is all there is."""
        self.started("a/#")
        self.assertEqual((self.given, self.ends), ([], [None]))

    def test_pace(self) -> None:
        """No more is given, and no page read ahead, while the subscriber is behind."""
        for number in range(5):
            self.put(f"a/{number}")
        self.appetite = 1
        made = self.started("a/#")
        self.assertEqual((self.names(), len(self.reads)), (["a/0"], 1))
        made.resume()
        self.settle()
        self.assertEqual(self.names(), ["a/0"])
        self.appetite = 2
        made.resume()
        self.settle()
        self.assertEqual((self.names(), self.ends), (["a/0", "a/1", "a/2"], []))
        self.appetite = 10
        made.resume()
        self.settle()
        self.assertEqual((len(self.names()), self.ends), (5, [None]))

    def test_several_filters(self) -> None:
        """Filters are read one after the other; what several match is given for the first, in its form of the name."""
        for name in ("a/1", "b", "a/2"):
            self.put(name)
        self.put("b", namespace=OTHER)
        self.started("a/+", Interest(SHOP, "#", True), Interest(OTHER, "#", False))
        self.assertEqual(
            [(name, full, place) for name, _, full, place in self.given],
            [("a/1", False, Place(0, 1)), ("a/2", False, Place(1, 0)), ("b", True, Place(1, 2)), ("b", False, None)],
        )

    def test_from_the_middle(self) -> None:
        """A replay that begins at a place gives what comes behind it."""
        for name in ("a", "b", "c"):
            self.put(f"1/{name}")
            self.put(f"2/{name}")
        self.started("1/#", "2/#", begin=Place(1, 2))
        self.assertEqual(self.names(), ["2/b", "2/c"])

    # -- what happens meanwhile

    def test_superseded(self) -> None:
        """What was retained before a live message that the subscriber was given does not follow it."""
        for name in ("a", "b", "c", "d"):
            self.put(name)
        made = self.replay("#")
        self.assertTrue(made.live(self.live("a")))
        self.appetite = 1
        made.start()
        self.settle()
        made.live(self.live("c"))
        made.live(self.live("d", retain=False))
        made.live(self.live("d", namespace=OTHER))
        self.appetite = 10
        made.resume()
        self.settle()
        self.assertEqual(self.names(), ["b", "d"])

    def test_expected(self) -> None:
        """What comes from the subscription's history is left out."""
        self.put("a", place=5)
        self.put("b", place=6)
        self.put("c")
        self.started("#", expected=lambda topic, place: place == Cursor("e", 6))
        self.assertEqual(self.names(), ["a", "c"])

    def test_too_many_live_messages(self) -> None:
        """A subscriber that reads too slowly for what is published meanwhile is told so."""
        self.patch(replay, "MAX_TOPICS", 2)
        made = self.replay("a/#")
        took = [made.live(self.live(name)) for name in ("a/1", "a/2", "a/1", "b", "a/3")]
        self.assertEqual(took, [True, True, True, True, False])

    def test_late(self) -> None:
        """What another node had under way when the subscription began is found by looking once more."""
        for name in ("a", "b"):
            self.put(name)
        made = self.started("#")
        self.put("a", b"2")
        self.put("c")
        self.put("d")
        made.live(self.live("d"))
        self.assertEqual(self.names(), ["a", "b"])
        self.clock.advance(LATE_SECONDS)
        self.settle()
        self.assertEqual([(name, payload) for name, payload, *_ in self.given[2:]], [("a", b"2"), ("c", b"1")])
        self.assertEqual((self.ends, self.clock.getDelayedCalls()), ([None], []))

    def test_looks_once(self) -> None:
        """After that it is over, and live messages are no concern any more."""
        made = self.started("#")
        self.clock.advance(LATE_SECONDS)
        self.settle()
        self.patch(replay, "MAX_TOPICS", 0)
        self.assertTrue(made.live(self.live("a")))
        self.put("a")
        self.clock.advance(10 * LATE_SECONDS)
        self.assertEqual(self.given, [])

    # -- endings

    def test_stopped(self) -> None:
        """Whoever stops is given no more, at whatever moment, and nothing is left behind."""
        for number in range(3):
            self.put(f"a/{number}")
        for moment in ("before", "page", "paused", "late"):
            self.given.clear()
            self.ends.clear()
            self.appetite = 1 if moment == "paused" else 10
            made = self.replay("a/#")
            if moment != "before":
                made.start()
            if moment != "page":
                self.settle()
            made.stop()
            made.stop()
            given = len(self.given)
            if moment == "before":
                made.start()
            made.resume()
            self.settle()
            self.clock.advance(LATE_SECONDS)
            self.assertEqual((len(self.given), self.clock.getDelayedCalls()), (given, []), moment)
            self.assertEqual(self.ends, [None] if moment == "late" else [], moment)

    def test_stopped_while_given(self) -> None:
        """So is whoever stops because of what it is given."""
        for number in range(3):
            self.put(f"a/{number}")
        self.leaving = made = self.replay("a/#")
        made.start()
        self.settle()
        self.assertEqual((self.names(), self.ends), (["a/0"], []))

    def test_bus_away(self) -> None:
        """If the bus goes away in the middle the reason is told, and no more is given."""
        for number in range(5):
            self.put(f"a/{number}")
        self.appetite = 1
        made = self.started("a/#")
        self.store.go_away()
        self.appetite = 10
        made.resume()
        self.settle()
        [reason] = self.ends
        self.assertIsInstance(reason, BusUnavailable)
        self.assertEqual((self.names(), self.clock.getDelayedCalls()), (["a/0", "a/1"], []))

    def test_bus_away_late(self) -> None:
        """If the bus is away when it is to be looked at once more, that is done when it is back."""
        self.started("#")
        self.store.go_away()
        self.clock.advance(LATE_SECONDS)
        self.store.come_back()
        self.put("a")
        self.clock.advance(LATE_SECONDS)
        self.settle()
        self.assertEqual((self.names(), self.ends), (["a"], [None]))

    def test_fault_of_ours(self) -> None:
        """What nobody expected is logged, and the subscriber learns no details."""
        self.patch(self.store, "page", lambda *_: fail(RuntimeError("secret")))
        self.started("#")
        [reason] = self.ends
        self.assertIsInstance(reason, Internal)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
