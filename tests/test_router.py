"""Local fan-out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flowgate import router as router_module
from flowgate.interfaces import ISubscriber
from flowgate.message import Run
from flowgate.router import Router
from flowgate.topics import Namespace, Topic, matches

ALICE = Namespace("alice", "shop")
BOB = Namespace("bob", "shop")


@implementer(ISubscriber)
class Subscriber:
    """Notes what it is given: topic, form, quality of service."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bool, int]] = []

    def deliver(self, run: Run, full: bool, qos: int) -> None:
        self.got.append((run.topic.name, full, qos))

    def take(self) -> list[tuple[str, bool, int]]:
        got, self.got = self.got, []
        return got


class RouterTests(SynchronousTestCase):
    """Who on this node gets the messages of a topic."""

    def setUp(self) -> None:
        self.router = Router()
        self.one, self.two = Subscriber(), Subscriber()

    def publish(self, name: str, namespace: Namespace = ALICE, recorded: bool = False) -> None:
        self.router.deliver(Run(Topic(namespace, name), [b"x"], recorded=recorded))

    def test_subscriber(self) -> None:
        """The subscriber of these tests is one."""
        verifyObject(ISubscriber, self.one)

    def test_matching(self) -> None:
        """A message reaches those whose filter matches, and no others."""
        self.router.subscribe(self.one, ALICE, "a/+", False)
        self.router.subscribe(self.two, ALICE, "b", False)
        self.publish("a/x")
        self.assertEqual((self.one.take(), self.two.take()), ([("a/x", False, 0)], []))

    def test_nobody(self) -> None:
        """A message that nobody wants goes nowhere, also in a namespace that nobody knows."""
        self.publish("a")
        self.router.subscribe(self.one, ALICE, "b", False)
        self.publish("a")
        self.assertEqual(self.one.take(), [])

    def test_namespaces_are_apart(self) -> None:
        """No filter of one namespace, however wide, matches a topic of another."""
        for filter_ in ("#", "+", "+/#", "a", "bob_shop_#", "bob_shop_a", "+/+"):
            self.router.subscribe(self.one, ALICE, filter_, False)
        self.router.subscribe(self.two, BOB, "#", False)
        self.publish("a", BOB)
        self.publish("bob_shop_a", BOB)
        self.assertEqual((self.one.take(), len(self.two.take())), ([], 2))

    def test_overlapping_once(self) -> None:
        """[MQTT-3.3.5-1]: overlapping filters of one subscriber bring a message once, at the highest QoS, in whatever
        order they were made."""
        for filters in ((("#", 2), ("a/+", 0), ("a/b", 1)), (("a/b", 0), ("a/+", 1), ("#", 2)), (("a/+", 2), ("#", 1))):
            router = self.router = Router()
            for filter_, qos in filters:
                router.subscribe(self.one, ALICE, filter_, False, qos)
            self.publish("a/b")
            self.assertEqual(self.one.take(), [("a/b", False, 2)])

    def test_both_forms(self) -> None:
        """A subscriber to the short and to the full name is shown both, each at the QoS of its own filters."""
        self.router.subscribe(self.one, ALICE, "a", False, 1)
        self.router.subscribe(self.one, ALICE, "a", True, 2)
        self.router.subscribe(self.one, ALICE, "#", True, 0)
        self.publish("a")
        self.assertEqual(sorted(self.one.take()), [("a", False, 1), ("a", True, 2)])

    def test_replace(self) -> None:
        """[MQTT-3.8.4-3]: the same filter again takes the place of the first: nothing comes twice, at the new QoS."""
        self.assertTrue(self.router.subscribe(self.one, ALICE, "a/#", False, 2))
        self.publish("a/b")
        self.assertFalse(self.router.subscribe(self.one, ALICE, "a/#", False, 1))
        self.publish("a/b")
        self.assertEqual(self.one.take(), [("a/b", False, 2), ("a/b", False, 1)])
        self.assertTrue(self.router.unsubscribe(self.one, ALICE, "a/#", False))
        self.publish("a/b")
        self.assertEqual(self.one.take(), [])

    def test_unsubscribe(self) -> None:
        """An ended subscription brings nothing more; others, of the same subscriber and of others, stay."""
        for subscriber in (self.one, self.two):
            self.router.subscribe(subscriber, ALICE, "a", False)
        self.router.subscribe(self.one, ALICE, "b", False)
        self.assertTrue(self.router.unsubscribe(self.one, ALICE, "a", False))
        self.publish("a")
        self.publish("b")
        self.assertEqual((self.one.take(), self.two.take()), ([("b", False, 0)], [("a", False, 0)]))

    def test_unsubscribe_unknown(self) -> None:
        """Ending what is not there, or in another form or namespace, or twice, changes nothing and says so."""
        self.assertFalse(self.router.unsubscribe(self.one, ALICE, "a", False))
        self.router.subscribe(self.one, ALICE, "a", False)
        for namespace, filter_, full in ((ALICE, "a", True), (BOB, "a", False), (ALICE, "+", False)):
            self.assertFalse(self.router.unsubscribe(self.one, namespace, filter_, full))
        self.assertFalse(self.router.unsubscribe(self.two, ALICE, "a", False))
        self.publish("a")
        self.assertEqual(len(self.one.take()), 1)
        self.assertTrue(self.router.unsubscribe(self.one, ALICE, "a", False))
        self.assertFalse(self.router.unsubscribe(self.one, ALICE, "a", False))

    def test_subscriptions(self) -> None:
        """The router tells what a subscriber has."""
        self.assertEqual(self.router.subscriptions(self.one), [])
        self.router.subscribe(self.one, ALICE, "a", False)
        self.router.subscribe(self.one, BOB, "#", True)
        self.router.subscribe(self.two, ALICE, "b", False)
        self.assertEqual(self.router.subscriptions(self.one), [(ALICE, "a", False), (BOB, "#", True)])

    def test_reserved(self) -> None:
        """The router tells where somebody listens to the gateway's own topics, as long as anybody does."""
        for filter_ in ("#", "+/a", "$SYSTEM/#", "a"):
            self.router.subscribe(self.one, ALICE, filter_, False)
        self.assertEqual(self.router.reserved(), [])
        for subscriber, namespace, filter_ in (
            (self.one, ALICE, "$SYS/#"),
            (self.two, ALICE, "$SYS/a"),
            (self.two, BOB, "$SYS"),
        ):
            self.router.subscribe(subscriber, namespace, filter_, False)
            self.router.subscribe(subscriber, namespace, filter_, False, 1)
        self.assertEqual(self.router.reserved(), [ALICE, BOB])
        self.router.unsubscribe(self.one, ALICE, "$SYS/#", False)
        self.router.unsubscribe(self.two, BOB, "$SYS", False)
        self.router.unsubscribe(self.two, BOB, "$SYS", False)
        self.assertEqual(self.router.reserved(), [ALICE])
        self.router.unsubscribe(self.two, ALICE, "$SYS/a", False)
        self.assertEqual(self.router.reserved(), [])

    def test_nothing_left(self) -> None:
        """When the last subscription has ended the router keeps nothing of it."""
        for subscriber in (self.one, self.two):
            for filter_ in ("a/b", "a/#", "+"):
                self.router.subscribe(subscriber, ALICE, filter_, False)
        self.publish("a/b")
        for subscriber in (self.one, self.two):
            for namespace, filter_, full in self.router.subscriptions(subscriber):
                self.router.unsubscribe(subscriber, namespace, filter_, full)
        self.assertEqual((self.router._own, self.router._spaces), ({}, {}))

    def test_history_reader(self) -> None:
        """A reader of history gets here only what history does not hold; others get everything."""
        self.router.subscribe(self.one, ALICE, "a", False, history=True)
        self.router.subscribe(self.two, ALICE, "a", False)
        self.publish("a", recorded=True)
        self.assertEqual((len(self.one.take()), len(self.two.take())), (0, 1))
        self.publish("a", recorded=False)
        self.assertEqual((len(self.one.take()), len(self.two.take())), (1, 1))

    def test_history_reader_overlapping(self) -> None:
        """Overlapping filters of a history reader bring an unrecorded message once."""
        self.router.subscribe(self.one, ALICE, "a", False, history=True)
        self.router.subscribe(self.one, ALICE, "#", False, history=True)
        self.publish("a")
        self.assertEqual(len(self.one.take()), 1)

    def test_live_and_history(self) -> None:
        """One that reads history through one filter and listens through another gets a message here once."""
        self.router.subscribe(self.one, ALICE, "a", False, history=True)
        self.router.subscribe(self.one, ALICE, "#", False)
        for recorded in (False, True):
            self.publish("a", recorded=recorded)
            self.assertEqual(len(self.one.take()), 1)

    def test_history_replaced(self) -> None:
        """The same filter again can begin and end the reading of history."""
        self.router.subscribe(self.one, ALICE, "a", False)
        self.publish("a", recorded=True)
        self.router.subscribe(self.one, ALICE, "a", False, history=True)
        self.publish("a", recorded=True)
        self.assertEqual(len(self.one.take()), 1)
        self.router.subscribe(self.one, ALICE, "a", False)
        self.publish("a", recorded=True)
        self.assertEqual(len(self.one.take()), 1)

    def test_remembered_targets_change(self) -> None:
        """A topic whose subscribers are remembered follows every change of exact and of wildcard filters."""
        self.publish("a/b")
        for filter_ in ("a/b", "a/+", "#", "+/b"):
            self.router.subscribe(self.one, ALICE, "keeps/the/namespace", False)
            self.router.subscribe(self.two, ALICE, filter_, False)
            self.publish("a/b")
            self.assertEqual(len(self.two.take()), 1, filter_)
            self.router.unsubscribe(self.two, ALICE, filter_, False)
            self.publish("a/b")
            self.assertEqual(self.two.take(), [], filter_)

    def test_memory_is_bounded(self) -> None:
        """Topics whose subscribers are remembered are no more than the bound."""
        self.patch(router_module, "_CACHED_TOPICS", 10)
        self.router.subscribe(self.one, ALICE, "#", False)
        for index in range(35):
            self.publish(str(index))
        self.assertEqual(len(self.one.take()), 35)
        self.assertLessEqual(len(self.router._spaces[ALICE].targets), 10)

    def test_leaving_while_delivering(self) -> None:
        """A subscriber that ends its own or another's subscription while it is given a run disturbs nobody."""

        class Leaver(Subscriber):
            def deliver(self, run: Run, full: bool, qos: int) -> None:
                super().deliver(run, full, qos)
                for one in (leaver, first):
                    for namespace, filter_, full in router.subscriptions(one):
                        router.unsubscribe(one, namespace, filter_, full)

        router, first, leaver, last = self.router, Subscriber(), Leaver(), Subscriber()
        for subscriber in (first, leaver, last):
            router.subscribe(subscriber, ALICE, "#", False)
        self.publish("a")
        self.publish("a")
        self.assertEqual([len(one.got) for one in (first, leaver, last)], [1, 1, 2])

    @settings(max_examples=150, deadline=None, database=None)
    @given(
        st.lists(
            st.tuples(
                st.booleans(),
                st.integers(0, 1),
                st.sampled_from(["a", "b", "a/b", "+", "#", "a/#", "+/b", "a/+", "$s/#"]),
                st.booleans(),
                st.integers(0, 2),
            ),
            max_size=15,
        )
    )
    def test_model(self, steps: list[tuple[bool, int, str, bool, int]]) -> None:
        """After any changes a message reaches whom a plain comparison with every filter says, at the highest QoS."""
        router = Router()
        subscribers = (Subscriber(), Subscriber())
        model: dict[tuple[int, str, bool], int] = {}
        for add, who, filter_, full, qos in steps:
            if add:
                router.subscribe(subscribers[who], ALICE, filter_, full, qos)
                model[who, filter_, full] = qos
            else:
                self.assertEqual(
                    router.unsubscribe(subscribers[who], ALICE, filter_, full),
                    model.pop((who, filter_, full), None) is not None,
                )
            for name in ("a", "a/b", "b", "$s/b"):
                router.deliver(Run(Topic(ALICE, name), [b"x"]))
                for index, subscriber in enumerate(subscribers):
                    best: dict[bool, int] = {}
                    for (who_, filter_, full_), granted in model.items():
                        if who_ == index and matches(filter_, name):
                            best[full_] = max(granted, best.get(full_, 0))
                    self.assertEqual(sorted(subscriber.take()), [(name, form, best[form]) for form in sorted(best)])
