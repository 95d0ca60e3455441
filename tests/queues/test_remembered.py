"""What a queue remembers for a while."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.queues import remembered
from flowgate.queues.remembered import WINDOW_NS, Origins, Remembered


class RememberedTests(SynchronousTestCase):
    """Values under keys."""

    def test_window(self) -> None:
        """A value is remembered for five minutes; putting another in its place does not make it longer."""
        known: Remembered[int] = Remembered()
        known.put("a", 1, 0)
        known.replace("a", 2)
        self.assertEqual(known.get("a", WINDOW_NS - 1), 2)
        self.assertIsNone(known.get("a", WINDOW_NS))
        self.assertEqual(len(known), 0)

    def test_dropped_and_put_again(self) -> None:
        """What is dropped and put again is remembered from the second time on."""
        known: Remembered[int] = Remembered()
        known.put("a", 1, 0)
        known.drop("a")
        known.put("a", 2, 10)
        self.assertEqual(known.get("a", WINDOW_NS), 2)
        self.assertIsNone(known.get("a", WINDOW_NS + 10))


class OriginsTests(SynchronousTestCase):
    """Places and numbers."""

    @settings(max_examples=200, deadline=None, database=None)
    @given(st.lists(st.tuples(st.sampled_from(("a", "a-b", "", "c")), st.integers(0, 3000) | st.integers(0, 10**17))))
    def test_once(self, origins: list[tuple[str, int]]) -> None:
        """Each origin is new once, also after what is remembered was written down and read."""
        known, seen = Origins(), set()
        for number, origin in enumerate(origins):
            if number == len(origins) // 2:
                again = Origins()
                again.recall([list(row) for row in known.rows()])
                self.assertEqual(again.rows(), known.rows())
                known = again
            self.assertEqual(known.add("-".join(map(str, origin)), number), origin not in seen)
            seen.add(origin)

    def test_other_forms(self) -> None:
        """Whatever is no place and number is an origin all the same."""
        known = Origins()
        for origin in ("", "-", "a", "a-", "a-b", "a-+1", "a-1e3", "a- 1", "a-" + "9" * 30, "a-٣"):
            self.assertTrue(known.add(origin, 0), origin)
            self.assertFalse(known.add(origin, 0), origin)

    def test_little_room(self) -> None:
        """A thousand origins that follow each other are one block."""
        known = Origins()
        for number in range(1 << 16):
            known.add(f"stream-{number}", 0)
        self.assertEqual(len(known), 64)

    def test_pruned(self) -> None:
        """Blocks beyond the last ones are forgotten five minutes after the last origin in them, and not before."""
        self.patch(remembered, "ORIGINS", 2)
        known = Origins()
        for number in range(4):
            known.add(f"a-{number << 10}", number)
        known.add("a-1", 50)
        self.assertFalse(known.add("a-0", WINDOW_NS + 49))
        self.assertEqual(len(known), 2)
        self.assertTrue(known.add(f"a-{1 << 10}", WINDOW_NS + 49))
