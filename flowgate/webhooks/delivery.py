"""The deliveries of one webhook on one node.

A node waits at the webhook's queue like any receiver, and takes one message at a time of each topic.  What is answered
with 2xx is deleted; what is not stays hidden for a while, and its topic with it, which keeps the order.
"""

from __future__ import annotations

from typing import Final, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import NotFound, Refused
from flowgate.queues.model import MAX_WAIT, ReceivedMessage
from flowgate.queues.service import Queues
from flowgate.webhooks.forming import Published
from flowgate.webhooks.model import Webhook, pause
from flowgate.webhooks.posting import Undelivered

PARALLEL: Final = 8
"""Requests of one webhook that a node has under way at once, each of another topic."""
VISIBILITY: Final = 30
"""Seconds after which a message is tried again whose node died: longer than a request takes, and what follows it."""

_GONE: Final = 410
_RETRY_SECONDS: Final = (1.0, 10.0)
_WARN_SECONDS: Final = 60.0


@attrs.frozen(slots=True)
class Attempt:
    """What became of an attempt that failed.

    :ivar at: seconds since 1970 UTC.
    """

    at: int
    reason: str


class IDeliveries(Protocol):
    """What is needed of the webhooks."""

    queues: Queues
    clock: IReactorTime

    def now(self) -> float:
        """Seconds since 1970 UTC."""

    def random(self) -> float:
        """From 0 to 1."""

    def post(self, webhook: Webhook, published: Published, attempt: int) -> Deferred[int]:
        """Send a message; the Deferred fires the status, or fails with :class:`Undelivered`."""

    def room(self) -> Deferred[None]:
        """A Deferred that fires when there is room for one more request on this node."""

    def count(self, what: str) -> None:
        """Count a delivery."""

    def disable(self, webhook: Webhook) -> Deferred[None]:
        """Have it deliver nothing any more."""

    def repair(self, webhook: Webhook) -> Deferred[None]:
        """See to it that its queue is there, and has subscribed."""


class Worker:
    """Delivers messages of one webhook.

    :ivar webhook: as it is now.
    :ivar last: the last attempt of this node that failed, if the one after it did not succeed.
    """

    _log = Logger()

    def __init__(self, owner: IDeliveries, webhook: Webhook) -> None:
        self.webhook = webhook
        self.last: Attempt | None = None
        self._owner = owner
        self._stopped = False
        self._receiving: Deferred[list[ReceivedMessage]] | None = None
        self._later: IDelayedCall | None = None
        self._pause = _RETRY_SECONDS[0]
        self._under_way: set[Deferred[None]] = set()
        self._posting: set[Deferred[int]] = set()
        self._waiting = False
        self._warned = -_WARN_SECONDS

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def start(self) -> None:
        """Begin to wait for messages."""
        self._receive()

    def wake(self) -> None:
        """Learn that the queue is there: what has failed before is tried now."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
            self._receive()

    def stop(self) -> None:
        """Take no more messages; what is under way goes on."""
        self._stopped = True
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._receiving is not None:
            self._receiving.cancel()

    def abandon(self) -> None:
        """Break off what is under way; it will be tried again."""
        for posting in list(self._posting):
            posting.cancel()

    # -- waiting for messages

    def _receive(self) -> None:
        """Wait for a message, if there is room for one and nobody waits yet."""
        if self._stopped or self._waiting or self._later is not None or len(self._under_way) >= PARALLEL:
            return
        self._waiting = True
        Deferred.fromCoroutine(self._take()).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a webhook cannot go on", failure)
        self._waiting = False
        if not self._stopped:
            self._again()

    async def _take(self) -> None:
        webhook = self.webhook
        try:
            await self._owner.room()
            if self._stopped:
                return
            self._receiving = self._owner.queues.receive(webhook.place, webhook.queue, 1, MAX_WAIT, VISIBILITY)
            messages = await self._receiving
        except CancelledError:
            self._waiting = False
            return
        except Refused as refusal:
            self._waiting = False
            if not self._stopped:
                self._again(isinstance(refusal, NotFound))
            return
        finally:
            self._receiving = None
        self._waiting = False
        self._pause = _RETRY_SECONDS[0]
        for message in messages:
            self._begin(Deferred.fromCoroutine(self._deliver(message)))
        self._receive()

    def _begin(self, delivery: Deferred[None]) -> None:
        def over(_: None) -> None:
            self._under_way.discard(delivery)
            self._receive()

        self._under_way.add(delivery)
        delivery.addErrback(lambda failure: self._log.failure("a delivery of a webhook failed", failure))
        delivery.addCallback(over)

    def _again(self, repair: bool = False) -> None:
        """Begin anew in a moment."""

        def again() -> None:
            self._later = None
            if repair:
                self._owner.repair(self.webhook).addBoth(lambda _: self._receive())
            else:
                self._receive()

        self._later = self._owner.clock.callLater(self._pause, again)
        self._pause = min(2 * self._pause, _RETRY_SECONDS[1])

    # -- one message

    async def _deliver(self, message: ReceivedMessage) -> None:
        webhook = self.webhook
        published = Published.read(message)
        try:
            if not webhook.takes(published.topic.shown(True)):
                await self._delete(webhook, message)  # of a filter that it no longer has
                return
            posting = self._owner.post(webhook, published, message.receive_count)
            self._posting.add(posting)
            try:
                status = await posting
            except Undelivered as undelivered:
                await self._not_delivered(webhook, message, published, str(undelivered))
                return
            finally:
                self._posting.discard(posting)
            if 200 <= status < 300:
                self._owner.count("delivered")
                self.last = None
                await self._delete(webhook, message)
            elif status == _GONE:
                self.last = Attempt(int(self._owner.now()), "the answer was 410: it is not wanted any more")
                self._log.info(
                    "the webhook {name} of {home} is disabled: the answer was 410",
                    name=webhook.name,
                    home=webhook.home.prefix,
                )
                await self._owner.disable(webhook)
                await self._hide(webhook, message, 0)
            else:
                await self._not_delivered(webhook, message, published, f"the answer was {status}")
        except Refused as refusal:
            # It comes back by itself, unless the webhook is gone.
            if not self._stopped:
                self._warn(
                    "a message of the webhook {name} of {home} will be sent again: {reason}", webhook, str(refusal)
                )

    async def _not_delivered(
        self, webhook: Webhook, message: ReceivedMessage, published: Published, reason: str
    ) -> None:
        if self._stopped:
            await self._hide(webhook, message, 1)  # broken off, perhaps
            return
        self._owner.count("failed")
        self.last = Attempt(int(self._owner.now()), reason)
        attempt = message.receive_count
        if attempt < webhook.max_receives:
            await self._hide(webhook, message, pause(attempt, self._owner.random()))
            return
        if webhook.dead_letter is None:
            self._warn("the webhook {name} of {home} gives messages up: {reason}", webhook, reason)
            self._owner.count("dropped")
            await self._delete(webhook, message)
            return
        letter = published.dead_letter(webhook, webhook.dead_letter, reason)
        origin = f"webhook.{webhook.id}.{published.cursor}"
        try:
            await self._owner.queues.deposit(webhook.home, webhook.dead_letter, [letter], [origin])
        except Refused as refusal:
            self._warn("dead letters of the webhook {name} of {home} go nowhere: {reason}", webhook, str(refusal))
            await self._hide(webhook, message, pause(attempt, self._owner.random()))
            return
        self._owner.count("dead_lettered")
        await self._delete(webhook, message)

    async def _delete(self, webhook: Webhook, message: ReceivedMessage) -> None:
        (refusal,) = await self._owner.queues.delete(webhook.place, webhook.queue, [message.receipt])
        if refusal is not None:
            raise refusal

    async def _hide(self, webhook: Webhook, message: ReceivedMessage, seconds: int) -> None:
        (refusal,) = await self._owner.queues.change_visibility(
            webhook.place, webhook.queue, [(message.receipt, seconds)]
        )
        if refusal is not None:
            raise refusal

    def _warn(self, text: str, webhook: Webhook, reason: str) -> None:
        """Say so, but not for every message."""
        now = self._owner.clock.seconds()
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            self._log.warn(text, name=webhook.name, home=webhook.home.prefix, reason=reason)
