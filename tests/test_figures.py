"""What an account is told about itself."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate import figures as module
from flowgate.auth.permissions import Grants, Principal
from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.bus.memory_retained import MemoryRetained
from flowgate.bus.memory_topics import MemoryBus
from flowgate.connections import Connections, IConnection
from flowgate.errors import InsufficientScope, Refused
from flowgate.figures import FORGET_TICKS, TELL_SECONDS, Figures, Report, quota
from flowgate.gateway import Gateway, Interest
from flowgate.interfaces import ISubscriber
from flowgate.limits import Limits, Policies
from flowgate.message import RetainedPage, Run
from flowgate.metering import Account, Meter
from flowgate.router import Router
from flowgate.subscriber import Turn
from flowgate.topics import Namespace

ALICE = Namespace("alice", "shop")
BOB = Namespace("bob", "shop")
LIMITS = Limits(message_bytes=1000, subscriptions=7)


def principal(home: Namespace) -> Principal:
    return Principal(
        user=home.user,
        app=home.app,
        home=home,
        key_id="FGAK",
        grants=Grants.everything(home),
        expires_at=900,
        token_id="1",
        issued_at=0,
    )


@implementer(ISubscriber, IConnection)
class Client:
    """A connection that keeps what it is given: names and payloads."""

    protocol = "mqtt"

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        self.got += [(run.topic.shown(full), payload) for payload in run.payloads]

    def end(self, reason: Refused | None) -> None:
        """Stay: nothing here is ended."""

    def take(self) -> dict[str, bytes]:
        got, self.got = self.got, []
        assert len(dict(got)) == len(got), "something came twice"
        return dict(got)


class Node:
    """One node, as far as figures need one."""

    def __init__(self, hub: MemoryPeersHub, clock: Clock, alone: bool = False) -> None:
        self.clock = clock
        self.peers = MemoryPeers(hub)
        self.peers.alone = alone
        self.router = Router()
        self.meter = Meter()
        self.connections = Connections(1000)
        self.turn = Turn()
        self.bus = MemoryBus(clock)
        self.retained = MemoryRetained(clock)
        self.gateway = Gateway(
            self.bus,
            self.router,
            self.turn,
            self.connections,
            self.meter,
            LIMITS,
            Policies(),
            retained=self.retained,
            groups=MemoryGroups(MemoryGroupsHub(clock, self.bus)),
        )
        self.figures = Figures(self.gateway, self.router, self.peers, clock)
        self.figures.start()

    def connect(self, home: Namespace = ALICE) -> Client:
        client = Client()
        self.connections.add(client, principal(home))
        self.meter.account(home)
        return client

    def account(self, home: Namespace = ALICE) -> Account:
        return self.meter.account(home)

    def subscribe(self, client: Client, filter_: str, namespace: Namespace = ALICE, full: bool = False) -> Interest:
        interest = Interest(namespace, filter_, full)
        self.gateway.subscribe(client, interest)
        return interest


def shown(connected: int = 0, received: int = 0, sent: int = 0, dropped: int = 0) -> dict[str, bytes]:
    """What the topics of an account show."""
    numbers = {
        "$SYS/clients/connected": connected,
        "$SYS/messages/received": received,
        "$SYS/messages/sent": sent,
        "$SYS/messages/dropped": dropped,
    }
    return {
        **{name: str(number).encode() for name, number in numbers.items()},
        "$SYS/quota": json.dumps(quota(LIMITS)).encode(),
    }


class _Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = MemoryPeersHub(self.clock)

    def node(self, alone: bool = False) -> Node:
        node = Node(self.hub, self.clock, alone)
        self.addCleanup(node.figures.stop)
        self.settle()
        return node

    def settle(self) -> None:
        """Let what was told arrive."""
        for _ in range(3):
            self.clock.advance(0)

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(TELL_SECONDS)
            self.settle()

    def page(self, node: Node, filter_: str, namespace: Namespace = ALICE, **options: int) -> RetainedPage:
        return self.successResultOf(node.gateway.retained(Interest(namespace, filter_, False), **options))

    def retained(self, node: Node, filter_: str = "$SYS/#", namespace: Namespace = ALICE) -> dict[str, bytes]:
        """What a new subscriber is shown at once."""
        return {run.topic.name: run.payloads[0] for run in self.page(node, filter_, namespace).runs}


class OneNodeTests(_Case):
    """What subscribers of a node are shown."""

    def setUp(self) -> None:
        super().setUp()
        self.one = self.node(alone=True)

    def test_published(self) -> None:
        """Every ten seconds subscribers get all figures of their account, as decimal text."""
        client = self.one.connect()
        self.one.connect()
        self.one.subscribe(client, "$SYS/#")
        account = self.one.account()
        account.received, account.sent, account.dropped = 3, 20, 1
        self.assertEqual(client.take(), {})
        self.tick()
        self.assertEqual(client.take(), shown(2, 3, 20, 1))
        account.received += 1
        self.tick()
        self.assertEqual(client.take(), shown(2, 4, 20, 1))

    def test_one_figure(self) -> None:
        """A subscriber gets the figures that it wants, under the form of the name that it used."""
        client = self.one.connect()
        self.one.subscribe(client, "$SYS/clients/+", full=True)
        self.tick()
        self.assertEqual(client.take(), {"alice_shop_$SYS/clients/connected": b"1"})

    def test_leading_wildcard(self) -> None:
        """[MQTT-4.7.2-1]: a filter that begins with a wildcard brings no figures."""
        client = self.one.connect()
        for filter_ in ("#", "+/#", "+/clients/connected"):
            self.one.subscribe(client, filter_)
        self.tick()
        self.assertEqual(client.take(), {})
        found = self.one.gateway.retained(Interest(ALICE, "#", False))
        self.settle()
        self.assertEqual(self.successResultOf(found).runs, [])

    def test_unsubscribed(self) -> None:
        """After the last subscription has ended nothing is published for the account any more."""
        client = self.one.connect()
        first, second = self.one.subscribe(client, "$SYS/#"), self.one.subscribe(client, "$SYS/quota")
        self.one.gateway.unsubscribe(client, first)
        self.tick()
        self.assertEqual(list(client.take()), ["$SYS/quota"])
        self.one.gateway.unsubscribe(client, second)
        self.tick()
        self.assertEqual(client.take(), {})

    def test_accounts_apart(self) -> None:
        """The figures of one account hold nothing of another's."""
        alice, bob = self.one.connect(), self.one.connect(BOB)
        self.one.subscribe(alice, "$SYS/#")
        self.one.subscribe(bob, "$SYS/#", BOB)
        self.one.account(BOB).received += 5
        self.tick()
        self.assertEqual((alice.take(), bob.take()), (shown(1), shown(1, 5)))

    def test_disconnected(self) -> None:
        """A connection that has ended is not counted any more."""
        client, other = self.one.connect(), self.one.connect()
        self.one.subscribe(client, "$SYS/clients/connected")
        self.one.connections.remove(other)
        self.tick()
        self.assertEqual(client.take(), {"$SYS/clients/connected": b"1"})

    def test_new_subscriber(self) -> None:
        """A new subscription is answered by the figures of now, marked as retained."""
        self.one.connect()
        self.one.account().sent += 2
        page = self.page(self.one, "$SYS/#")
        self.assertEqual({run.topic.name: run.payloads[0] for run in page.runs}, shown(1, 0, 2))
        self.assertEqual(
            {(run.topic.namespace, run.qos, run.retain, run.count) for run in page.runs}, {(ALICE, 0, True, 1)}
        )
        self.assertEqual((page.after, page.places), (None, [None] * len(page.runs)))
        self.assertEqual(self.retained(self.one, "$SYS/messages/sent"), {"$SYS/messages/sent": b"2"})
        self.assertEqual(self.retained(self.one, "$SYS/nothing"), {})

    def test_pages(self) -> None:
        """Asked for a few at a time, the figures come page by page."""
        found: list[str] = []
        places: list[int] = []
        after: int | None = 0
        while after is not None:
            page = self.page(self.one, "$SYS/#", after=after, limit=2)
            self.assertLessEqual(len(page.runs), 2)
            found += [run.topic.name for run in page.runs]
            places += [run.sequences[0] for run in page.runs]
            after = page.after
        self.assertEqual(found, list(shown()))
        self.assertEqual(self.page(self.one, "$SYS/#", after=places[2]).runs[0].topic.name, found[3])
        self.assertEqual(self.page(self.one, "$SYS/#", after=places[-1]).runs, [])

    def test_nobody_there(self) -> None:
        """An account that nobody uses shows zeros, and is not remembered for having been asked about."""
        self.assertEqual(self.retained(self.one), shown())
        self.assertEqual(dict(self.one.meter.accounts()), {})

    def test_other_retained(self) -> None:
        """Filters that do not reach the reserved topics are answered from the store alone."""
        topic = self.one.gateway.route(principal(ALICE), "$SYSTEM").topic
        kept: Any = self.one.retained.put(topic, b"x", 0)
        self.settle()
        self.successResultOf(kept)
        found: Deferred[RetainedPage] = self.one.gateway.retained(Interest(ALICE, "$SYSTEM", False))
        self.settle()
        self.assertEqual([run.topic.name for run in self.successResultOf(found).runs], ["$SYSTEM"])

    def test_quota(self) -> None:
        """The quota is a JSON object of the limits that hold now."""
        self.assertEqual(
            json.loads(self.retained(self.one, "$SYS/quota")["$SYS/quota"]),
            {
                "message_bytes": 1000,
                "subscriptions": 7,
                "inflight_messages": LIMITS.inflight_messages,
                "queued_messages": LIMITS.queued_messages,
                "queued_bytes": LIMITS.queued_bytes,
                "session_seconds": LIMITS.session_seconds,
            },
        )

    def test_nobody_publishes_there(self) -> None:
        """No grant permits publishing to a reserved topic, in whatever form its name is written."""
        for name in ("$SYS", "$SYS/x", "$SYS/clients/connected", "alice_shop_$SYS/x", "$SYS/", "$SYS/#"):
            with self.assertRaises(InsufficientScope) as caught:
                self.one.gateway.route(principal(ALICE), name)
            self.assertIn("$SYS", caught.exception.detail)

    def test_names_that_look_alike(self) -> None:
        """Other topics are everybody's, also if they begin with a dollar sign."""
        for name in ("$SYSTEM/x", "$sys/x", "a/$SYS/x", "$S", "SYS"):
            self.assertEqual(self.one.gateway.route(principal(ALICE), name).topic.name, name)

    def test_idle_accounts(self) -> None:
        """An account without connection and message is forgotten after a while; one with a connection is not."""
        self.one.account(BOB).received += 1
        client = self.one.connect()
        account = self.one.account()
        self.tick(2 * FORGET_TICKS)
        self.assertEqual(list(self.one.meter.accounts()), [ALICE])
        self.assertIs(self.one.account(), account)
        self.one.connections.remove(client)
        self.tick(2 * FORGET_TICKS)
        self.assertEqual(list(self.one.meter.accounts()), [])

    def test_stopped(self) -> None:
        """After the stop nothing is published, and a second stop does nothing."""
        client = self.one.connect()
        self.one.subscribe(client, "$SYS/#")
        self.one.figures.stop()
        self.one.figures.stop()
        self.tick()
        self.assertEqual((client.take(), self.clock.getDelayedCalls()), ({}, []))

    def test_a_fault(self) -> None:
        """If it fails once that is logged, and the next time is as usual."""
        client = self.one.connect()
        self.one.subscribe(client, "$SYS/clients/#")

        def fail() -> list[Namespace]:
            raise RuntimeError("a fault of ours")

        self.patch(self.one.router, "reserved", fail)
        self.tick()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        del self.one.router.reserved
        self.tick()
        self.assertEqual(client.take(), {"$SYS/clients/connected": b"1"})


class SeveralNodesTests(_Case):
    """Figures are those of all nodes together."""

    def pair(self) -> tuple[Node, Node]:
        one, two = self.node(), self.node()
        self.tick()
        return one, two

    def test_together(self) -> None:
        """On every node the figures are the sum of all nodes."""
        one, two = self.pair()
        client = one.connect()
        one.subscribe(client, "$SYS/#")
        two.connect()
        two.connect(BOB)
        one.account().received += 1
        two.account().received += 10
        two.account().sent += 100
        two.account().dropped += 1000
        self.tick()
        client.take()
        self.tick()
        self.assertEqual(client.take(), shown(2, 11, 100, 1000))
        for node in (one, two):
            self.assertEqual(self.retained(node), shown(2, 11, 100, 1000))
            self.assertEqual(self.retained(node, namespace=BOB), shown(1))

    def test_three(self) -> None:
        """Every node knows of every other."""
        nodes = [self.node() for _ in range(3)]
        for node in nodes:
            node.connect()
        self.tick(2)
        self.assertEqual([self.retained(node) for node in nodes], [shown(3)] * 3)

    def test_only_what_changed(self) -> None:
        """A node tells what has changed; if nothing has, it tells that it is alive."""
        one, two = self.pair()
        for _ in range(2):
            one.connect()
        two.connect(BOB)
        heard: list[Report] = []
        two.peers.hear("figures", lambda payload: heard.append(Report.decode(payload)))
        self.tick(2)
        one.account().received += 1
        self.tick()
        told = [dict(report.accounts) for report in heard]
        self.assertEqual(told, [{"alice_shop_": (2, 0, 0, 0)}, {}, {"alice_shop_": (2, 1, 0, 0)}])

    def test_came_later(self) -> None:
        """A node that comes later learns at the next telling what had been told before."""
        one = self.node()
        one.connect()
        one.account().received += 4
        self.tick(3)
        two = self.node()
        self.tick()
        self.assertEqual(self.retained(two), shown(1, 4))

    def test_many_accounts(self) -> None:
        """However many accounts there are, all of them are told, in reports of a bounded size."""
        one, two = self.pair()
        names = [Namespace(f"user{number}", "a" * 32) for number in range(1001)]
        for name in names:
            one.account(name).received = 10**15
        sizes: list[int] = []
        two.peers.hear("figures", lambda payload: sizes.append(len(payload)))
        self.tick()
        self.assertEqual(
            {self.retained(two, namespace=name)["$SYS/messages/received"] for name in names}, {b"1000000000000000"}
        )
        self.assertLess(max(sizes), 32 * 1024)

    def test_bounded(self) -> None:
        """Of one other node no more than so many accounts are remembered; the known ones stay right."""
        self.patch(module, "MAX_ACCOUNTS", 1)
        one, two = self.pair()
        one.connect()
        self.tick()
        one.connect(BOB)
        one.account().sent += 1
        self.tick()
        self.assertEqual(self.retained(two), shown(1, 0, 1))
        self.assertEqual(self.retained(two, namespace=BOB), shown())

    def test_lost_report(self) -> None:
        """What a lost report said is told again, though it has not changed since."""
        one, two = self.pair()
        two.peers.go_away()
        one.connect()
        self.tick()
        two.peers.come_back()
        self.tick(3)
        self.assertEqual(self.retained(two), shown(1))
        self.assertEqual(self.retained(one), shown(1))

    def test_lost_removal(self) -> None:
        """An account that was forgotten while nobody heard it is forgotten everywhere."""
        self.patch(module, "FORGET_TICKS", 1)
        one, two = self.pair()
        one.account().received += 1
        self.tick()
        self.assertEqual(self.retained(two), shown(0, 1))
        one.peers.go_away()
        self.tick()
        self.assertEqual(dict(one.meter.accounts()), {})
        one.peers.come_back()
        self.tick(3)
        self.assertEqual(self.retained(two), shown())

    def test_lost_again(self) -> None:
        """As long as reports are lost the node goes on to ask, and knows everything in the end."""
        one, two = self.pair()
        for _ in range(3):
            two.peers.go_away()
            one.connect()
            self.tick()
            two.peers.come_back()
            self.tick()
        self.tick(2)
        self.assertEqual(self.retained(two), shown(3))

    def test_silent_node(self) -> None:
        """A node that is silent for 35 seconds is forgotten with all it had told, and heard again when it is back."""
        one, two = self.pair()
        one.connect()
        two.connect()
        self.tick()
        two.peers.go_away()
        self.tick(3)
        self.assertEqual(self.retained(one), shown(2))
        self.tick()
        self.assertEqual(self.retained(one), shown(1))
        two.peers.come_back()
        self.tick(3)
        self.assertEqual([self.retained(node) for node in (one, two)], [shown(2)] * 2)

    def test_node_stops(self) -> None:
        """A node that stops in order is forgotten at once."""
        one, two = self.pair()
        two.connect()
        self.tick()
        self.assertEqual(self.retained(one), shown(1))
        two.figures.stop()
        self.settle()
        self.assertEqual(self.retained(one), shown())

    def test_forgotten_together(self) -> None:
        """An account is not forgotten while it is connected to another node, whose subscribers see this one's part."""
        one, two = self.pair()
        client = two.connect()
        one.account().received += 7
        self.tick(3 * FORGET_TICKS)
        self.assertEqual(self.retained(two), shown(1, 7))
        two.connections.remove(client)
        self.tick(3 * FORGET_TICKS)
        self.assertEqual([self.retained(node) for node in (one, two)], [shown()] * 2)
        self.assertEqual([dict(node.meter.accounts()) for node in (one, two)], [{}, {}])

    def test_alone(self) -> None:
        """A node that can have no others tells nobody."""
        heard: list[bytes] = []
        MemoryPeers(self.hub).hear("figures", heard.append)
        node = self.node(alone=True)
        node.connect()
        self.tick()
        node.figures.stop()
        self.settle()
        self.assertEqual(heard, [])

    def test_nonsense(self) -> None:
        """A report that cannot be read is logged and changes nothing."""
        one, two = self.pair()
        two.connect()
        self.tick()
        for payload in (
            b"",
            b"{}",
            b"[]",
            b"1",
            b"\xff",
            b'{"node":"x","number":1,"base":1,"again":[],"accounts":{"a":[1]}}',
        ):
            with capturedLogs() as logs:
                two.peers.tell("figures", payload)
                self.settle()
            self.assertEqual([str(event["log_level"]) for event in logs], ["<LogLevel=error>"], payload)
        self.assertEqual(self.retained(one), shown(1))


class ReportTests(SynchronousTestCase):
    """What nodes tell each other, as bytes."""

    @given(
        st.text(max_size=20),
        st.integers(0, 2**63),
        st.integers(0, 2**63),
        st.lists(st.text(max_size=20), max_size=3),
        st.dictionaries(st.text(max_size=66), st.none() | st.tuples(*[st.integers(0, 2**63)] * 4), max_size=5),
    )
    def test_round_trip(self, node: str, number: int, base: int, again: list[str], accounts: dict[str, Any]) -> None:
        """What was told is what is heard."""
        report = Report(node, number, base, again, accounts)
        self.assertEqual(Report.decode(report.encode()), report)

    @given(
        st.recursive(
            st.none() | st.integers() | st.text() | st.floats(),
            lambda below: st.lists(below) | st.dictionaries(st.text(), below),
        )
    )
    def test_anything_else(self, value: object) -> None:
        """Whatever else comes raises one kind of error."""
        for found in (value, {"node": value, "number": value, "base": value, "again": value, "accounts": value}):
            try:
                Report.decode(json.dumps(found).encode())
            except ValueError:
                continue
