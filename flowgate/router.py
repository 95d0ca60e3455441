"""Local fan-out: who on this node gets the messages of a topic."""

from __future__ import annotations

from collections.abc import Callable

from flowgate.interfaces import ISubscriber
from flowgate.message import Run
from flowgate.topics import FilterTree, Namespace, Topic, has_wildcard, is_reserved

_CACHED_TOPICS = 10_000
"""Topics of one namespace whose subscribers are remembered; when full the memory starts anew."""

Deliver = Callable[[Run, bool, int], None]


class _Subscription:
    """A filter of one subscriber; compared by identity."""

    __slots__ = ("durable", "full", "history", "qos", "subscriber")

    def __init__(self, subscriber: ISubscriber, full: bool, qos: int, history: bool, durable: bool) -> None:
        self.subscriber = subscriber
        self.full = full
        self.qos = qos
        self.history = history
        self.durable = durable


class _Targets:
    """The subscribers of one topic, ready to be called.

    :ivar all: they get everything.
    :ivar history: they read history too, and get what it does not hold.
    :ivar durable: they read what is acknowledged from the stream, and get the rest.
    """

    __slots__ = ("all", "durable", "history")

    def __init__(self) -> None:
        self.all: list[tuple[Deliver, bool, int]] = []
        self.history: list[tuple[Deliver, bool, int]] = []
        self.durable: list[tuple[Deliver, bool]] = []


class _Space:
    """The subscriptions of one namespace."""

    __slots__ = ("count", "targets", "tree")

    def __init__(self) -> None:
        self.tree: FilterTree[_Subscription] = FilterTree()
        self.targets: dict[str, _Targets] = {}
        self.count = 0


class Router:
    """Subscriptions of this node, by namespace.

    A message that matches several filters of one subscriber is delivered to it once, at the highest quality of service
    ([MQTT-3.3.5-1]) — once per form of the name, if it subscribed to the short and to the full one.
    """

    def __init__(self) -> None:
        self._spaces: dict[Namespace, _Space] = {}
        self._own: dict[ISubscriber, dict[tuple[Namespace, str, bool], _Subscription]] = {}
        self._reserved: dict[Namespace, int] = {}

    def subscribe(
        self,
        subscriber: ISubscriber,
        namespace: Namespace,
        filter_: str,
        full: bool,
        qos: int = 0,
        history: bool = False,
        durable: bool = False,
    ) -> bool:
        """Add a subscription, or replace the one with the same filter ([MQTT-3.8.4-3]).

        :param filter_: a valid filter inside ``namespace``.
        :param full: whether the subscriber is shown full names.
        :param qos: the quality of service granted.
        :param history: the subscriber reads history too, and gets here only what history does not hold.
        :param durable: the subscriber reads what it is to get at QoS 1 and 2 from the stream, and gets here only what
            travels unacknowledged.
        :returns: whether the subscription is new.
        """
        own = self._own.setdefault(subscriber, {})
        key = (namespace, filter_, full)
        space = self._spaces.get(namespace)
        if space is None:
            space = self._spaces[namespace] = _Space()
        old = own.get(key)
        if old is not None:
            old.qos, old.history, old.durable = qos, history, durable and qos > 0
            space.targets.clear()
            return False
        own[key] = subscription = _Subscription(subscriber, full, qos, history, durable and qos > 0)
        space.tree.add(filter_, subscription)
        space.count += 1
        self._forget(space, filter_)
        if is_reserved(filter_):
            self._reserved[namespace] = self._reserved.get(namespace, 0) + 1
        return True

    def unsubscribe(self, subscriber: ISubscriber, namespace: Namespace, filter_: str, full: bool) -> bool:
        """Remove a subscription.

        :returns: whether there was one.
        """
        own = self._own.get(subscriber)
        subscription = own.pop((namespace, filter_, full), None) if own else None
        if subscription is None:
            return False
        if not own:
            del self._own[subscriber]
        space = self._spaces[namespace]
        space.tree.discard(filter_, subscription)
        space.count -= 1
        if space.count:
            self._forget(space, filter_)
        else:
            del self._spaces[namespace]
        if is_reserved(filter_):
            self._reserved[namespace] -= 1
            if not self._reserved[namespace]:
                del self._reserved[namespace]
        return True

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return sum(space.count for space in self._spaces.values())

    def subscriptions(self, subscriber: ISubscriber) -> list[tuple[Namespace, str, bool]]:
        """The namespace, filter and form of every subscription that ``subscriber`` has."""
        return list(self._own.get(subscriber, ()))

    def reserved(self) -> list[Namespace]:
        """The namespaces in which somebody has subscribed to topics that are the gateway's own."""
        return list(self._reserved)

    @staticmethod
    def _forget(space: _Space, filter_: str) -> None:
        if has_wildcard(filter_):
            space.targets.clear()
        else:
            space.targets.pop(filter_, None)

    def _find(self, space: _Space, topic: Topic) -> _Targets:
        live: dict[tuple[ISubscriber, bool], int] = {}
        history: dict[tuple[ISubscriber, bool], int] = {}
        durable: dict[tuple[ISubscriber, bool], int] = {}
        for subscription in space.tree.match(topic.name):
            best = history if subscription.history else durable if subscription.durable else live
            key = (subscription.subscriber, subscription.full)
            if best.get(key, -1) < subscription.qos:
                best[key] = subscription.qos
        targets = _Targets()
        targets.all = [
            (subscriber.deliver, full, qos)
            for (subscriber, full), qos in live.items()
            if (subscriber, full) not in durable
        ]
        targets.durable = [(subscriber.deliver, full) for subscriber, full in durable]
        targets.history = [
            (subscriber.deliver, full, qos)
            for (subscriber, full), qos in history.items()
            if (subscriber, full) not in live
        ]
        if len(space.targets) >= _CACHED_TOPICS:
            space.targets.clear()
        space.targets[topic.name] = targets
        return targets

    def deliver(self, run: Run) -> None:
        """Give ``run`` to every subscriber of its topic."""
        topic = run.topic
        space = self._spaces.get(topic.namespace)
        if space is None:
            return
        targets = space.targets.get(topic.name) or self._find(space, topic)
        for deliver, full, qos in targets.all:
            deliver(run, full, qos)
        if not run.recorded:
            for deliver, full, qos in targets.history:
                deliver(run, full, qos)
        if not run.qos:
            for deliver, full in targets.durable:
                deliver(run, full, 0)
