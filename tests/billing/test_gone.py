"""Who goes before there is an answer pays all the same, and nobody waits for units that do not come."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from flowgate.billing.account import Account
from flowgate.billing.plans import Plan
from flowgate.errors import BusUnavailable
from flowgate.gate import shielded
from flowgate.message import Stored
from flowgate.queues.model import Outgoing
from flowgate.queues.paying import send_paid
from tests.billing.test_calls import sent
from tests.billing.test_guard import GuardCase
from tests.billing.world import FREE

BIG = Plan("big", units=1000)


def go(waiting: Deferred[Any]) -> None:
    """Wait no longer, as a request does whose client has gone."""
    waiting.addErrback(lambda _: None)
    waiting.cancel()


class ClientTests(GuardCase):
    """Clients that go."""

    def test_publisher(self) -> None:
        """A message that is stored although its publisher has gone is paid for; one that is not is given back."""
        for stored in (True, False):
            (node,) = self.make()
            self.outcomes([node.publish()])
            real = self.world.bus.publish_one

            def slow(*arguments: Any, stored: bool = stored, real: Any = real, **options: Any) -> Deferred[Stored]:
                if stored:
                    real(*arguments, **options)
                return Deferred()

            self.world.bus.publish_one = slow  # type: ignore[method-assign]
            published = [node.publish(), node.publish(message_id="k")]
            self.world.settle()
            for one in published:
                go(one)
            self.world.bus.publish_one = real  # type: ignore[method-assign]
            self.world.pass_(13)
            self.assertEqual((self.world.stored(), node.usage().used), (3, 3) if stored else (1, 1))
            self.assertEqual(self.outcomes([node.publish() for _ in range(10)])[0], 7 if stored else 9)

    def test_publishers(self) -> None:
        """Of many that have gone, between many changes of the record, one look at the stream tells."""
        (node,) = self.make(BIG)
        self.outcomes([node.publish()])
        real = self.world.bus.publish_one

        def slow(*arguments: Any, **options: Any) -> Deferred[Stored]:
            real(*arguments, **options)
            return Deferred()

        self.world.bus.publish_one = slow  # type: ignore[method-assign]
        for _ in range(20):
            published = node.publish()
            self.world.settle()
            go(published)
            node.usage()
        self.assertGreater(len(node.billing.purse("alice").tags), 20)
        self.world.pass_(13)
        self.assertEqual(node.usage().used, 21)
        self.assertLess(len(node.billing.purse("alice").tags), 4)

    def test_sender(self) -> None:
        """What is sent to a queue is paid for once it is stored, whether there is one bill for all or several."""
        for count in (1, 2):
            (node,) = self.make(BIG)
            self.outcomes([node.publish() for _ in range(10)])
            allowance = node.allowance()
            body = "x" * (1 if count == 1 else 5000)
            answer: Deferred[list[Any]] = Deferred()

            def send(_: object, answer: Deferred[list[Any]] = answer) -> Deferred[list[Any]]:
                return answer

            sending = Deferred.fromCoroutine(send_paid(allowance, [Outgoing(body)], send))
            self.world.settle()
            go(sending)
            self.assertEqual(node.usage().used, 10)
            answer.callback([sent()])
            self.world.settle()
            self.assertEqual(node.usage().used, 10 + count)

    def test_reader(self) -> None:
        """Who asks what was used and goes leaves nothing half done: no entry is made twice."""
        (node,) = self.make(BIG)
        self.outcomes([node.publish() for _ in range(8)])
        node.billing._active["alice"].entered_at -= 60
        go(node.billing.usage("alice"))  # while its change of the record is on its way
        self.world.settle()
        self.outcomes([node.publish() for _ in range(3)])
        self.assertEqual(node.usage().used, 11)
        node.stop()
        self.assertEqual(self.world.charged(), 11)


class WaitingTests(GuardCase):
    """Messages that wait for their units."""

    def test_plan_without_limits(self) -> None:
        """Another plan, under which nothing is needed, lets them go out."""
        (node,) = self.make(FREE, Plan("any"))
        allowance = node.allowance()
        self.outcomes([node.publish()])
        self.world.users["alice"] = "any"
        node.billing._tick()  # the change of the plan is under way
        large = node.publish(b"x" * 11 * 4096)
        self.assertEqual(self.outcomes([large])[0], 1)
        self.assertFalse(allowance.limited)

    def test_stop(self) -> None:
        """At the stop they are refused, and so is what comes later."""
        for away in (False, True):
            (node,) = self.make()
            self.outcomes([node.publish()])
            published = [node.publish(b"x" * 11 * 4096)]
            node.store.away = away
            node.billing.stop()
            published += [node.publish() for _ in range(3)]
            self.world.settle()
            published.append(node.publish(b"x" * 11 * 4096))
            refused = self.outcomes(published)[1]
            self.assertIn(BusUnavailable, {type(one) for one in refused})

    def test_nobody_left(self) -> None:
        """An account that nobody uses any more is given up: no lease is left of it, and nothing here."""
        (node,) = self.make()
        self.outcomes([node.publish()])
        self.world.pass_(100)
        self.assertEqual(node.billing._active, {})
        found: list[Any] = []
        self.world.store.get("FG_BILLING", "alice").addCallback(found.append)
        self.assertEqual(Account.load(found[0].value).leases, {})
        self.assertEqual(self.outcomes([node.publish() for _ in range(12)])[0], 9)

    def test_node_that_hangs(self) -> None:
        """Another node that does not answer costs the others one wait, and not one for each lease."""
        one, other = self.make(BIG, nodes=2)
        self.outcomes([other.publish()])
        other.peers.answer("billing", lambda _: Deferred())
        self.world.pass_(6)
        published = [one.publish() for _ in range(40)]
        self.world.pass_(3)
        self.assertEqual(self.outcomes(published)[0], 40)
        self.assertEqual(self.outcomes([one.publish() for _ in range(200)])[0], 200)


class ShieldedTests(SynchronousTestCase):
    """Work that goes on although nobody waits."""

    def test_passed_on(self) -> None:
        """Who waits gets the result, or the failure."""
        work: Deferred[int] = Deferred()
        waiting = shielded(work)
        self.assertNoResult(waiting)
        work.callback(7)
        self.assertEqual(self.successResultOf(waiting), 7)
        work = Deferred()
        waiting = shielded(work)
        work.errback(BusUnavailable())
        self.failureResultOf(waiting, BusUnavailable)

    def test_cancelled(self) -> None:
        """The work is left alone; its failure is logged then, unless it is a refusal."""
        for error, logged in ((None, 0), (BusUnavailable(), 0), (ValueError("x"), 1)):
            work: Deferred[Any] = Deferred()
            go(shielded(work))
            self.assertFalse(work.called)
            work.callback(None if error is None else Failure(error))
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), logged)
