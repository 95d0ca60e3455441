"""Topic to queue: what is published on a topic is sent to the queues that have subscribed to it.

**A subscription is a durable group** (:class:`~flowgate.interfaces.IGroups`) that every node is a member of: each
message is given to one of the nodes, which deposits it in the queue and is done with it after that.  So it goes on
while nodes come and go, and while there is none the topics' history keeps what is published.  What it no longer has
when a node comes back, the queue does not get.

**Once.**  A message that a node deposited, but was not done with when it died, is given to another one.  The queue
knows it by its origin, its place in history, and takes it no second time; that is also how a message that several
subscriptions of one queue match is in it once.

**In order** per topic in a FIFO queue: its groups are ordered ones, and a topic is a message group.  In a standard
queue messages are roughly in order.

**No faster than the queue.**  History keeps a bounded number of messages of each topic, so who publishes faster than
that can be deposited is slowed down (:meth:`~flowgate.interfaces.IGroups.room`).

**Other accounts' topics** are had for as long as these say so (``admits``): a subscription that reaches there without
leave rests.

**What cannot be deposited** now is given back to the group, and a moment later this node takes part again.  What never
can, since the queue takes only smaller messages, is dropped, counted and logged: it must not keep back the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import BusUnavailable, NotFound, Refused
from flowgate.interfaces import IGroups
from flowgate.queues.model import Outgoing, QueueDescription
from flowgate.queues.subscription import Group, Subscription
from flowgate.topics import Namespace

_log = Logger()

_RETRY_SECONDS: Final = 1.0

Changed: TypeAlias = Callable[[Namespace, str, Sequence[str]], None]


class ISubscribedQueues(Protocol):
    """What is needed of the queues."""

    def find(self, home: Namespace, name: str) -> QueueDescription:
        """:raises NotFound: if there is no such queue."""

    def deposit(
        self, home: Namespace, name: str, messages: Sequence[Outgoing], origins: Sequence[str]
    ) -> Deferred[None]:
        """Store messages in order, each once for each origin."""

    def on_subscriptions(self, changed: Changed) -> None:
        """Call ``changed`` for each queue that has subscriptions, and whenever those of a queue change."""


class QueueSubscriptions:
    """The subscriptions of all queues, as far as this node takes part in them.

    :ivar deposited: messages that this node has deposited.
    :ivar dropped: messages that it has dropped, since they are too large for their queue.
    """

    def __init__(
        self,
        queues: ISubscribedQueues,
        groups: IGroups,
        epoch: Callable[[], str],
        clock: IReactorTime,
        admits: Callable[[Namespace, str], bool] = lambda home, filter_: True,
    ) -> None:
        """Nothing happens before :meth:`start`.

        :param epoch: tells the epoch of the topics' stream.
        :param admits: whether the queues of a namespace may have the messages of a full filter, now.
        """
        self._admits = admits
        self._elsewhere: dict[tuple[Namespace, str], tuple[str, ...]] = {}  # all filters of queues with any there
        self.queues = queues
        self.groups = groups
        self.epoch = epoch
        self.clock = clock
        self.deposited = self.dropped = 0
        self._subscriptions: dict[tuple[Namespace, str], dict[str, Subscription]] = {}
        self._removals: dict[Group, Deferred[None]] = {}
        self._later: dict[Subscription, IDelayedCall] = {}
        self._stopped = False

    def start(self) -> None:
        """Take part in every subscription."""
        self.queues.on_subscriptions(self.changed)

    def stop(self) -> None:
        """Take part in none; what is not deposited yet is given to other nodes, or to this one when it is back."""
        self._stopped = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions.values():
                subscription.end()
        self._subscriptions.clear()
        while self._later:
            subscription, later = self._later.popitem()
            later.cancel()
            subscription.end()

    def prepare(self, home: Namespace, name: str, filter_: str) -> Deferred[None]:
        """See to it that what is published from now on will be given to a queue, once it is said to have subscribed.

        That is to happen within a minute, or it is forgotten.  Unacknowledged messages (QoS 0) that
        another node takes are stored for the queue as soon as that node has heard of it, which takes as long as a
        message from one node to another.

        :param filter_: with the prefix of its namespace.
        :returns: a Deferred of ``None``, fired once it is so.
        :raises NotFound: through the Deferred, if there is no such queue.
        :raises BusUnavailable: through the Deferred.
        """
        if self._stopped:
            failed: Deferred[None] = Deferred()
            failed.errback(BusUnavailable("the gateway is going away"))
            return failed
        subscriptions = self._subscriptions.setdefault((home, name), {})
        subscription = subscriptions.get(filter_)
        if subscription is None:
            subscription = subscriptions[filter_] = Subscription(self, home, name, filter_)
            subscription.expire()
        return subscription.ready()

    def changed(self, home: Namespace, name: str, filters: Iterable[str]) -> None:
        """Learn what subscriptions a queue has; none if it was removed."""
        if self._stopped:
            return
        filters = tuple(filters)
        if all(filter_.startswith(home.prefix) for filter_ in filters):
            self._elsewhere.pop((home, name), None)
        else:
            self._elsewhere[home, name] = filters
        wanted = dict.fromkeys(filter_ for filter_ in filters if self._admits(home, filter_))
        subscriptions = self._subscriptions.setdefault((home, name), {})
        for filter_, subscription in list(subscriptions.items()):
            if subscription.confirmed and (filter_ not in wanted or subscription.remade):
                self.drop(subscription)
        subscriptions = self._subscriptions.setdefault((home, name), {})
        for filter_ in wanted:
            if filter_ not in subscriptions:
                subscriptions[filter_] = Subscription(self, home, name, filter_)
            subscriptions[filter_].confirm()
        if not subscriptions:
            del self._subscriptions[home, name]

    def review(self) -> None:
        """What queues may have of other accounts' topics has changed.

        A subscription that is not admitted rests: it is forgotten on all nodes, though the queue still has it, and
        begins anew, with what is published from then on, when it is admitted again.
        """
        for (home, name), filters in list(self._elsewhere.items()):
            self.changed(home, name, filters)

    def subscribed(self, home: Namespace, name: str) -> Sequence[str]:
        """The subscriptions that a queue has now, and may have."""
        try:
            filters = self.queues.find(home, name).subscriptions
        except NotFound:
            return ()
        return [filter_ for filter_ in filters if self._admits(home, filter_)]

    def drop(self, subscription: Subscription) -> None:
        """Forget a subscription, on all nodes."""
        key = (subscription.home, subscription.name)
        subscriptions = self._subscriptions[key]
        del subscriptions[subscription.filter]
        if not subscriptions:
            del self._subscriptions[key]
        subscription.end(leave=False)
        if subscription.group:
            self._forget(subscription)

    def removal(self, group: Group) -> Deferred[None] | None:
        """The removal of a group that is under way, if there is one."""
        return self._removals.get(group)

    def _forget(self, subscription: Subscription) -> None:
        self._later.pop(subscription, None)
        group = subscription.key
        if any(one.key == group for some in self._subscriptions.values() for one in some.values()):
            subscription.end()  # it is wanted again
            return
        over = self._removals[group] = Deferred()

        def done(result: Failure | None) -> None:
            del self._removals[group]
            if isinstance(result, Failure):
                if not isinstance(result.value, Refused):
                    _log.failure("a subscription of a queue cannot be removed", result)
                if self._stopped:
                    subscription.end()
                else:
                    self._later[subscription] = self.clock.callLater(_RETRY_SECONDS, self._forget, subscription)
            over.callback(None)

        self.groups.forget(*group).addBoth(done)
