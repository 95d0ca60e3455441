"""Periods and thresholds."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate.billing.notices import PAUSES, Notices
from flowgate.billing.plans import Period, Plan, parse_plan
from flowgate.connections import Connections, INoticed
from flowgate.errors import BusUnavailable
from flowgate.interfaces import ISubscriber
from flowgate.message import Run, Stored
from flowgate.rates.plan import RateLimits
from flowgate.router import Router
from flowgate.subscriber import Turn
from flowgate.webhooks.posting import Undelivered
from tests.billing.test_guard import GuardCase
from tests.billing.world import DAILY, FREE, HOME, PREPAID, START, Node, principal

HOUR = 3600


class PeriodTests(SynchronousTestCase):
    """Calendar months and days in UTC."""

    def test_bounds(self) -> None:
        """A period has a name, a beginning and an end; December is followed by January."""
        self.assertEqual(Period.at("day", START), Period("2026-11-26", 1795651200, 1795737600))
        self.assertEqual(Period.at("month", START), Period("2026-11", 1793491200, 1796083200))
        december = Period.at("month", 1796083200)
        self.assertEqual((december.name, december.start), ("2026-12", 1796083200))
        self.assertEqual(Period.at("month", december.end).name, "2027-01")


class PlanTests(SynchronousTestCase):
    """Plans as the configuration has them."""

    def test_parse(self) -> None:
        """What is absent has its default; a prepaid plan has no units of its own, unless it says so."""
        self.assertEqual(parse_plan("a", {}), Plan("a"))
        self.assertEqual(parse_plan("a", {"prepaid": True}), Plan("a", 0, prepaid=True))
        whole = {"units": 5, "period": "day", "publish_price": 2, "delivery_price": 1, "connection_price": 3}
        found = parse_plan("a", {**whole, "publish_rate": 7})
        self.assertEqual(found, Plan("a", 5, "day", False, 2, 1, 3, RateLimits(publish_rate=7)))

    def test_refused(self) -> None:
        """Nothing else is taken."""
        for name, table in (
            ("a b", {}),
            ("a", {"units": -1}),
            ("a", {"units": True}),
            ("a", {"units": "many"}),
            ("a", {"period": "year"}),
            ("a", {"prepaid": 1}),
            ("a", {"publish_price": 1.5}),
            ("a", {"publish_rate": 0}),
        ):
            self.assertRaises(ValueError, parse_plan, name, table)


class TurnTests(GuardCase):
    """What happens when a period ends."""

    def test_begins_anew(self) -> None:
        """On the next day all units are there again; the ledger says which day each was used on."""
        (node,) = self.make(DAILY)
        self.assertEqual(self.outcomes([node.publish() for _ in range(12)])[0], 10)
        self.world.clock.advance(13 * HOUR)  # it was 11:00
        self.assertEqual(self.outcomes([node.publish() for _ in range(12)])[0], 10)
        usage = node.usage()
        self.assertEqual((usage.used, usage.period.name), (10, "2026-11-27"))
        node.stop()
        self.assertEqual(
            [(entry.units, entry.period) for entry in self.world.entries()], [(10, "2026-11-26"), (10, "2026-11-27")]
        )

    def test_several_nodes(self) -> None:
        """What another node has told belongs to the day on which it did, whichever node begins the next one."""
        one, other = self.make(DAILY, nodes=2)
        self.assertEqual(self.outcomes([one.publish() for _ in range(3)])[0], 3)
        self.world.pass_(2)
        self.world.clock.advance(13 * HOUR)
        stored = 0
        for _ in range(4):
            stored += self.outcomes([node.publish() for node in (other, one) for _ in range(4)])[0]
            self.world.pass_(1)
        self.assertEqual(stored, 10)
        self.assertEqual(one.usage().used, 10)
        for node in (one, other):
            node.stop()
        days: dict[str, int] = {}
        for entry in self.world.entries():
            before = int(str(entry.more.get("before", 0)))
            days["2026-11-26"] = days.get("2026-11-26", 0) + before
            days[entry.period] = days.get(entry.period, 0) + entry.units - before
        self.assertEqual(days, {"2026-11-26": 3, "2026-11-27": 10})

    def test_balance_stays(self) -> None:
        """A new period brings the plan's units back, and leaves the balance as it is."""
        plan = Plan("p", units=3, period="day", prepaid=True)
        (node,) = self.make(plan)
        node.billing.balances.add("alice", 4, "a")
        self.world.settle()
        self.assertEqual(self.outcomes([node.publish() for _ in range(5)])[0], 5)
        self.world.clock.advance(13 * HOUR)
        self.assertEqual(self.outcomes([node.publish() for _ in range(7)])[0], 5)
        node.stop()
        self.assertEqual(sum(entry.balance for entry in self.world.entries()), 0)

    def test_clock_behind(self) -> None:
        """A node whose clock is some seconds behind does not bring the old day back, and its units with it."""
        one, other = self.make(DAILY, nodes=2)
        self.assertEqual(self.outcomes([one.publish() for _ in range(12)])[0], 10)
        self.world.pass_(2)
        other.billing._now = other.billing._books._now = lambda: self.world.now() + 3
        self.world.clock.advance(Period.at("day", START).end - 2.5 - self.world.now())
        stored = 0
        for _ in range(30):
            for node in (other, one):
                stored += self.outcomes([node.publish() for _ in range(3)])[0]
            self.world.clock.advance(0.25)
        self.assertEqual(stored, 10)
        self.assertEqual(one.usage().used, 10)

    def test_price_changes(self) -> None:
        """A message of an unknown fate costs what it did when it was taken."""
        (node,) = self.make(Plan("dear", units=100, publish_price=5), Plan("cheap", units=100))
        real = self.world.bus.publish_one

        def lost(*arguments: Any, **options: Any) -> Deferred[Stored]:
            real(*arguments, **options)
            return fail(BusUnavailable())

        self.world.bus.publish_one = lost  # type: ignore[method-assign]
        self.outcomes([node.publish(), node.publish(message_id="k")])
        self.world.bus.publish_one = real  # type: ignore[method-assign]
        self.world.users["alice"] = "cheap"
        self.world.pass_(13)
        self.assertEqual(node.usage().used, 10)

    def test_plan_changes(self) -> None:
        """Another plan holds within a second, for the better or the worse; what was used stays used."""
        (node,) = self.make(FREE, Plan("big", units=50), PREPAID)
        allowance = node.allowance()  # that of a connection
        self.assertEqual(self.outcomes([node.publish() for _ in range(12)])[0], 10)
        self.world.users["alice"] = "big"
        self.world.pass_(2)
        self.assertEqual(self.outcomes([node.publish() for _ in range(12)])[0], 12)
        self.world.users["alice"] = "free"
        self.world.pass_(2)
        self.assertEqual(self.outcomes([node.publish() for _ in range(12)])[0], 0)
        self.assertIs(allowance, node.allowance())
        self.assertEqual(node.usage().used, 22)


@implementer(INoticed, ISubscriber)
class Client:
    """A connection that notes what it is told."""

    protocol = "websocket"

    def __init__(self) -> None:
        self.notices: list[dict[str, object]] = []
        self.messages: list[tuple[str, Any]] = []

    def notice(self, members: dict[str, object]) -> None:
        self.notices.append(members)

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        self.messages += [(run.topic.name, json.loads(payload)) for payload in run.payloads]

    def end(self, reason: object) -> None:
        """Nothing to end."""


class ThresholdTests(GuardCase):
    """80 and 100 per cent."""

    def client(self, node: Node) -> Client:
        client = Client()
        node.connections.add(client, principal())
        node.gateway.subscribe(client, node.gateway.interest(principal(), "$SYS/usage"))
        return client

    def test_once(self) -> None:
        """Each is told of once in a period, on every node, to connections and on a topic."""
        nodes = self.make(DAILY, nodes=2)
        clients = [self.client(node) for node in nodes]
        stored = 0
        for number in range(20):
            stored += self.outcomes([nodes[number % 2].publish()])[0]
            self.world.pass_(2)
            self.assertEqual(len(clients[0].notices), (stored >= 8) + (stored >= 10))
        self.assertEqual(stored, 10)
        for client in clients:
            self.assertEqual([notice["threshold"] for notice in client.notices], [80, 100])
            self.assertEqual([name for name, _ in client.messages], ["$SYS/usage"] * 2)
        self.assertEqual(clients[0].notices[0]["code"], "usage_threshold")
        last = clients[1].messages[-1][1]
        self.assertEqual((last["used"], last["limit"], last["period"]), (10, 10, "2026-11-26"))
        self.assertEqual(last["resets_at"], "2026-11-27T00:00:00.000Z")
        self.world.clock.advance(13 * HOUR)
        self.outcomes([nodes[0].publish() for _ in range(9)])
        self.world.pass_(2)
        self.assertEqual([notice["threshold"] for notice in clients[0].notices], [80, 100, 80])

    def test_larger_plan(self) -> None:
        """Under a larger plan its thresholds are told of, although those of the smaller one were."""
        (node,) = self.make(FREE, Plan("big", units=50))
        client = self.client(node)
        self.outcomes([node.publish() for _ in range(10)])
        self.world.pass_(2)
        self.world.users["alice"] = "big"
        self.world.pass_(2)
        self.outcomes([node.publish() for _ in range(30)])
        self.world.pass_(2)
        told = [(notice["threshold"], notice["limit"]) for notice in client.notices]
        self.assertEqual((told[-2:], len(told)), ([(100, 10), (80, 50)], len(set(told))))

    def test_nobody_elses(self) -> None:
        """Other users learn nothing of it."""
        (node,) = self.make()
        client = Client()
        other = HOME.checked("bob", "shop")
        node.connections.add(client, principal(home=other))
        node.gateway.subscribe(client, node.gateway.interest(principal(home=other), "$SYS/#"))
        self.outcomes([node.publish() for _ in range(10)])
        self.world.pass_(2)
        self.assertEqual((client.notices, client.messages), ([], []))


class EndpointTests(SynchronousTestCase):
    """The operator's endpoint."""

    def test_until_it_answers(self) -> None:
        """It is told again until it answers that it has understood; then no more."""
        clock = Clock()
        posted: list[tuple[str, dict[str, Any]]] = []
        answers: list[Any] = [Undelivered("no"), 500, 200]

        def post(url: str, headers: Any, body: bytes) -> Deferred[int]:
            posted.append((url, json.loads(body)))
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return succeed(answer)

        notices = Notices(Connections(1), Router(), Turn(), clock, post, "https://operator.example/usage")
        notices.post("alice", {"threshold": 80})
        for pause in PAUSES:
            clock.advance(pause)
        self.assertEqual(len(posted), 3)
        self.assertEqual(
            posted[0],
            ("https://operator.example/usage", {"type": "usage_threshold", "user": "alice", "threshold": 80}),
        )

    def test_gives_up(self) -> None:
        """After some attempts it is only logged; stopping ends the attempts."""
        clock = Clock()
        notices = Notices(Connections(1), Router(), Turn(), clock, lambda *_: succeed(404), "https://operator.example/")
        notices.post("alice", {})
        for pause in PAUSES:
            clock.advance(pause)
        self.assertEqual(clock.getDelayedCalls(), [])
        notices.post("alice", {})
        notices.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
