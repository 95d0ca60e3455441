"""One subscription of one queue, on one node: takes messages of the topics and deposits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.errors import BusUnavailable, InvalidParameter, MessageTooLarge, NotFound, Refused
from flowgate.interfaces import IGroupMember, IMembership
from flowgate.message import Run
from flowgate.queues.model import Outgoing
from flowgate.queues.published import Former
from flowgate.topics import Namespace

if TYPE_CHECKING:
    from flowgate.queues.subscribing import QueueSubscriptions

_log = Logger()

AT_ONCE: Final = 500
"""Messages of one subscription that a node has at once; fewer if they are large."""
AT_ONCE_BYTES: Final = 4 * 1024 * 1024
"""Bytes that these have, as long as messages are about as large as those before them."""
BATCH: Final = 200
"""Messages in one deposit."""
BATCH_BYTES: Final = 512 * 1024
"""Bytes in one deposit, if it is of more than one message."""
CONFIRM_SECONDS: Final = 60.0
"""How long a subscription that was prepared may take to become one."""

_LEAST_AT_ONCE: Final = 16
_RETRY_SECONDS: Final = (1.0, 10.0)
_WARN_SECONDS: Final = 60.0

Group: TypeAlias = tuple[Namespace, str, str]
"""Names a durable group: the topics' namespace, the group's name, the filter."""


@attrs.define(slots=True)
class _Batch:
    """Messages on their way into the queue."""

    messages: list[Outgoing] = attrs.field(factory=list)
    origins: list[str] = attrs.field(factory=list)
    handles: list[str] = attrs.field(factory=list)
    bytes: int = 0

    def add(self, message: Outgoing, origin: str, handle: str, size: int) -> None:
        self.messages.append(message)
        self.origins.append(origin)
        self.handles.append(handle)
        self.bytes += size

    def takes(self, size: int) -> bool:
        return len(self.messages) < BATCH and (not self.messages or self.bytes + size <= BATCH_BYTES)

    def single(self) -> list[_Batch]:
        """One batch for each message."""
        return [
            _Batch([message], [origin], [handle], 0)
            for message, origin, handle in zip(self.messages, self.origins, self.handles, strict=True)
        ]


@implementer(IGroupMember)
class Subscription:
    """One subscription of one queue: this node's membership in its group.

    :ivar home: the queue's namespace.
    :ivar name: the queue's.
    :ivar filter: with the prefix of its namespace.
    :ivar namespace: the topics'.
    :ivar rest: the filter inside it.
    :ivar confirmed: whether the queue is known to have it.
    """

    def __init__(self, owner: QueueSubscriptions, home: Namespace, name: str, filter_: str) -> None:
        self.home = home
        self.name = name
        self.filter = filter_
        user, app, self.rest = filter_.split("_", 2)
        self.namespace = Namespace(user, app)
        self.group = ""
        self.confirmed = False
        self._owner = owner
        self._making: int | None = None
        self._fifo = False
        self._ended = False
        self._membership: IMembership | None = None
        self._joining = False
        self._later: IDelayedCall | None = None
        self._pause = _RETRY_SECONDS[0]
        self._waiting: list[Deferred[None]] = []
        self._under_way = 0  # messages that were asked for and are not done
        self._average = 65536.0  # bytes of a message, as long as nothing is known of it
        self._batch = _Batch()
        self._turn: IDelayedCall | None = None
        self._expiring: IDelayedCall | None = None
        self._dropped = 0
        self._warned: float | None = None
        self._refusal = ""

    @property
    def key(self) -> Group:
        """Names its group."""
        return self.namespace, self.group, self.rest

    @property
    def remade(self) -> bool:
        """Whether the queue is another one than that which had subscribed: it must not get what is here for that."""
        try:
            return self._making not in (None, self._owner.queues.find(self.home, self.name).created_at)
        except NotFound:
            return False  # that will be told

    # -- the life of a subscription

    def expire(self) -> None:
        """End unless it is confirmed in time."""
        self._expiring = self._owner.clock.callLater(CONFIRM_SECONDS, self._expired)

    def _expired(self) -> None:
        self._expiring = None
        if self.filter in self._owner.subscribed(self.home, self.name):
            self.confirm()
        else:
            self._owner.drop(self)

    def confirm(self) -> None:
        """Take messages, from now on."""
        if not self.confirmed:
            self.confirmed = True
            if self._expiring is not None:
                self._expiring.cancel()
                self._expiring = None
            self._join()
            self._ask()

    def ready(self) -> Deferred[None]:
        """:returns: a Deferred, fired once every message from now on is given to some node."""
        ready: Deferred[None] = Deferred(lambda one: self._waiting.remove(one) if one in self._waiting else None)
        if self._membership is not None:
            ready.callback(None)
        else:
            self._waiting.append(ready)
            self._join()
        return ready

    def end(self, leave: bool = True) -> None:
        """Have nothing to do with it any more.

        :param leave: not if the group is going to be forgotten, which ends the membership too, and needs it for that.
        """
        self._ended = True
        for call in (self._later, self._turn, self._expiring):
            if call is not None and call.active():
                call.cancel()
        self._later = self._turn = self._expiring = None
        self._batch = _Batch()
        self._tell(BusUnavailable("the subscription has ended"))
        if leave:
            self._leave()

    def _tell(self, refusal: Refused | None) -> None:
        """Answer those who wait."""
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if refusal is None:
                deferred.callback(None)
            else:
                deferred.errback(refusal)

    # -- membership

    def _join(self) -> None:
        if self._ended or self._joining or self._membership is not None:
            return
        if self._later is not None:
            self._later.cancel()
            self._later = None
        try:
            queue = self._owner.queues.find(self.home, self.name)
        except NotFound as refusal:
            self._tell(refusal)
            self._again()
            return
        self._making = queue.created_at
        self._fifo = queue.config.fifo
        # A queue of the same name that is made later has nothing to do with this one.
        self.group = f"queue:{self.home.user}.{self.home.app}.{self.name}:{self._making}"
        self._joining = True
        removal = self._owner.removal(self.key)
        if removal is None:
            self._join_group()
        else:
            removal.addCallback(lambda _: self._join_group())  # or it would take part in what is being removed

    def _join_group(self) -> None:
        joining = self._owner.groups.join(self.namespace, self.group, self.rest, self, durable=True, ordered=self._fifo)
        joining.addCallbacks(self._joined, self._not_joined)
        joining.addErrback(lambda failure: _log.failure("a subscription of a queue failed", failure))

    def _joined(self, membership: IMembership) -> None:
        self._joining = False
        if self._ended:
            membership.leave()
            return
        self._membership = membership
        self._under_way = 0
        self._tell(None)
        self._ask()

    def _not_joined(self, failure: Failure) -> None:
        self._joining = False
        refusal = failure.value
        if not isinstance(refusal, Refused):
            _log.failure("a subscription of a queue cannot be had", failure)
            refusal = BusUnavailable()
        self._tell(refusal)
        self._again()

    def lost(self, reason: Refused) -> None:
        self._leave()

    def _leave(self) -> None:
        """Give back what is not deposited, and take part again in a moment."""
        membership, self._membership = self._membership, None
        self._batch = _Batch()
        if membership is not None:
            membership.leave()
        self._again()

    def _again(self) -> None:
        if not self._ended and self._later is None:
            self._later = self._owner.clock.callLater(self._pause, self._rejoin)
            self._pause = min(2 * self._pause, _RETRY_SECONDS[1])

    def _rejoin(self) -> None:
        self._later = None
        self._join()

    def _ask(self) -> None:
        """Be ready for as many messages as fit."""
        if self._membership is not None and self.confirmed and not self._ended:
            most = int(min(max(AT_ONCE_BYTES / self._average, _LEAST_AT_ONCE), AT_ONCE))
            more = most - self._under_way
            if more > 0:
                self._under_way += more
                self._membership.ask(more)

    # -- messages

    def take(self, run: Run, handles: Sequence[str]) -> None:
        membership = self._membership
        if membership is None or self._ended:
            return  # whoever leaves gives back what is not done
        try:
            largest = self._owner.queues.find(self.home, self.name).config.max_message_bytes
        except NotFound:
            self._leave()
            return
        form = Former(run.topic, self.home, self._owner.epoch(), self._fifo)
        for payload, sequence, handle in zip(run.payloads, run.sequences, handles, strict=True):
            message, origin, bytes_ = form(payload, sequence)
            self._average += (bytes_ - self._average) / 64
            if bytes_ > largest:
                self._drop(handle, f"of {bytes_} bytes: the queue takes {largest}")
                continue
            if not self._batch.takes(bytes_):
                self._flush()
                if self._membership is not membership:
                    return
            self._batch.add(message, origin, handle, bytes_)
        if self._turn is None and self._batch.messages:
            # What one read brings goes together.
            self._turn = self._owner.clock.callLater(0, self._flush)

    def _flush(self) -> None:
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        self._turn = None
        batch, self._batch = self._batch, _Batch()
        if batch.messages and self._membership is not None:
            self._deposit(batch, self._membership)

    def _deposit(self, batch: _Batch, membership: IMembership) -> None:
        deposited = self._owner.queues.deposit(self.home, self.name, batch.messages, batch.origins)
        deposited.addCallbacks(
            self._deposited, self._refused, callbackArgs=(batch, membership), errbackArgs=(batch, membership)
        )
        deposited.addErrback(lambda failure: _log.failure("a subscription of a queue failed", failure))

    def _deposited(self, _: None, batch: _Batch, membership: IMembership) -> None:
        self._owner.deposited += len(batch.messages)
        self._pause = _RETRY_SECONDS[0]
        self._refusal = ""
        membership.done(batch.handles)
        self._finished(len(batch.handles), membership)

    def _finished(self, count: int, membership: IMembership) -> None:
        if membership is self._membership:
            self._under_way -= count
            if self._under_way <= AT_ONCE // 2 or self._fifo:
                self._ask()

    def _refused(self, failure: Failure, batch: _Batch, membership: IMembership) -> None:
        refusal = failure.value
        if membership is not self._membership or self._ended:
            return  # these are given back
        if isinstance(refusal, MessageTooLarge | InvalidParameter):
            # For good, one of these at least.
            if len(batch.messages) == 1:
                self._drop(batch.handles[0], str(refusal))
            else:
                for one in batch.single():
                    if membership is self._membership:
                        self._deposit(one, membership)
            return
        if not isinstance(refusal, Refused):
            _log.failure("messages of a topic cannot be deposited in a queue", failure)
        elif not isinstance(refusal, BusUnavailable | NotFound) and str(refusal) != self._refusal:
            self._refusal = str(refusal)
            _log.warn(
                "messages of {filter} cannot be deposited in the queue {name} now: {reason}",
                filter=self.filter,
                name=self.name,
                reason=self._refusal,
            )
        self._leave()

    def _drop(self, handle: str, why: str) -> None:
        self._owner.dropped += 1
        self._dropped += 1
        now = self._owner.clock.seconds()
        if self._warned is None or now - self._warned >= _WARN_SECONDS:
            self._warned = now
            _log.warn(
                "{count} messages of {filter} are dropped, since the queue {name} does not take them; the last: {why}",
                count=self._dropped,
                filter=self.filter,
                name=self.name,
                why=why,
            )
            self._dropped = 0
        if self._membership is not None:
            self._membership.done([handle])
            self._finished(1, self._membership)
