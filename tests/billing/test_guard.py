"""What may be published, and what it costs, on one node and on several."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate.billing.plans import Plan
from flowgate.connections import IConnection
from flowgate.errors import BusUnavailable, Conflict, InsufficientBalance, LimitReached
from flowgate.gateway import Post
from flowgate.message import Run, Stored
from tests.billing.world import FREE, PREPAID, Node, World, principal


class GuardCase(SynchronousTestCase):
    """Publishes, and sees what becomes of it."""

    world: World

    def make(self, plan: Plan | None = FREE, *more: Plan, nodes: int = 1) -> list[Node]:
        self.world = World(plan, more)
        return [Node(self.world, alone=nodes == 1) for _ in range(nodes)]

    def outcomes(self, published: list[Deferred[Any]]) -> tuple[int, list[Any]]:
        """How many were stored, and what the others were refused with."""
        self.world.settle()
        stored, refused = 0, []
        for one in published:
            result: list[Any] = []

            def note(outcome: Any, result: list[Any] = result) -> Any:
                result.append(outcome)
                return None if isinstance(outcome, Failure) else outcome

            one.addBoth(note)
            self.assertTrue(result, "there is an answer")
            if isinstance(result[0], Failure):
                refused.append(result[0].value)
            else:
                stored += 1
        return stored, refused


class OneNodeTests(GuardCase):
    """On one node."""

    def test_last_units(self) -> None:
        """Of more messages than there are units left, exactly as many are stored, and all the others are refused."""
        (node,) = self.make()
        stored, refused = self.outcomes([node.publish(b"%d" % number) for number in range(25)])
        self.assertEqual((stored, self.world.stored()), (10, 10))
        self.assertEqual({type(one) for one in refused}, {LimitReached})
        last = refused[-1]
        self.assertEqual(
            last.members, {"limit": 10, "used": 10, "resets_at": "2026-12-01T00:00:00.000Z", "limit_source": "plan"}
        )
        self.assertIsNone(last.retry_after)
        self.assertEqual(node.usage().used, 10)

    def test_first_message(self) -> None:
        """The first message of an account waits for its units, and those after it keep their order."""
        (node,) = self.make(Plan("big", units=1000))
        published = [node.publish(b"%d" % number) for number in range(30)]
        self.assertEqual(self.outcomes(published), (30, []))
        stored: list[Stored] = [self.successResultOf(one) for one in published]
        self.assertEqual([one.sequence for one in stored], sorted(one.sequence for one in stored))

    def test_size(self) -> None:
        """A message costs a unit for each started 4 KiB; one that is too large is refused, a smaller one is not."""
        (node,) = self.make()
        self.assertEqual(self.outcomes([node.publish(b"x" * 8 * 4096)])[0], 1)
        stored, (refusal,) = self.outcomes([node.publish(b"x" * 3 * 4096), node.publish(b"x" * 4097)])
        self.assertEqual((stored, type(refusal)), (1, LimitReached))
        self.assertEqual(node.usage().used, 10)

    def test_failed_and_repeated(self) -> None:
        """What is not stored, or was before, costs nothing."""
        (node,) = self.make()
        self.outcomes([node.publish(message_id="k")])
        for _ in range(20):
            self.assertEqual(self.outcomes([node.publish(message_id="k")])[0], 1)
        real = self.world.bus.publish_one
        self.world.bus.publish_one = lambda *_, **__: fail(BusUnavailable())  # type: ignore[method-assign]
        for _ in range(20):
            self.assertEqual(self.outcomes([node.publish()])[0], 0)
        self.world.bus.publish_one = real  # type: ignore[method-assign]
        self.assertEqual(node.usage().used, 1)
        self.world.pass_(13)  # until it was looked whether the messages are stored
        self.assertEqual(self.outcomes([node.publish() for _ in range(10)])[0], 9)

    def test_found(self) -> None:
        """A message whose acknowledgement is lost is paid for as soon as it is found in the stream."""
        (node,) = self.make()
        real = self.world.bus.publish_one

        def lost(*arguments: Any, **options: Any) -> Deferred[Stored]:
            real(*arguments, **options)
            return fail(BusUnavailable())

        self.world.bus.publish_one = lost  # type: ignore[method-assign]
        self.assertEqual(self.outcomes([node.publish(), node.publish(message_id="k")])[0], 0)
        self.world.bus.publish_one = real  # type: ignore[method-assign]
        self.world.pass_(13)
        self.assertEqual(node.usage().used, 2)
        self.assertEqual(self.outcomes([node.publish(message_id="k")])[0], 1)
        self.assertEqual(node.usage().used, 2)

    def test_doubt(self) -> None:
        """A message of which nobody knew whether it was stored is paid for when it comes again and was; once."""
        (node,) = self.make()
        real = self.world.bus.publish_one

        def lost(*arguments: Any, **options: Any) -> Deferred[Stored]:
            real(*arguments, **options)
            return fail(BusUnavailable())

        self.world.bus.publish_one = lost  # type: ignore[method-assign]
        self.assertEqual(self.outcomes([node.publish(message_id="k")])[0], 0)
        self.world.bus.publish_one = real  # type: ignore[method-assign]
        self.assertEqual(node.usage().used, 0)
        for _ in range(3):
            self.assertEqual(self.outcomes([node.publish(message_id="k")])[0], 1)
        self.assertEqual(node.usage().used, 1)

    def test_doubt_that_was_not_stored(self) -> None:
        """If it was not stored, its repetition is paid for, once; a doubt that nobody ends is given back."""
        (node,) = self.make()
        real = self.world.bus.publish_one
        self.world.bus.publish_one = lambda *_, **__: fail(BusUnavailable())  # type: ignore[method-assign]
        self.outcomes([node.publish(message_id="k"), node.publish(message_id="other")])
        self.world.bus.publish_one = real  # type: ignore[method-assign]
        self.outcomes([node.publish(message_id="k")])
        self.assertEqual(node.usage().used, 1)
        self.world.pass_(320)
        self.assertEqual(self.outcomes([node.publish() for _ in range(12)])[0], 9)

    def test_many(self) -> None:
        """Of many messages at once the first ones are stored, as far as the units go."""
        (node,) = self.make()
        route = node.gateway.route(principal(), "t")
        published = node.gateway.publish_many([Post(route, b"%d" % number) for number in range(14)])
        self.world.settle()
        answers = self.successResultOf(published)
        self.assertEqual([isinstance(answer, Stored) for answer in answers], [True] * 10 + [False] * 4)
        self.assertEqual(self.world.stored(), 10)

    def test_runs(self) -> None:
        """A run is cut where the units end."""
        (node,) = self.make()
        route = node.gateway.route(principal(), "t")
        ready = route.allowance.ready_for(14, 1, lambda: [b"x"] * 14)
        assert ready is not None
        self.world.settle()
        self.successResultOf(ready)
        bill = node.gateway.bill(route, 14, 1, lambda: [b"x"] * 14)
        self.assertEqual((bill.count, type(bill.refusal)), (10, LimitReached))
        stored = node.gateway.publish_run(Run(route.topic, [b"x"] * 10, qos=1), bill)
        self.assertEqual(self.outcomes([stored])[0], 1)
        self.assertEqual(node.usage().used, 10)

    def test_no_plans(self) -> None:
        """Without plans nothing is refused, and everything is counted."""
        (node,) = self.make(None)
        self.assertEqual(self.outcomes([node.publish() for _ in range(100)]), (100, []))
        usage = node.usage()
        self.assertEqual((usage.used, usage.limit, usage.remaining, usage.balance), (100, None, None, None))
        self.assertEqual(usage.hours[-1], ("2026-11-26T11", 100))
        node.stop()
        self.assertEqual(self.world.charged(), 100)

    def test_unknown_plan(self) -> None:
        """A plan that is not configured is the default one."""
        (node,) = self.make()
        self.world.users["alice"] = "golden"
        self.assertEqual(self.outcomes([node.publish() for _ in range(12)])[0], 10)

    def test_price(self) -> None:
        """A plan may ask more than one unit for a unit published."""
        (node,) = self.make(Plan("dear", units=10, publish_price=3))
        self.assertEqual(self.outcomes([node.publish() for _ in range(5)])[0], 3)
        node.stop()
        self.assertEqual(self.world.charged(), 9)

    def test_bus_away(self) -> None:
        """While the record cannot be read a lease is spent to its end; then it is the bus that is to blame."""
        (node,) = self.make(Plan("big", units=1000))
        self.outcomes([node.publish()])
        node.store.away = True
        stored, refused = self.outcomes([node.publish() for _ in range(20)])
        self.assertEqual(stored, 9)
        self.assertEqual({type(one) for one in refused}, {BusUnavailable})
        node.store.away = False
        self.world.pass_(1)
        self.assertEqual(self.outcomes([node.publish() for _ in range(20)]), (20, []))

    def test_deliveries(self) -> None:
        """Deliveries and connections are counted, and charged if the plan says so."""
        plan = Plan("sold", units=1000, delivery_price=2, connection_price=5)
        (node,) = self.make(plan)
        node.meter.account(principal().home).sent = 7
        node.connections.add(Connection(), principal())
        self.world.pass_(60)
        usage = node.usage()
        self.assertEqual(usage.used, 7 * 2 + 5)
        node.stop()
        (entry,) = self.world.entries()
        self.assertEqual((entry.units, entry.more["deliveries"], entry.more["connection_minutes"]), (19, 7, 1))


@implementer(IConnection)
class Connection:
    """A connection that is nothing else."""

    protocol = "mqtt"

    def end(self, reason: Any) -> None:
        """Nothing to end."""


class BalanceTests(GuardCase):
    """Units that are paid in advance."""

    def add(self, node: Node, units: int, change_id: str, user: str = "alice") -> Any:
        added = node.billing.balances.add(user, units, change_id, "invoice 7")
        self.world.settle()
        return added

    def test_spent(self) -> None:
        """First the units of the plan are used, then the balance, then nothing; what is paid in opens it at once."""
        (node,) = self.make(PREPAID)
        self.assertEqual(self.successResultOf(self.add(node, 2, "a")).balance, 2)
        stored, refused = self.outcomes([node.publish() for _ in range(7)])
        self.assertEqual((stored, {type(one) for one in refused}), (5, {InsufficientBalance}))
        self.assertEqual((refused[0].members["balance"], refused[0].members["limit_source"]), (0, "balance"))
        self.add(node, 3, "b")
        self.assertEqual(self.outcomes([node.publish() for _ in range(7)])[0], 3)
        usage = node.usage()
        self.assertEqual((usage.used, usage.balance, usage.remaining), (8, 0, 0))
        node.stop()
        self.assertEqual(sum(entry.balance for entry in self.world.entries()), 0)
        self.assertEqual(self.world.charged(), 8)

    def test_once(self) -> None:
        """A change is made once, also if it is asked for by several nodes, after lost answers, and much later."""
        first, second = self.make(PREPAID, nodes=2)
        first.store.lose = 1
        self.failureResultOf(self.add(first, 5, "a"), BusUnavailable)
        for node in (first, second, first):
            balance = self.successResultOf(self.add(node, 5, "a"))
            self.assertEqual((balance.balance, balance.changed), (5, False))
        for number in range(5):
            self.add(second, 1, f"more{number}")
        self.assertEqual(self.successResultOf(self.add(first, 5, "a")).balance, 10)
        self.failureResultOf(self.add(first, 6, "a"), Conflict)
        self.assertEqual(sum(entry.balance for entry in self.world.entries()), 10)
        self.assertEqual([entry.kind for entry in self.world.entries()], ["topup"] * 6)

    def test_taken_away(self) -> None:
        """A balance may be corrected downwards; the entry says so, and what it was for."""
        (node,) = self.make(PREPAID)
        self.add(node, 5, "a")
        self.assertEqual(self.successResultOf(self.add(node, -4, "b")).balance, 1)
        last = self.world.entries()[-1]
        self.assertEqual((last.kind, last.balance, last.more["note"]), ("adjust", -4, "invoice 7"))


class NodesTests(GuardCase):
    """On several nodes."""

    def test_never_more(self) -> None:
        """Two nodes that race for the last units never store more, and none is left once they try again."""
        nodes = self.make(Plan("p", units=57), nodes=2)
        stored = 0
        for _ in range(12):
            more, refused = self.outcomes([node.publish() for _ in range(20) for node in nodes])
            stored += more
            self.assertLessEqual(stored, 57)
            self.assertTrue(all(isinstance(one, LimitReached) for one in refused))
            self.world.pass_(1)
        self.assertEqual((stored, self.world.stored()), (57, 57))
        for node in nodes:
            node.stop()
        self.assertEqual(self.world.charged(), 57)

    def test_in_use_elsewhere(self) -> None:
        """While another node has the last units, the refusal says that it makes sense to try again."""
        one, other = self.make(nodes=2)
        one.billing.warm("alice")
        self.world.settle()
        purse = one.billing.purse("alice")
        while purse.left < 10:  # have all of it
            purse.target = 100
            one.billing._kick(purse)
            self.world.settle()
        _, refused = self.outcomes([other.publish()])
        if refused:
            self.assertEqual((refused[0].members["transient"], refused[0].retry_after), (True, 1))
        self.world.pass_(2)
        self.assertEqual(self.outcomes([other.publish()])[0], 1)

    def test_idle(self) -> None:
        """What an idle node has is given back."""
        one, other = self.make(nodes=2)
        self.outcomes([one.publish()])
        self.world.pass_(7)
        self.assertEqual(self.outcomes([other.publish() for _ in range(9)])[0], 9)

    def test_topped_up_elsewhere(self) -> None:
        """A node that knows that nothing is left learns at once of what is paid in on another."""
        one, other = self.make(PREPAID, nodes=2)
        self.assertEqual(self.outcomes([one.publish() for _ in range(5)])[0], 3)
        other.billing.balances.add("alice", 1, "a")
        self.assertEqual(self.outcomes([])[0], 0)
        self.assertEqual(self.outcomes([one.publish() for _ in range(5)])[0], 1)
