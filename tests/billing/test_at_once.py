"""Leave that is given at once, for several messages together."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail, succeed

from flowgate.allowances import Allowance
from flowgate.billing.plans import FREE_PLAN, Plan
from flowgate.errors import BusUnavailable, Refused
from flowgate.gateway import Post
from flowgate.message import Stored
from flowgate.queues.model import Outgoing, Sent
from flowgate.queues.paying import send_paid
from tests.billing.test_guard import GuardCase
from tests.billing.world import Node, principal

BIG = Plan("big", units=1000)


class AtOnceTests(GuardCase):
    """Units for all messages, or a word that it has to be asked otherwise."""

    def warm(self, plan: Plan | None = BIG) -> tuple[Node, Allowance]:
        """A node that has units at hand, and whoever spends them."""
        (node,) = self.make(plan)
        allowance = node.allowance()
        for _ in range(2):  # the second time with a lease as large as what is spent
            self.outcomes([node.publish() for _ in range(10)])
        return node, allowance

    def test_before_the_first_units(self) -> None:
        """A node that has no units yet, or does not see to the account yet, gives none at once."""
        for plan in (BIG, None):
            (node,) = self.make(plan)
            self.assertIsNone(node.allowance().take_all(1, 1, 1))

    def test_paid(self) -> None:
        """What is given at once is paid as anything else is, or given back."""
        for plan in (BIG, None):
            node, allowance = self.warm(plan)
            for ending in ("drop", "pay"):
                bill = allowance.take_all(3, 4096, 5000)
                assert bill is not None
                self.assertEqual((bill.count, bill.units, bill.refusal), (3, 3, None))
                getattr(bill, ending)()
            self.assertEqual(node.usage().used, 23)
            node.stop()
            self.assertEqual(self.world.charged(), 23)

    def test_price(self) -> None:
        """The plan's price is asked."""
        _node, allowance = self.warm(Plan("dear", units=1000, publish_price=2))
        bill = allowance.take_all(2, 1, 2)
        assert bill is not None
        self.assertEqual((bill.units, [one.units for one in bill.each()]), (4, [2, 2]))
        bill.drop()

    def test_large(self) -> None:
        """Where messages may cost more than a unit they are looked at one by one."""
        self.assertIsNone(self.warm()[1].take_all(2, 4097, 4098))

    def test_little_left(self) -> None:
        """Where the purse has to be filled soon, or too little is in it, it is asked otherwise, and nothing changes."""
        node, allowance = self.warm()
        purse = node.billing.purse("alice")
        left = purse.left
        self.assertIsNone(allowance.take_all(left, 1, left))
        self.assertEqual((purse.left, purse.pending), (left, False))

    def test_who_waits_is_first(self) -> None:
        """Nobody gets units before those who wait for theirs."""
        _node, allowance = self.warm()
        ready = allowance.ready([b"x"] * 900)
        self.assertIsNotNone(ready)
        self.assertIsNone(allowance.take_all(1, 1, 1))

    def test_beyond_the_rate(self) -> None:
        """What the rates do not permit at once is back in the purse."""

        class Slow:
            bounded = True

            def take_all(self, count: int, size: int, now: float) -> bool:
                asked.append((count, size))
                return False

        asked: list[tuple[int, int]] = []
        node, allowance = self.warm()
        allowance.pace = Slow()  # type: ignore[attr-defined]
        purse = node.billing.purse("alice")
        left = purse.left
        self.assertIsNone(allowance.take_all(2, 7, 12))
        self.assertEqual((asked, purse.left, purse.pending), ([(2, 12)], left, False))

    # -- batches

    def many(self, node: Node, posts: list[Post]) -> list[bool]:
        published = node.gateway.publish_many(posts)
        self.world.settle()
        return [isinstance(one, Stored) for one in self.successResultOf(published)]

    def test_batch(self) -> None:
        """A batch is paid for once for all."""
        node, _ = self.warm()
        route = node.gateway.route(principal(), "t")
        self.assertEqual(self.many(node, [Post(route, b"x")] * 3), [True] * 3)
        self.assertEqual(node.usage().used, 23)

    def test_repetitions_in_a_batch(self) -> None:
        """Only what is new in a batch is paid for; retained messages are, too."""
        for plan in (BIG, FREE_PLAN):
            node, _ = self.warm(plan)
            route = node.gateway.route(principal(), "t")
            self.many(node, [Post(route, b"1", "one")])
            posts = [Post(route, b"1", "one"), Post(route, b"2", "two"), Post(route, b"3", None, None, True)]
            self.assertEqual(self.many(node, posts), [True] * 3)
            self.assertEqual(node.usage().used, 23)
            self.assertFalse(node.billing.purse("alice").pending)

    def test_batch_that_is_not_stored(self) -> None:
        """A batch that the bus did not take costs nothing."""
        node, _ = self.warm()
        self.patch(self.world.bus, "publish_many", lambda *_: fail(BusUnavailable()))
        route = node.gateway.route(principal(), "t")
        self.assertEqual(self.many(node, [Post(route, b"x")] * 2), [False] * 2)
        self.world.pass_(20)
        self.assertEqual(node.usage().used, 20)
        self.assertFalse(node.billing.purse("alice").pending)

    def test_batch_of_two_accounts(self) -> None:
        """Each pays for its own messages."""
        node, _allowance = self.warm()
        routes = [node.gateway.route(principal(key=key), "t") for key in ("FGAK1", "FGAK2")]
        self.many(node, [Post(route, b"x") for route in routes])
        self.assertEqual([route.allowance.used for route in routes], [21, 1])

    # -- queues

    def send(self, results: Sequence[Sent | Refused] | None) -> tuple[int, bool]:
        """Send three messages of which this becomes; the units that were paid, and whether any are still open."""
        node, allowance = self.warm()

        def send(messages: Sequence[Outgoing]) -> Deferred[list[Sent | Refused]]:
            self.assertEqual(len(messages), 3)
            return fail(BusUnavailable()) if results is None else succeed(list(results))

        sending = Deferred.fromCoroutine(send_paid(allowance, [Outgoing("x")] * 3, send))
        if results is None:
            self.failureResultOf(sending, BusUnavailable)
        else:
            self.assertEqual(self.successResultOf(sending), results)
        return allowance.used - 20, node.billing.purse("alice").pending

    def test_queues(self) -> None:
        """What a queue stored and did not have before is paid for."""
        new, known = (Sent("id", "md5", "", "", "", duplicate=duplicate) for duplicate in (False, True))
        cases: list[tuple[list[Sent | Refused] | None, int]] = [
            ([new] * 3, 3),
            ([new, known, BusUnavailable()], 1),
            (None, 0),
        ]
        for results, paid in cases:
            self.assertEqual(self.send(results), (paid, False))
