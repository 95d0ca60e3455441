"""Deadlines of very many connections on one delayed call."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.timers import Wheel


class Item:
    """Notes when its deadlines pass, and then does what the test wants."""

    def __init__(self, clock: Clock, then: Callable[[], object] | None = None) -> None:
        self._clock = clock
        self.then = then
        self.times: list[float] = []

    def due(self) -> None:
        self.times.append(self._clock.seconds())
        if self.then is not None:
            self.then()


class WheelTests(SynchronousTestCase):
    """Never early, at most a second late."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.3)
        self.wheel = Wheel(self.clock)

    def item(self, then: Callable[[], object] | None = None) -> Item:
        return Item(self.clock, then)

    def run_for(self, seconds: float, step: float = 0.05) -> None:
        self.clock.pump([step] * round(seconds / step))

    def test_never_early_and_at_most_a_second_late(self) -> None:
        """Whatever the phase of the clock and of the deadline."""
        for delay in (0, 0.01, 0.2, 0.69, 0.7, 0.71, 1, 1.5, 2.99, 3, 10):
            for phase in (0, 0.3, 0.5, 0.999):
                self.clock.advance(phase)
                item, asked = self.item(), self.clock.seconds()
                self.wheel.set(item, delay)
                self.run_for(delay + 1.2)
                self.assertEqual(len(item.times), 1, (delay, phase))
                late = item.times[0] - asked - delay
                self.assertTrue(0 <= late <= 1.051, (delay, phase, late))

    def test_once(self) -> None:
        """A deadline passes once."""
        item = self.item()
        self.wheel.set(item, 1)
        self.run_for(10)
        self.assertEqual(len(item.times), 1)

    def test_later(self) -> None:
        """A deadline that was moved away passes at its new time only."""
        item = self.item()
        self.wheel.set(item, 1)
        self.wheel.set(item, 5)
        self.run_for(4.9)
        self.assertEqual(item.times, [])
        self.run_for(1.2)
        self.assertEqual(len(item.times), 1)

    def test_sooner(self) -> None:
        """A deadline that was moved nearer passes at its new time only."""
        item = self.item()
        self.wheel.set(item, 5)
        self.wheel.set(item, 1)
        self.run_for(10)
        self.assertEqual(len(item.times), 1)
        self.assertTrue(1001.3 <= item.times[0] <= 1002.4, item.times)

    def test_cancel(self) -> None:
        """A cancelled deadline does not pass; cancelling what has none, or twice, does nothing."""
        item, other = self.item(), self.item()
        self.wheel.set(item, 1)
        self.wheel.set(other, 1)
        self.wheel.cancel(item)
        self.wheel.cancel(item)
        self.wheel.cancel(self.item())
        self.run_for(3)
        self.assertEqual((len(item.times), len(other.times)), (0, 1))

    def test_one_delayed_call(self) -> None:
        """A thousand deadlines are one delayed call, and none is left when they have passed."""
        items = [self.item() for _ in range(1000)]
        for index, item in enumerate(items):
            self.wheel.set(item, index / 100)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.run_for(12)
        self.assertEqual({len(item.times) for item in items}, {1})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_order(self) -> None:
        """Deadlines pass in the order of their seconds."""
        passed: list[int] = []
        for delay in (3, 1, 2):
            self.wheel.set(self.item(lambda delay=delay: passed.append(delay)), delay)  # type: ignore[misc]
        self.run_for(5)
        self.assertEqual(passed, [1, 2, 3])

    def test_starts_again(self) -> None:
        """A wheel that had nothing to do for a while keeps new deadlines."""
        for _ in range(3):
            item = self.item()
            self.wheel.set(item, 1)
            self.run_for(2.5)
            self.assertEqual(len(item.times), 1)
            self.clock.advance(100)

    def test_set_again_when_due(self) -> None:
        """An item that sets itself again, as a keep alive does, is called again and again."""
        item = self.item()
        item.then = lambda: self.wheel.set(item, 2)
        self.wheel.set(item, 2)
        self.run_for(20)
        self.assertTrue(6 <= len(item.times) <= 10, item.times)
        self.assertTrue(all(later - sooner >= 2 for sooner, later in zip(item.times, item.times[1:], strict=False)))

    def test_at_once_when_due(self) -> None:
        """No time at all, asked for at a full second by an item that is due then, is a second at most and not never."""
        item = self.item()
        self.wheel.set(item, 0.7)
        item.then = lambda: self.wheel.set(item, 0) if len(item.times) == 1 else None
        self.clock.advance(0.7)
        self.assertEqual(len(item.times), 1)
        self.run_for(1.1)
        self.assertEqual(len(item.times), 2)

    def test_in_the_past(self) -> None:
        """A deadline that has passed already is due at the next second."""
        keeps_running, item = self.item(), self.item()
        self.wheel.set(keeps_running, 100)
        self.run_for(5)
        self.wheel.set(item, -3)
        self.assertEqual(item.times, [])
        self.run_for(1.1)
        self.assertEqual(len(item.times), 1)

    def test_long_pause(self) -> None:
        """Behind a pause of the whole process every deadline in it passes, though the first ones set new ones."""
        items = [self.item() for _ in range(10)]
        for index, item in enumerate(items):
            item.then = lambda item=item: self.wheel.set(item, 50)
            self.wheel.set(item, index + 1)
        self.clock.advance(7.5)
        self.assertEqual([len(item.times) for item in items], [1] * 6 + [0] * 4)
        self.run_for(4)
        self.assertEqual([len(item.times) for item in items], [1] * 10)

    def test_cancelled_by_another(self) -> None:
        """An item cancelled by another that is due in the same second is not called."""
        second = self.item()
        first = self.item(lambda: self.wheel.cancel(second))
        self.wheel.set(first, 1)
        self.wheel.set(second, 1)
        self.run_for(3)
        self.assertEqual((len(first.times), second.times), (1, []))

    def test_moved_by_another(self) -> None:
        """An item moved by another that is due in the same second is called at its new time only."""
        second = self.item()
        first = self.item(lambda: self.wheel.set(second, 5))
        self.wheel.set(first, 1)
        self.wheel.set(second, 1)
        self.run_for(4)
        self.assertEqual((len(first.times), second.times), (1, []))
        self.run_for(4)
        self.assertEqual(len(second.times), 1)

    def test_fault(self) -> None:
        """An item that fails costs those in the same second and behind it nothing; its fault is logged."""

        def fail() -> None:
            raise RuntimeError("a fault")

        others = [self.item(), self.item()]
        self.wheel.set(self.item(fail), 1)
        self.wheel.set(others[0], 1)
        self.wheel.set(others[1], 3)
        self.run_for(5)
        self.assertEqual([len(other.times) for other in others], [1, 1])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_stop(self) -> None:
        """A stopped wheel leaves no delayed call and no deadline."""
        item = self.item()
        self.wheel.set(item, 1)
        self.wheel.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.run_for(3)
        self.assertEqual(item.times, [])

    def test_stop_without_deadline(self) -> None:
        """Stopping a wheel that never ran, or twice, does nothing."""
        self.wheel.stop()
        self.wheel.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_when_due(self) -> None:
        """A wheel that is stopped by an item that is due calls no other one and runs no further."""
        others = [self.item(), self.item()]
        self.wheel.set(self.item(self.wheel.stop), 1)
        self.wheel.set(others[0], 1)
        self.wheel.set(others[1], 2)
        self.run_for(5)
        self.assertEqual([other.times for other in others], [[], []])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_starts_again_when_due(self) -> None:
        """A wheel that an item stops, and then gives a deadline, runs on with one delayed call."""
        other = self.item()

        def restart() -> None:
            self.wheel.stop()
            self.wheel.set(other, 3)

        self.wheel.set(self.item(restart), 1)
        self.run_for(2)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.run_for(4.5)
        self.assertEqual(len(other.times), 1)
