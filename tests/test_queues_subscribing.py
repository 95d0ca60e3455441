"""Subscriptions of queues, over the fakes of bus and groups and queues that only remember."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_topics import MemoryBus
from flowgate.errors import BusUnavailable, MessageTooLarge, NotFound
from flowgate.interfaces import IGroupMember
from flowgate.message import Run
from flowgate.queues import subscription
from flowgate.queues.model import (
    Outgoing,
    QueueConfig,
    QueueDescription,
    QueueFull,
    attributes_bytes,
    check_attributes,
)
from flowgate.queues.subscribing import QueueSubscriptions
from flowgate.topics import Namespace, Topic
from tests.contracts.topics import OTHER, SHOP, numbered

Q = "jobs"


class FakeQueues:
    """The queues of all nodes: remembers what was deposited.

    :ivar deposits: messages and origins of each deposit.
    :ivar refusal: with what deposits fail.
    :ivar held: deposits that do not fire, if not ``None``; these have not stored anything yet.
    """

    def __init__(self) -> None:
        self.described: dict[tuple[Namespace, str], QueueDescription] = {}
        self.listeners: list[Callable[[Namespace, str, Sequence[str]], None]] = []
        self.deposits: list[tuple[list[Outgoing], list[str]]] = []
        self.refusal: Callable[[Sequence[Outgoing]], Exception | None] = lambda _: None
        self.held: list[tuple[Deferred[None], Callable[[], Any]]] | None = None

    def make(self, name: str = Q, *filters: str, created_at: int = 1, **members: Any) -> None:
        config = QueueConfig.parse(name, members)
        self.described[SHOP, name] = QueueDescription(name, config, created_at, created_at)
        if filters:
            self.subscribe(name, *filters)

    def subscribe(self, name: str, *filters: str) -> None:
        """Write down subscriptions, in place of others."""
        self.described[SHOP, name] = attrs.evolve(self.described[SHOP, name], subscriptions=filters)
        for listener in self.listeners:
            listener(SHOP, name, filters)

    def remove(self, name: str = Q) -> None:
        del self.described[SHOP, name]
        for listener in self.listeners:
            listener(SHOP, name, ())

    def stored(self, name: str = Q) -> list[Outgoing]:
        """What the queue holds: each origin once."""
        found: dict[str, Outgoing] = {}
        for messages, origins in self.deposits:
            for message, origin in zip(messages, origins, strict=True):
                found.setdefault(origin, message)
        return list(found.values())

    @property
    def bodies(self) -> list[str]:
        return [message.body for message in self.stored()]

    # -- what is used of them

    def find(self, home: Namespace, name: str) -> QueueDescription:
        try:
            return self.described[home, name]
        except KeyError:
            raise NotFound("there is no such queue") from None

    def on_subscriptions(self, changed: Callable[[Namespace, str, Sequence[str]], None]) -> None:
        self.listeners.append(changed)
        for (home, name), one in self.described.items():
            if one.subscriptions:
                changed(home, name, one.subscriptions)

    def deposit(
        self, home: Namespace, name: str, messages: Sequence[Outgoing], origins: Sequence[str]
    ) -> Deferred[None]:
        if (home, name) not in self.described:
            return fail(NotFound("there is no such queue"))
        refusal = self.refusal(messages)
        if refusal is not None:
            return fail(refusal)

        def store() -> None:
            self.deposits.append((list(messages), list(origins)))

        if self.held is None:
            store()
            return succeed(None)
        deferred: Deferred[None] = Deferred()
        self.held.append((deferred, store))
        return deferred


class SubscribingTests(SynchronousTestCase):
    """Two nodes whose queues are subscribed to topics."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.bus = MemoryBus(self.clock)
        self.bus.start()
        self.hub = MemoryGroupsHub(self.clock, self.bus)
        self.queues = FakeQueues()
        self.one, self.two = self.node(), self.node()

    def node(self) -> QueueSubscriptions:
        node = QueueSubscriptions(self.queues, MemoryGroups(self.hub), lambda: self.bus.epoch, self.clock)
        node.start()
        return node

    def settle(self, seconds: float = 0) -> None:
        self.clock.pump([0] * 20 + [seconds] + [0] * 20)

    def publish(self, name: str, *payloads: bytes, namespace: Namespace = SHOP, qos: int = 1) -> None:
        run = Run(Topic(namespace, name), payloads, qos=qos)
        if qos:
            self.bus.publish(run)
        else:
            self.bus.send(run, True)
        self.settle()

    def make(self, name: str = Q, *filters: str, **members: Any) -> None:
        self.queues.make(name, *(filters or ("alice_shop_a/#",)), **members)
        self.settle()

    def groups(self) -> list[str]:
        return [group for _, group, _, _ in self.hub.groups]

    # -- what arrives

    def test_arrives_once(self) -> None:
        """A message on a matching topic is in the queue once, of every quality of service; others are not."""
        self.make()
        self.publish("a", b"0")
        self.publish("b", b"-")
        self.publish("a/b", b"1", b"2", qos=2)
        self.publish("a/b", b"3", qos=0)
        self.publish("a", b"-", namespace=OTHER)
        self.assertEqual(self.queues.bodies, ["0", "1", "2", "3"])
        self.assertEqual(sum(len(messages) for messages, _ in self.queues.deposits), 4)

    def test_form(self) -> None:
        """Topic and id are attributes, the id is the origin; nothing else is said."""
        self.make()
        self.publish("a/ü", "grün".encode())
        ((messages, origins),) = self.queues.deposits
        (message,) = messages
        self.assertEqual(message.body, "grün")
        self.assertEqual(
            {name: (one.type, one.value) for name, one in message.attributes.items()},
            {"topic": ("String", "a/ü"), "id": ("String", "memory-1")},
        )
        self.assertEqual(origins, ["memory-1"])
        self.assertEqual((message.group, message.dedup_id, message.delay), (None, None, None))

    def test_other_namespace(self) -> None:
        """A queue can have topics of another namespace; these are shown by their full names."""
        self.make(Q, "alice_other_#", "alice_shop_a")
        self.publish("a", b"0", namespace=OTHER)
        self.publish("a", b"1")
        topics = [message.attributes["topic"].value for message in self.queues.stored()]
        self.assertEqual(topics, ["alice_other_a", "a"])

    def test_leave_of_another_account(self) -> None:
        """A subscription rests, on all nodes, while another account does not give leave, and goes on when it does."""
        admitted = {OTHER.prefix + "a"}
        for node in (self.one, self.two):
            self.patch(node, "_admits", lambda home, one: one.startswith(home.prefix) or one in admitted)
        self.make(Q, "alice_other_a", "alice_shop_a")
        self.publish("a", b"0", namespace=OTHER)

        def review() -> None:
            for node in (self.one, self.two):
                node.review()
                self.settle()

        admitted.clear()
        review()
        self.assertEqual(len(self.groups()), 1)
        self.publish("a", b"1", namespace=OTHER)
        self.publish("a", b"2")
        self.assertEqual(self.queues.bodies, ["0", "2"])
        review()
        self.publish("a", b"3", namespace=OTHER)
        admitted.add(OTHER.prefix + "a")
        review()
        self.publish("a", b"4", namespace=OTHER)
        self.assertEqual(self.queues.bodies, ["0", "2", "4"])
        self.queues.subscribe(Q, "alice_shop_a")
        self.settle()
        review()
        self.publish("a", b"5", namespace=OTHER)
        self.assertEqual(self.queues.bodies, ["0", "2", "4"])

    def test_bytes(self) -> None:
        """What is no text, or no text for SQS, is base64 and says so; an empty payload is an empty body."""
        self.make()
        for payload in (b"\xff\x00", b"a\0b", b""):
            self.publish("a", payload)
        stored = self.queues.stored()
        self.assertEqual([message.body for message in stored], ["/wA=", "YQBi", ""])
        encodings = [message.attributes.get("ContentEncoding") for message in stored]
        self.assertEqual([one and (one.type, one.value) for one in encodings], [("String", "base64")] * 2 + [None])
        for message in stored:
            check_attributes(message.attributes)

    def test_unusual_topic(self) -> None:
        """A topic with characters that SQS clients could not be shown is a binary attribute."""
        self.make()
        self.publish("a/\x01", b"0")
        (message,) = self.queues.stored()
        self.assertEqual((message.attributes["topic"].type, message.attributes["topic"].raw()), ("Binary", b"a/\x01"))
        check_attributes(message.attributes)

    def test_overlapping_filters(self) -> None:
        """A message that several subscriptions of a queue match has the same origin in each."""
        self.make(Q, "alice_shop_a/#", "alice_shop_+", "alice_shop_a")
        self.publish("a", b"0")
        self.assertEqual([origins for _, origins in self.queues.deposits], [["memory-1"]] * 3)
        self.assertEqual(self.queues.bodies, ["0"])

    def test_several_queues(self) -> None:
        """Each queue that has subscribed gets each message."""
        self.make()
        self.make("others", "alice_shop_a")
        self.publish("a", b"0")
        self.assertEqual([len(messages) for messages, _ in self.queues.deposits], [1, 1])

    def test_fifo(self) -> None:
        """In a FIFO queue the topic is the group, or its hash, and the id the deduplication id; order is kept."""
        self.make("jobs.fifo")
        long = "a/" + "b" * 127
        for number in range(5):
            self.publish("a", b"%d" % (2 * number), b"%d" % (2 * number + 1))
        for topic in (long, "a/ü", "a/b c"):
            self.publish(topic, b"-")
        stored = self.queues.stored()
        self.assertEqual([message.body for message in stored], [*map(str, range(10)), "-", "-", "-"])
        self.assertEqual([message.dedup_id for message in stored], [f"memory-{number}" for number in range(1, 14)])
        self.assertEqual({message.group for message in stored[:10]}, {"a"})
        hashes = [hashlib.sha256(topic.encode()).hexdigest() for topic in (long, "a/ü", "a/b c")]
        self.assertEqual([message.group for message in stored[10:]], hashes)

    # -- how it is deposited

    def test_batches(self) -> None:
        """What comes at once is deposited together, within bounds; the node has a bounded number of messages."""
        self.make(Q, "alice_shop_#")
        self.two.stop()
        self.bus.publish(Run(Topic(SHOP, "b"), [b"x"] * 200, qos=1))  # so that it knows how large they are
        self.settle()
        self.assertEqual(self.one.deposited, 200)
        self.queues.deposits.clear()
        self.queues.held = []
        self.bus.publish(Run(Topic(SHOP, "a"), numbered(0, 900), qos=1))
        self.settle()
        held, self.queues.held = self.queues.held, None
        self.assertEqual(len(held), 3)
        self.assertEqual(self.queues.deposits, [])
        for deferred, store in held:
            store()
            deferred.callback(None)
        self.settle()
        self.assertLessEqual(max(len(messages) for messages, _ in self.queues.deposits), subscription.BATCH)
        self.assertEqual(sum(len(messages) for messages, _ in self.queues.deposits[:3]), subscription.AT_ONCE)
        self.assertEqual(self.queues.bodies, [str(number) for number in range(900)])
        self.assertEqual(self.one.deposited, 1100)

    def test_large_messages(self) -> None:
        """Deposits are bounded in bytes, and a node that sees large messages is ready for fewer."""
        self.make()
        self.two.stop()
        large = b"x" * 200_000
        for _ in range(7):
            self.publish("a", *[large] * 10)
            for messages, _ in self.queues.deposits:
                self.assertLessEqual(sum(len(message.body) for message in messages), subscription.BATCH_BYTES)
        self.queues.held = []
        for _ in range(60):
            self.publish("a", *[large] * 10)
        self.assertLess(len(self.queues.held) * 400_000, 1.5 * subscription.AT_ONCE_BYTES)

    def test_too_large(self) -> None:
        """A message that the queue does not take for its size is dropped, counted and logged; others arrive."""
        self.make(max_message_bytes=1024)
        self.publish("a", b"0", b"x" * 1024, b"1")
        self.publish("a", b"x" * 1024)
        self.publish("a", b"2")
        self.assertEqual(self.queues.bodies, ["0", "1", "2"])
        self.assertEqual(self.one.dropped + self.two.dropped, 2)
        self.settle(60)
        self.assertEqual(sum(len(messages) for messages, _ in self.queues.deposits), 3)

    def test_size(self) -> None:
        """The size of a message is that of body and attributes."""
        self.make(max_message_bytes=1024)
        attributes = 5 + 6 + 1 + 2 + 6 + len("memory-1")
        self.publish("a", b"x" * (1024 - attributes))
        self.publish("a", b"x" * (1025 - attributes))
        self.assertEqual(len(self.queues.bodies), 1)
        (message,) = self.queues.stored()
        self.assertEqual(len(message.body) + attributes_bytes(message.attributes), 1024)
        self.publish("a", b"\xff" * 700)
        self.publish("a", b"\xff" * 780)
        (_, message) = self.queues.stored()
        self.assertLess(len(message.body) + attributes_bytes(message.attributes), 1024)

    def test_refused_for_good(self) -> None:
        """If the queue refuses a batch for one of its messages, that one is dropped and the others are deposited."""
        self.make()
        self.queues.refusal = lambda messages: MessageTooLarge() if any(one.body == "bad" for one in messages) else None
        self.publish("a", b"0", b"bad", b"1")
        self.assertEqual(sorted(self.queues.bodies), ["0", "1"])
        self.assertEqual(self.one.dropped + self.two.dropped, 1)

    def test_refused_for_now(self) -> None:
        """What cannot be deposited now is deposited later, once."""
        for refusal in (BusUnavailable(), QueueFull(), ValueError("a fault")):
            self.make()
            self.queues.deposits.clear()
            self.queues.refusal = lambda _, refusal=refusal: refusal  # type: ignore[misc]
            self.publish("a", *numbered(0, 5))
            for _ in range(5):
                self.settle(1)
            self.publish("a", *numbered(5, 7))
            self.assertEqual(self.queues.deposits, [])
            self.queues.refusal = lambda _: None
            self.settle(10)
            self.assertEqual(sorted(self.queues.bodies), [str(number) for number in range(7)])
            self.queues.remove()
            self.settle()
        self.assertTrue(self.flushLoggedErrors(ValueError))

    def test_node_dies(self) -> None:
        """What a node had when it died is deposited by another, with the same origin."""
        self.make()
        self.queues.held = []
        self.publish("a", *numbered(0, 4))
        held, self.queues.held = self.queues.held, None
        held[0][1]()  # one deposit did arrive
        groups = self.one.groups
        assert isinstance(groups, MemoryGroups)
        groups.die()
        self.one.changed = lambda *_: None  # type: ignore[method-assign]
        held[1][1]()
        held[1][0].callback(None)
        self.settle(10)
        self.assertEqual(sorted(self.queues.bodies), ["0", "1", "2", "3"])

    def test_outage(self) -> None:
        """After an outage of the bus everything goes on."""
        self.make()
        self.bus.go_away()
        self.queues.subscribe(Q, "alice_shop_a/#", "alice_shop_b")
        self.settle(1)
        self.bus.come_back()
        self.settle(10)
        self.publish("a", b"0")
        self.publish("b", b"1")
        self.assertEqual(self.queues.bodies, ["0", "1"])

    def test_all_nodes_stop(self) -> None:
        """What is published while there is no node arrives when there is one again."""
        self.make()
        self.publish("a", b"0")
        self.one.stop()
        self.two.stop()
        self.queues.listeners.clear()
        self.publish("a", b"1")
        self.settle(24 * 3600 - 1)
        self.assertEqual(self.queues.bodies, ["0"])
        self.node()
        self.settle()
        self.assertEqual(self.queues.bodies, ["0", "1"])

    def test_stop_gives_back(self) -> None:
        """What a node that stops has not deposited is deposited by another at once."""
        self.make()
        self.queues.held = []
        self.publish("a", *numbered(0, 4))
        self.queues.held = None
        self.one.stop()
        self.settle()
        self.assertEqual(len(self.queues.bodies), 2)  # those of the other node are still under way
        self.two.stop()
        self.settle()
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.getTime() < 3600], [])

    # -- subscribing and its end

    def test_prepared(self) -> None:
        """From the moment of preparation on messages are kept for the queue, and deposited once it has subscribed."""
        self.queues.make()
        prepared = self.one.prepare(SHOP, Q, "alice_shop_a")
        self.settle()
        self.successResultOf(prepared)
        self.assertTrue(self.two.groups.wants(Topic(SHOP, "a")))
        self.publish("a", b"0")
        self.assertEqual(self.queues.deposits, [])
        self.queues.subscribe(Q, "alice_shop_a")
        self.settle()
        self.publish("a", b"1")
        self.assertEqual(self.queues.bodies, ["0", "1"])
        self.settle(subscription.CONFIRM_SECONDS)
        self.publish("a", b"2")
        self.assertEqual(self.queues.bodies, ["0", "1", "2"])

    def test_prepared_in_vain(self) -> None:
        """What was prepared and does not become a subscription is forgotten."""
        self.queues.make()
        self.one.prepare(SHOP, Q, "alice_shop_a")
        self.settle()
        self.assertEqual(len(self.groups()), 1)
        self.settle(subscription.CONFIRM_SECONDS)
        self.assertEqual(self.groups(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_prepared_and_not_told(self) -> None:
        """What was prepared and has become a subscription goes on, also if this node was not told."""
        self.queues.make()
        self.one.prepare(SHOP, Q, "alice_shop_a")
        self.queues.listeners.clear()
        self.queues.subscribe(Q, "alice_shop_a")
        self.publish("a", b"0")
        self.settle(subscription.CONFIRM_SECONDS)
        self.assertEqual(self.queues.bodies, ["0"])

    def test_prepare_again(self) -> None:
        """To prepare what is there, or about to be, waits for it and changes nothing."""
        self.queues.make()
        first, second = (self.one.prepare(SHOP, Q, "alice_shop_a") for _ in range(2))
        self.settle()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.one.prepare(SHOP, Q, "alice_shop_a"))
        self.assertEqual(len(self.groups()), 1)

    def test_prepare_while_away(self) -> None:
        """Nothing can be prepared while the bus is away, for a queue that is not there, or by a node that stops."""
        self.failureResultOf(self.one.prepare(SHOP, Q, "alice_shop_a"), NotFound)
        self.queues.make()
        self.bus.go_away()
        self.failureResultOf(self.one.prepare(SHOP, Q, "alice_shop_b"), BusUnavailable)
        self.bus.come_back()
        self.settle()
        prepared = self.one.prepare(SHOP, Q, "alice_shop_b")
        self.settle()
        self.successResultOf(prepared)
        self.patch(self.one.groups, "join", lambda *_, **__: Deferred())
        waiting = self.one.prepare(SHOP, Q, "alice_shop_c")
        self.one.stop()
        self.failureResultOf(waiting, BusUnavailable)
        self.failureResultOf(self.one.prepare(SHOP, Q, "alice_shop_d"), BusUnavailable)

    def test_unsubscribed(self) -> None:
        """After the end of a subscription nothing arrives by it, and nothing is kept for it; others go on."""
        self.make(Q, "alice_shop_a", "alice_shop_b")
        self.queues.subscribe(Q, "alice_shop_b")
        self.settle()
        self.publish("a", b"0")
        self.publish("b", b"1")
        self.assertEqual(self.queues.bodies, ["1"])
        self.assertEqual(len(self.groups()), 1)
        self.assertFalse(self.one.groups.wants(Topic(SHOP, "a")))

    def test_subscribed_again(self) -> None:
        """A queue that subscribes again does not get what was published in between."""
        self.make()
        self.queues.subscribe(Q)
        self.settle()
        self.publish("a", b"0")
        prepared = self.one.prepare(SHOP, Q, "alice_shop_a/#")
        self.settle()
        self.successResultOf(prepared)
        self.publish("a", b"1")
        self.queues.subscribe(Q, "alice_shop_a/#")
        self.settle()
        self.assertEqual(self.queues.bodies, ["1"])

    def test_unsubscribed_during_an_outage(self) -> None:
        """A subscription that ends while the bus is away is forgotten afterwards, unless there is one again."""
        self.make(Q, "alice_shop_a", "alice_shop_b")
        self.bus.go_away()
        self.queues.subscribe(Q)
        self.queues.subscribe(Q, "alice_shop_b")
        self.settle(1)
        self.assertEqual(len(self.groups()), 2)
        self.bus.come_back()
        self.settle(10)
        self.assertEqual([filter_ for _, _, filter_, _ in self.hub.groups], ["b"])
        self.publish("b", b"1")
        self.assertEqual(self.queues.bodies, ["1"])

    def test_removed(self) -> None:
        """A queue that was removed gets nothing, and leaves nothing behind."""
        self.make()
        self.queues.held = []
        self.publish("a", b"0", b"1")
        self.queues.remove()
        for deferred, _ in self.queues.held:
            deferred.errback(NotFound("there is no such queue"))
        self.settle(60)
        self.assertEqual(self.groups(), [])
        self.one.stop()
        self.two.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_removed_and_not_told_yet(self) -> None:
        """A queue that is gone is asked for in ever longer intervals, until that is told."""
        self.make()
        del self.queues.described[SHOP, Q]
        self.publish("a", b"0")
        self.settle(30)
        self.queues.make(created_at=2)
        self.queues.remove()
        self.settle()
        self.assertEqual(self.queues.deposits, [])
        self.assertEqual(self.groups(), [])

    def test_remade(self) -> None:
        """A queue of the same name that is made later gets nothing that was kept for the one before."""
        self.make()
        self.one.stop()
        self.two.stop()
        self.publish("a", b"0")
        self.queues.listeners.clear()
        self.queues.make(Q, "alice_shop_a/#", created_at=2)
        self.node()
        self.settle()
        self.publish("a", b"1")
        self.assertEqual(self.queues.bodies, ["1"])

    def test_remade_at_once(self) -> None:
        """If a queue was made anew before this node was told that it was removed, its subscription is a new one."""
        self.make()
        (before,) = self.groups()
        self.queues.make(Q, "alice_shop_a/#", created_at=2)
        self.settle(1)
        (after,) = self.groups()
        self.assertNotEqual(before, after)
        self.publish("a", b"0")
        self.assertEqual(self.queues.bodies, ["0"])

    def test_interface(self) -> None:
        """A subscription is a member of a group."""
        self.make()
        for subscriptions in self.one._subscriptions.values():
            for one in subscriptions.values():
                self.assertTrue(verifyObject(IGroupMember, one))
