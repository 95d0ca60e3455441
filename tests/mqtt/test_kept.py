"""A value that one node keeps in the store."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import BusUnavailable, Conflict, Internal, MessageTooLarge, Refused
from flowgate.message import Entry
from flowgate.mqtt.kept import LATER_SECONDS, Kept
from flowgate.subscriber import Turn


class Store:
    """A store whose answers a test gives."""

    def __init__(self) -> None:
        self.puts: list[tuple[bytes, int, Deferred[int]]] = []
        self.entry: Entry | None = None

    def put(self, bucket: str, key: str, value: bytes, revision: int) -> Deferred[int]:
        self.puts.append((value, revision, Deferred()))
        return self.puts[-1][2]

    def get(self, bucket: str, key: str) -> Deferred[Entry | None]:
        got: Deferred[Entry | None] = Deferred()
        got.callback(self.entry)
        return got


class KeptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = Store()
        self.turn = Turn()
        self.clock = Clock()
        self.value = b"mine 0"
        self.done: list[str] = []
        self.lost: list[str | None] = []
        store: Any = self.store
        self.kept = Kept(
            store,
            "B",
            "k",
            7,
            lambda: self.value,
            lambda value: value.startswith(b"mine"),
            self.is_lost,
            self.turn,
            self.clock,
        )

    def is_lost(self, reason: Refused | None) -> None:
        self.lost.append(None if reason is None else reason.code)

    def change(self, value: bytes) -> None:
        self.value = value
        self.kept.changed(lambda: self.done.append(value.decode()))

    def answer(self, result: Any) -> None:
        waiting = self.store.puts[-1][2]
        (waiting.errback if isinstance(result, Exception) else waiting.callback)(result)
        self.turn.flush()

    def written(self) -> list[tuple[bytes, int]]:
        return [(value, revision) for value, revision, _ in self.store.puts]

    def test_once_a_read(self) -> None:
        """All that one read changes is one write, of the newest value, over the revision that is known."""
        self.change(b"mine 1")
        self.change(b"mine 2")
        self.assertEqual(self.written(), [])
        self.turn.flush()
        self.assertEqual(self.written(), [(b"mine 2", 7)])
        self.assertEqual(self.done, [])
        self.answer(8)
        self.assertEqual(self.done, ["mine 1", "mine 2"])
        self.assertEqual(self.kept.revision, 8)

    def test_one_at_a_time(self) -> None:
        """What changes during a write goes together into the next one."""
        self.change(b"mine 1")
        self.turn.flush()
        self.change(b"mine 2")
        self.change(b"mine 3")
        self.turn.flush()
        self.assertEqual(len(self.store.puts), 1)
        self.answer(8)
        self.assertEqual(self.done, ["mine 1"])
        self.assertEqual(self.written()[1:], [(b"mine 3", 8)])
        self.answer(9)
        self.assertEqual(self.done, ["mine 1", "mine 2", "mine 3"])

    def test_tried_again(self) -> None:
        """While the bus is away the write is tried again, and nobody is told before it is stored."""
        self.change(b"mine 1")
        self.turn.flush()
        self.answer(BusUnavailable())
        self.assertEqual(self.done, [])
        self.value = b"mine 2"
        self.clock.advance(1)
        self.assertEqual(self.written(), [(b"mine 1", 7), (b"mine 2", 7)])
        self.answer(8)
        self.assertEqual(self.done, ["mine 1"])

    def test_arrived_after_all(self) -> None:
        """A write whose answer was lost is recognized as ours, and the next one goes over it."""
        self.change(b"mine 1")
        self.turn.flush()
        self.answer(BusUnavailable())
        self.store.entry = Entry(b"mine 1", 8)
        self.clock.advance(1)
        self.answer(Conflict())
        self.clock.advance(1)
        self.assertEqual(self.written()[-1], (b"mine 1", 8))
        self.answer(9)
        self.assertEqual(self.done, ["mine 1"])
        self.assertEqual(self.lost, [])

    def test_lost(self) -> None:
        """If somebody else has written, that is told once, and nothing is written any more."""
        self.change(b"mine 1")
        self.turn.flush()
        self.store.entry = Entry(b"theirs", 9)
        self.answer(Conflict())
        self.assertEqual(self.lost, [None])
        self.change(b"mine 2")
        self.turn.flush()
        self.kept.changed_a_little()
        self.clock.advance(10)
        self.assertEqual(len(self.store.puts), 1)
        self.assertEqual(self.done, [])
        self.assertIsNone(self.successResultOf(self.kept.finish()))

    def test_removed(self) -> None:
        """If somebody has removed it, it is lost too."""
        self.change(b"mine 1")
        self.turn.flush()
        self.answer(Conflict())
        self.assertEqual(self.lost, [None])

    def test_a_little(self) -> None:
        """A small change is written within a second; sooner if another one is written anyway."""
        self.kept.changed_a_little()
        self.kept.changed_a_little()
        self.clock.advance(LATER_SECONDS / 2)
        self.assertEqual(self.written(), [])
        self.change(b"mine 1")
        self.turn.flush()
        self.answer(8)
        self.clock.advance(LATER_SECONDS)
        self.assertEqual(len(self.store.puts), 1)
        self.kept.changed_a_little()
        self.clock.advance(LATER_SECONDS)
        self.assertEqual(self.written()[1:], [(b"mine 1", 8)])

    def test_a_little_during_a_write(self) -> None:
        """A small change during a write is not forgotten."""
        self.change(b"mine 1")
        self.turn.flush()
        self.value = b"mine 2"
        self.kept.changed_a_little()
        self.answer(8)
        self.clock.advance(LATER_SECONDS)
        self.assertEqual(self.written()[1:], [(b"mine 2", 8)])

    def test_finish(self) -> None:
        """The end waits for a last write, behind the one under way."""
        self.change(b"mine 1")
        self.turn.flush()
        self.value = b"mine 2"
        self.kept.changed_a_little()
        over = self.kept.finish()
        self.assertNoResult(over)
        self.answer(8)
        self.assertNoResult(over)
        self.assertEqual(self.written()[1:], [(b"mine 2", 8)])
        self.answer(9)
        self.assertIsNone(self.successResultOf(over))

    def test_finished_already(self) -> None:
        """Where nothing has changed the end writes nothing."""
        self.assertIsNone(self.successResultOf(self.kept.finish()))
        self.change(b"mine 1")
        self.turn.flush()
        self.answer(8)
        self.assertIsNone(self.successResultOf(self.kept.finish()))
        self.assertEqual(len(self.store.puts), 1)

    def test_fault(self) -> None:
        """A refusal for another reason is logged, and counts as lost: going on would pretend that it is kept."""
        self.change(b"mine 1")
        self.turn.flush()
        self.answer(Internal("no"))
        self.assertEqual(self.lost, ["internal"])
        self.assertEqual(len(self.flushLoggedErrors(Internal)), 1)

    def test_too_large(self) -> None:
        """What the store does not take is told with its reason."""
        self.change(b"mine 1")
        self.turn.flush()
        self.answer(MessageTooLarge())
        self.assertEqual(self.lost, ["message_too_large"])

    def test_cannot_be_told(self) -> None:
        """A value that cannot be encoded is a fault of ours: it is logged, and counts as lost."""
        self.patch(self, "value", None)
        self.kept._encode = lambda: self.value.upper()
        self.kept.changed()
        self.turn.flush()
        self.assertEqual(self.lost, ["internal"])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_abandon(self) -> None:
        """What is abandoned during a write calls nobody."""
        self.change(b"mine 1")
        self.turn.flush()
        self.kept.abandon()
        self.answer(8)
        self.assertEqual((self.done, self.lost), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])
