"""The ledger is right whatever goes wrong."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from flowgate.allowances import UNIT_BYTES, units_of
from flowgate.auth.permissions import Grant, Grants
from flowgate.billing.plans import Plan
from flowgate.errors import BusUnavailable, Refused
from flowgate.message import Run, Stored
from flowgate.topics import Namespace
from tests.billing.world import HOME, Node, World, principal

PLAN = Plan("p", units=60)
BOOKED = Plan("booked")
TOGETHER = Plan("prepaid", units=25, prepaid=True)


class Story:
    """Some nodes, what happens to them, and what was acknowledged."""

    def __init__(self, plan: Plan, nodes: int) -> None:
        self.world = World(plan)
        self.nodes = [Node(self.world) for _ in range(nodes)]
        self.acknowledged = 0
        self.open: dict[str, bytes] = {}  # messages with ids that are to be published until they are acknowledged
        self.ids = 0
        self.topped_up = 0

    def publish(self, place: int, units: int, message_id: str, payload: bytes, lost: bool) -> None:
        node = self.nodes[place % len(self.nodes)]
        real = self.world.bus.publish_one

        def lose(*arguments: Any, **options: Any) -> Deferred[Stored]:
            return real(*arguments, **options).addCallback(lambda _: fail(BusUnavailable()))

        if lost:
            self.world.bus.publish_one = lose  # type: ignore[method-assign]
        published = node.publish(payload, message_id=message_id)
        self.world.settle()
        self.world.bus.publish_one = real  # type: ignore[method-assign]
        outcome: list[object] = []
        published.addBoth(outcome.append)
        if outcome and isinstance(outcome[0], Stored):
            self.open.pop(message_id, None)
        else:
            self.open[message_id] = payload

    def happen(self, what: tuple[str, int, int]) -> None:
        kind, place, number = what
        if kind in ("publish", "lost"):
            self.ids += 1
            units = 1 + number % 3
            payload = b"%d" % self.ids + b"x" * (units * UNIT_BYTES - 100)
            self.publish(place, units, f"id{self.ids}", payload, kind == "lost")
        elif kind == "again" and self.open:
            message_id = sorted(self.open)[number % len(self.open)]
            self.publish(place, 0, message_id, self.open[message_id], False)
        elif kind == "begin":  # and do not wait for the end
            self.ids += 1
            message_id, payload = f"id{self.ids}", b"begun %d" % self.ids
            self.open[message_id] = payload
            self.nodes[place % len(self.nodes)].publish(payload, message_id=message_id).addErrback(lambda _: None)
            for _ in range(number % 6):
                self.world.clock.advance(0)
        elif kind == "go":  # before there is an answer
            self.ids += 1
            waiting = self.nodes[place % len(self.nodes)].publish(b"gone %d" % self.ids)
            for _ in range(number % 4):
                self.world.clock.advance(0)
            waiting.addErrback(lambda _: None)
            waiting.cancel()
        elif kind == "ask":  # what was used, and go
            asked = self.nodes[place % len(self.nodes)].billing.usage("alice")
            for _ in range(number % 3):
                self.world.clock.advance(0)
            asked.addErrback(lambda _: None)
            asked.cancel()
        elif kind == "run":  # as MQTT publishes
            gateway = self.nodes[place % len(self.nodes)].gateway
            route = gateway.route(principal(), "t")
            payloads = [b"run"] * (1 + number)
            ready = route.allowance.ready_for(len(payloads), 3, lambda: payloads)
            self.world.settle()
            if ready is None or ready.called:
                bill = gateway.bill(route, len(payloads), 3, lambda: payloads)
                if bill.count:
                    published = gateway.publish_run(Run(route.topic, payloads[: bill.count], qos=1), bill)
                    published.addErrback(lambda _: None)
                if place:
                    self.world.settle()
        elif kind == "kill":
            index = place % len(self.nodes)
            self.nodes[index].die()
            self.nodes[index] = Node(self.world)
        elif kind == "cut":  # the others take it for dead, and it is not
            node = self.nodes[place % len(self.nodes)]
            node.peers.go_away()
            self.world.pass_(5)
            node.peers.come_back()
            node.billing.bus_back()
            self.world.settle()
        elif kind == "lose":
            self.nodes[place % len(self.nodes)].store.lose = 1 + number % 2
        elif kind == "stop":
            index = place % len(self.nodes)
            self.nodes[index].stop()
            self.nodes[index].die()
            self.nodes[index] = Node(self.world)
        elif kind == "top up":
            self.topped_up += 1
            balances = self.nodes[place % len(self.nodes)].billing.balances
            added = balances.add("alice", number + 1, f"t{self.topped_up}")
            added.addErrback(lambda failure: failure.trap(Refused))
            self.world.settle()
        elif kind == "wait":
            self.world.pass_(number + 1)

    def end(self) -> None:
        """Publish again what was not acknowledged, end all nodes, and have the next one find what they have left."""
        for message_id, payload in list(self.open.items()):
            self.publish(len(message_id), 0, message_id, payload, False)
        self.world.pass_(12)
        for place, node in enumerate(self.nodes):
            if place % 2:
                node.stop()
            node.die()
        last = Node(self.world, alone=True)
        self.world.pass_(3)
        last.usage()
        last.stop()

    def units_stored(self) -> int:
        return sum(units_of(run.payloads) for run in self.world.history())


KINDS = ("kill", "cut", "lose", "stop", "top up", "wait", "go", "ask")
THINGS = st.lists(
    st.tuples(
        st.sampled_from((*("publish", "publish", "publish", "lost", "again", "begin", "begin", "run", "run"), *KINDS)),
        st.integers(0, 2),
        st.integers(0, 7),
    ),
    max_size=25,
)


class CrashTests(SynchronousTestCase):
    """Random crashes, retries, lost acknowledgements and repetitions."""

    def check(self, plan: Plan, nodes: int, things: list[tuple[str, int, int]]) -> Story:
        story = Story(plan, nodes)
        for what in things:
            story.happen(what)
        story.end()
        self.assertEqual(story.world.charged(), story.units_stored(), f"{nodes} nodes: {things}")
        self.flushLoggedErrors()
        return story

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(nodes=st.integers(1, 3), things=THINGS)
    def test_limit(self, nodes: int, things: list[tuple[str, int, int]]) -> None:
        """The ledger's sum is what the stored messages cost, and that is never more than the plan's units."""
        story = self.check(PLAN, nodes, things)
        self.assertLessEqual(story.units_stored(), 60)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(nodes=st.integers(1, 3), things=THINGS)
    def test_prepaid(self, nodes: int, things: list[tuple[str, int, int]]) -> None:
        """The same with a balance; the sum of its changes is what is left of it."""
        story = self.check(TOGETHER, nodes, things)
        entries = story.world.entries()
        balance = sum(entry.balance for entry in entries)
        paid_in = sum(entry.balance for entry in entries if entry.kind == "topup")
        self.assertGreaterEqual(balance, 0)
        self.assertEqual(paid_in - balance, max(0, story.units_stored() - 25))

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(nodes=st.integers(1, 3), things=THINGS)
    def test_no_limit(self, nodes: int, things: list[tuple[str, int, int]]) -> None:
        """The same without a limit, but for what a node publishes before its first word about an account."""
        story = Story(BOOKED, nodes)
        for what in things:
            if what[0] not in ("kill", "begin", "go"):
                story.happen(what)
        story.end()
        self.assertEqual(story.world.charged(), story.units_stored())
        self.flushLoggedErrors()

    def test_topics_of_others(self) -> None:
        """What a killed node has published for a user on topics of another one is that user's affair, too."""
        world = World(PLAN)
        node = Node(world, alone=True)
        cafe = Namespace("bob", "cafe")
        who = attrs.evolve(principal(), grants=Grants((Grant(HOME, "#"), Grant(cafe, "#")), (), ()))
        for name in ("t", "bob_cafe_t"):
            node.gateway.publish(node.gateway.route(who, name), b"x")
        world.settle()
        self.assertEqual([topic.namespace for topic, _, _ in world.bus.tagged(0)], [HOME, cafe])
        node.die()
        self.assertEqual(Node(world, alone=True).usage().used, 2)

    def test_topics_of_history_home(self) -> None:
        """The scenario stores what it says it stores."""
        story = Story(PLAN, 1)
        story.happen(("publish", 0, 1))
        self.assertEqual((story.units_stored(), HOME.user), (2, "alice"))
