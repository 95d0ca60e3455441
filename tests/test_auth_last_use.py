"""When keys were last used."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.last_use import AT_ONCE, LAST_USE, LastUse
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import BusUnavailable

NOW = 1_800_000_000


class LastUseTests(SynchronousTestCase):
    """Two nodes."""

    def setUp(self) -> None:
        self.now = float(NOW)
        self.store = MemoryStore()
        self.puts = 0
        put = self.store.put

        def counted(*arguments: Any) -> Deferred[int]:
            self.puts += 1
            return put(*arguments)

        self.patch(self.store, "put", counted)
        self.one, self.two = self.node(), self.node()

    def node(self) -> LastUse:
        node = LastUse(self.store, lambda: self.now)
        self.successResultOf(Deferred.fromCoroutine(node.start()))
        return node

    def test_known_everywhere(self) -> None:
        """A use is known on every node, and on one that starts later."""
        self.assertIsNone(self.one.of("k"))
        self.one.note("k")
        self.assertEqual([node.of("k") for node in (self.one, self.two, self.node())], [NOW] * 3)

    def test_once_a_minute(self) -> None:
        """However often a key is used, on however many nodes, it is written once a minute."""
        for _ in range(120):
            for _ in range(20):
                self.one.note("k")
                self.two.note("k")
            self.now += 1
        self.assertEqual(self.puts, 2)
        self.assertEqual(self.one.of("k"), NOW + 60)

    def test_keys_are_apart(self) -> None:
        """The use of one key does not hide that of another."""
        self.one.note("a")
        self.now += 5
        self.one.note("b")
        self.assertEqual((self.two.of("a"), self.two.of("b")), (NOW, NOW + 5))

    def test_bus_away(self) -> None:
        """What could not be written is tried again with the next use, and disturbs nobody."""
        with self.subTest("away"):
            self.patch(self.store, "put", lambda *_: fail(BusUnavailable()))
            self.one.note("k")
            self.assertIsNone(self.one.of("k"))
        self.patch(self.store, "put", MemoryStore.put.__get__(self.store))
        self.one.note("k")
        self.assertEqual(self.two.of("k"), NOW)

    def test_unexpected(self) -> None:
        """Any other failure is logged."""
        self.patch(self.store, "put", lambda *_: fail(RuntimeError("broken")))
        self.one.note("k")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_bounded(self) -> None:
        """While the bus does not answer no more than so many writes wait for it."""
        waiting: list[Deferred[int]] = []

        def put(*_: object) -> Deferred[int]:
            waiting.append(Deferred())
            return waiting[-1]

        self.patch(self.store, "put", put)
        for number in range(3 * AT_ONCE):
            self.one.note(f"k{number}")
        self.assertEqual(len(waiting), AT_ONCE)
        for one in waiting:
            one.callback(1)
        self.one.note("later")
        self.assertEqual(len(waiting), AT_ONCE + 1)

    def test_forgotten(self) -> None:
        """What was removed is gone on every node."""
        self.one.note("k")
        self.successResultOf(self.one.forget("k"))
        self.assertEqual((self.one.of("k"), self.two.of("k"), self.node().of("k")), (None, None, None))

    def test_unreadable(self) -> None:
        """A time that is none is logged and passed over."""
        with capturedLogs() as logged:
            self.successResultOf(self.store.put(LAST_USE, "k", b"yesterday"))
        self.assertEqual(len(logged), 2)  # two nodes
        self.assertIsNone(self.one.of("k"))
