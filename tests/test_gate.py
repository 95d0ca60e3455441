"""Calls in turn."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import BusUnavailable
from flowgate.gate import Gate


class GateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begun: list[Deferred[int]] = []

    def call(self) -> Deferred[int]:
        self.begun.append(Deferred())
        return self.begun[-1]

    def test_limit(self) -> None:
        """At most so many are under way; the next begins when one ends, in order."""
        gate = Gate(2)
        results = [gate.run(self.call) for _ in range(4)]
        self.assertEqual(len(self.begun), 2)
        self.begun[1].callback(1)
        self.assertEqual(self.successResultOf(results[1]), 1)
        self.assertEqual(len(self.begun), 3)
        self.begun[0].errback(BusUnavailable())
        self.failureResultOf(results[0], BusUnavailable)
        self.assertEqual(len(self.begun), 4)
        self.begun[2].callback(2)
        self.begun[3].callback(3)
        self.assertEqual([self.successResultOf(result) for result in results[2:]], [2, 3])

    def test_many_at_once(self) -> None:
        """Thousands may wait, and end at once, well or badly."""
        gate = Gate(1)
        first = gate.run(self.call)
        results = [gate.run(lambda: fail(BusUnavailable())) for _ in range(5000)]
        results += [gate.run(lambda: succeed(0)) for _ in range(5000)]
        self.begun[0].callback(0)
        self.successResultOf(first)
        for result in results[:5000]:
            self.failureResultOf(result, BusUnavailable)
        self.assertEqual([self.successResultOf(result) for result in results[5000:]], [0] * 5000)

    def test_raises(self) -> None:
        """A call that raises fails, and the gate goes on."""
        gate = Gate(1)

        def raises() -> Deferred[int]:
            raise BusUnavailable

        self.failureResultOf(gate.run(raises), BusUnavailable)
        self.assertEqual(self.successResultOf(gate.run(lambda: succeed(1))), 1)

    def test_run_from_within(self) -> None:
        """Who is told the end of one call may make the next."""
        gate = Gate(1)
        found: list[int] = []

        def again(number: int) -> None:
            found.append(number)
            if number < 5000:
                gate.run(lambda: succeed(number + 1)).addCallback(again)

        gate.run(self.call).addCallback(again)
        gate.run(lambda: succeed(-1))
        self.begun[0].callback(0)
        self.assertEqual(found, list(range(5001)))

    def test_cancel(self) -> None:
        """Cancelling cancels a call under way, and keeps one that waits from being made."""
        gate = Gate(1)
        first, second, third = (gate.run(self.call) for _ in range(3))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(len(self.begun), 2)
        self.begun[1].callback(3)
        self.assertEqual(self.successResultOf(third), 3)

    def test_cancelled_in_vain(self) -> None:
        """A call that does not take notice of being cancelled keeps its place until it ends."""
        gate = Gate(1)
        stubborn: Deferred[int] = Deferred(lambda deferred: deferred.callback(1))
        first = gate.run(lambda: stubborn)
        second = gate.run(self.call)
        first.cancel()
        self.assertEqual(self.successResultOf(first), 1)
        self.assertEqual(len(self.begun), 1)
        self.begun[0].callback(2)
        self.assertEqual(self.successResultOf(second), 2)
