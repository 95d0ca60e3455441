"""Changing a record that others change too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from flowgate.auth.changing import change
from flowgate.bus.memory_store import MemoryStore
from flowgate.errors import Conflict, NotFound


class _Text:
    def __init__(self, text: str) -> None:
        self.text = text

    def to_json(self) -> bytes:
        return self.text.encode()


class ChangeTests(SynchronousTestCase):
    """A store in which somebody else may be faster."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.store.put("B", "k", b"a")
        self.others: list[Callable[[], Any]] = []

    def change(self) -> Deferred[tuple[_Text, bytes]]:
        def make(record: _Text) -> _Text:
            if self.others:
                self.others.pop()()
            return _Text(record.text + "!")

        work = change(self.store, "B", "k", lambda value: _Text(value.decode()), make, "there is none")
        return Deferred.fromCoroutine(work)

    def stored(self) -> bytes | None:
        entry = self.successResultOf(self.store.get("B", "k"))
        return None if entry is None else entry.value

    def test_alone(self) -> None:
        """The record is what was made of it."""
        self.assertEqual(self.successResultOf(self.change())[1], b"a!")
        self.assertEqual(self.stored(), b"a!")

    def test_others_are_faster(self) -> None:
        """What somebody else writes meanwhile is not lost: the change is made again, to that."""
        self.others = [lambda: self.store.put("B", "k", b"c"), lambda: self.store.put("B", "k", b"b")]
        self.successResultOf(self.change())
        self.assertEqual(self.stored(), b"c!")

    def test_removed_meanwhile(self) -> None:
        """What is removed meanwhile does not come back."""
        self.others = [lambda: self.store.delete("B", "k")]
        self.failureResultOf(self.change(), NotFound)
        self.assertIsNone(self.stored())

    def test_faster_each_time(self) -> None:
        """It gives up in the end."""
        self.others = [lambda: self.store.put("B", "k", b"x")] * 100
        self.failureResultOf(self.change(), Conflict)
        self.assertEqual(self.stored(), b"x")

    def test_none(self) -> None:
        """What there is not cannot be changed."""
        self.store.delete("B", "k")
        self.assertIn("there is none", str(self.failureResultOf(self.change(), NotFound).value))
