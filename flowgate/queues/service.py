"""The verbs of queues, the same for every protocol: checks, configuration, receipts."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flowgate.auth.permissions import Principal, may_move
from flowgate.connections import Connections, IConnection
from flowgate.errors import (
    BusUnavailable,
    Conflict,
    InsufficientScope,
    InvalidParameter,
    MessageTooLarge,
    MissingField,
    NotFound,
    RateLimited,
    Refused,
)
from flowgate.interfaces import IQueueLogs, IStore
from flowgate.metering import Meter
from flowgate.queues.directory import Directory
from flowgate.queues.envelope import Envelope
from flowgate.queues.held import Accepted, Done, Grant, Handout
from flowgate.queues.machine import MAX_IN_FLIGHT
from flowgate.queues.model import (
    MAX_DELAY,
    MAX_RECEIVE,
    MAX_REDRIVE_RATE,
    MAX_VISIBILITY,
    MAX_WAIT,
    Attribute,
    Configured,
    InFlightLimit,
    Outgoing,
    QueueConfig,
    QueueDescription,
    QueueFull,
    QueueStats,
    ReceiptExpired,
    ReceivedMessage,
    Redrive,
    Sent,
    attributes_bytes,
    check_attributes,
    check_batch,
    check_body,
    check_name,
    check_range,
    check_size,
    check_token,
    is_fifo,
    md5_of,
    md5_of_attributes,
)
from flowgate.queues.moving import DeadLetters
from flowgate.queues.opening import OpenQueues
from flowgate.queues.receipts import Receipt, Receipts
from flowgate.queues.redrive import Redrives
from flowgate.queues.replica import Replica, Soon, at_once
from flowgate.queues.together import outcomes, raise_if_all
from flowgate.topics import Namespace

MAX_MESSAGES: Final = 1_000_000
"""Messages that one queue holds; every node that uses it keeps some 300 bytes of each in memory."""
MAX_QUEUES: Final = 10_000
"""Queues of one application."""
MAX_PEEK: Final = 1000
"""Messages that are looked at at once."""
MAX_SUBSCRIPTIONS: Final = 100
"""Topic filters of one queue."""

_SECOND: Final = 1_000_000_000
_MS: Final = 1_000_000


class VisibilityTotal(InvalidParameter):
    code, title = "visibility_total", "A message is with one receiver for 12 hours at most"


@implementer(IConnection)
class _Poll:
    """A receive that waits."""

    protocol = "queue"

    def __init__(self, waiting: Deferred[Handout]) -> None:
        self._waiting = waiting
        self._reason: Refused | None = None

    def end(self, reason: Refused | None) -> None:
        self._reason = reason or BusUnavailable("the gateway is going away")
        self._waiting.cancel()

    async def ended(self, connections: Connections, principal: Principal) -> Handout:
        """What the receive brought.

        :raises Refused: if it was ended.
        """
        try:
            connections.add(self, principal)
        except Refused:
            self._waiting.cancel()
            self._waiting.addErrback(lambda _: None)
            raise
        try:
            return await self._waiting
        except CancelledError:
            if self._reason is None:
                raise
            raise self._reason from None
        finally:
            connections.remove(self)


class Queues:
    """Queues with their policy.  Permissions are the caller's affair; every check of values is made here.

    :ivar opened: the queues that are open on this node.
    """

    _log = Logger()

    def __init__(
        self,
        logs: IQueueLogs,
        store: IStore,
        secret: bytes,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        connections: Connections | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        soon: Soon = at_once,
        meter: Meter | None = None,
    ) -> None:
        """Prepare the queues.

        :param logs: the bus's part.
        :param store: keeps the configurations.
        :param secret: signs receipts; the same on all nodes.
        :param clock: for waiting.
        :param now: seconds since 1970 UTC.
        :param connections: where receives that wait are known, so that they can be ended.
        :param max_in_flight: messages of one queue that are with receivers; the same on all nodes.
        :param soon: calls something once all that has come by now is taken in: what it leads to can go together.
        :param meter: counts what is done.
        """
        self._logs = logs
        meter = Meter() if meter is None else meter
        self._sent, self._received, self._deleted = (
            meter.counter("queue_messages", operation) for operation in ("send", "receive", "delete")
        )
        self._receipts = Receipts(secret)
        self._connections = connections
        self._directory = Directory(store, now)
        self.opened = OpenQueues(
            logs, self._directory, clock, now, lambda *moves: self._dead_letters.move(*moves), max_in_flight, soon
        )
        self._dead_letters = DeadLetters(self._directory, self.opened.get)
        self._redrives = Redrives(store, self._directory, self.opened.get, clock, now)
        self._prepare: Callable[[Namespace, str, str], Deferred[None]] | None = None

    def start(self) -> Deferred[None]:
        """Follow the configurations and the move tasks.

        :returns: a Deferred of ``None``.
        :raises BusUnavailable: through the Deferred.
        """

        async def start() -> None:
            await self._directory.start()
            await self._redrives.start()
            self.opened.start()

        return Deferred.fromCoroutine(start())

    def stop(self) -> None:
        """Follow nothing any more; whoever waits is told."""
        self._redrives.stop()
        self.opened.stop()
        self._directory.stop()

    # -- queues as such

    def configure(self, namespace: Namespace, name: str, members: Mapping[str, object]) -> Deferred[Configured]:
        """Make a queue, unless it exists with this configuration; what is absent has its default.

        :returns: a Deferred of :class:`Configured`.
        :raises InvalidParameter: through the Deferred, with the reason.
        :raises NotFound: through the Deferred, if the dead-letter queue does not exist.
        :raises Conflict: through the Deferred, if it exists with another configuration: ``differing`` says in what.
        """

        async def configure() -> Configured:
            config = QueueConfig.parse(name, members)
            return await self._create(namespace, name, config, tuple(config.members()))

        return Deferred.fromCoroutine(configure())

    def create(self, namespace: Namespace, name: str, members: Mapping[str, object]) -> Deferred[Configured]:
        """Like :meth:`configure`, but of a queue that exists only what is in ``members`` has to be the same."""

        async def create() -> Configured:
            config = QueueConfig.parse(name, members)
            return await self._create(namespace, name, config, tuple(members))

        return Deferred.fromCoroutine(create())

    async def _create(
        self, namespace: Namespace, name: str, config: QueueConfig, compared: Sequence[str]
    ) -> Configured:
        present = await self._find(namespace, name, missing_is_none=True)
        if present is None:
            if self._directory.count(namespace) >= MAX_QUEUES:
                raise RateLimited(f"an application has at most {MAX_QUEUES} queues")
            await self._check_dead_letter(namespace, name, config)
            await self._logs.create(namespace, name)
            try:
                await self._directory.create(namespace, name, config)
                return Configured.CREATED
            except Conflict:
                present = await self._directory.find(namespace, name, fresh=True)
        wanted, there = config.members(), present.config.members()
        differing = sorted(member for member in compared if wanted.get(member) != there.get(member))
        if differing:
            raise Conflict(f"the queue exists with another configuration: {', '.join(differing)}", differing=differing)
        return Configured.SAME

    async def _check_dead_letter(self, namespace: Namespace, name: str, config: QueueConfig) -> None:
        dead_letter = config.dead_letter
        if dead_letter is None:
            return
        if dead_letter.queue == name:
            raise InvalidParameter("a queue is not its own dead-letter queue")
        try:
            target = await self._directory.find(namespace, dead_letter.queue)
        except NotFound:
            raise NotFound(f"there is no queue {dead_letter.queue} for dead letters") from None
        if not target.config.takes_dead_letters_of(name):
            raise InvalidParameter(f"the queue {dead_letter.queue} does not take dead letters of {name}")

    async def _find(self, namespace: Namespace, name: str, *, missing_is_none: bool = False) -> QueueDescription | None:
        check_name(name)
        try:
            return await self._directory.find(namespace, name)
        except NotFound:
            if missing_is_none:
                return None
            raise

    def change(self, namespace: Namespace, name: str, changes: Mapping[str, object]) -> Deferred[QueueDescription]:
        """Change some members of a configuration; ``None`` stands for the default.

        :returns: a Deferred of the new :class:`QueueDescription`.
        :raises InvalidParameter: through the Deferred, with the reason.
        :raises NotFound: through the Deferred, if there is no such queue, or no such dead-letter queue.
        """

        async def change() -> QueueDescription:
            check_name(name)
            before = await self._directory.find(namespace, name)
            config = QueueConfig.parse(name, changes, before.config)
            if config.dead_letter != before.config.dead_letter:
                await self._check_dead_letter(namespace, name, config)
            return await self.edit(
                namespace,
                name,
                lambda one: attrs.evolve(one, config=QueueConfig.parse(name, changes, one.config)),
            )

        return Deferred.fromCoroutine(change())

    def edit(
        self, namespace: Namespace, name: str, edit: Callable[[QueueDescription], QueueDescription]
    ) -> Deferred[QueueDescription]:
        """Change a queue's description by a function of it, which is called again if somebody else was faster.

        :returns: a Deferred of the new :class:`QueueDescription`.
        :raises NotFound: through the Deferred.
        """

        def dated(before: QueueDescription) -> QueueDescription:
            after = edit(before)
            return before if after == before else attrs.evolve(after, modified_at=int(self._directory.now()))

        return Deferred.fromCoroutine(self._directory.change(namespace, name, dated))

    def describe(self, namespace: Namespace, name: str) -> Deferred[QueueDescription]:
        """:returns: a Deferred of :class:`QueueDescription`; :class:`NotFound` if there is no such queue."""

        async def describe() -> QueueDescription:
            check_name(name)
            return await self._directory.find(namespace, name)

        return Deferred.fromCoroutine(describe())

    def find(self, namespace: Namespace, name: str) -> QueueDescription:
        """The description of a queue that this node has heard of.

        :raises NotFound: if there is none.
        """
        description = self._directory.known(namespace, name)
        if description is None:
            raise NotFound("there is no such queue")
        return description

    def listing(
        self, namespace: Namespace, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[QueueDescription]:
        """The queues of a namespace by name, at most ``limit`` from behind ``after``."""
        return self._directory.listing(namespace, prefix, after, limit)

    def sources(self, namespace: Namespace, name: str) -> list[str]:
        """The queues that have this one as their dead-letter queue, by name."""
        queues = self._directory.listing(namespace, limit=1_000_000)
        return [one.name for one in queues if one.config.dead_letter and one.config.dead_letter.queue == name]

    def remove(self, namespace: Namespace, name: str) -> Deferred[None]:
        """Remove a queue with its messages.

        :returns: a Deferred of ``None``.
        :raises NotFound: through the Deferred.
        """

        async def remove() -> None:
            check_name(name)
            with contextlib.suppress(Conflict):  # one that cannot be read can be removed
                await self._directory.find(namespace, name, fresh=True)
            await self._redrives.forget(namespace, name)
            with contextlib.suppress(NotFound):  # an earlier removal went half the way
                await self._logs.delete(namespace, name)
            await self._directory.remove(namespace, name)
            self.opened.close(namespace, name)

        return Deferred.fromCoroutine(remove())

    def purge(self, namespace: Namespace, name: str) -> Deferred[None]:
        """Remove all messages, those in flight too.

        :returns: a Deferred of ``None``.
        :raises NotFound: through the Deferred.
        """

        async def purge() -> None:
            replica, _ = await self._use(namespace, name)
            await replica.command("p")
            await replica.checkpoint()

        return Deferred.fromCoroutine(purge())

    def stats(self, namespace: Namespace, name: str) -> Deferred[QueueStats]:
        """:returns: a Deferred of :class:`QueueStats`; :class:`NotFound` if there is no such queue."""

        async def stats() -> QueueStats:
            return _stats(*await self._use(namespace, name))

        return Deferred.fromCoroutine(stats())

    def open_stats(self) -> Iterator[tuple[Namespace, str, QueueStats]]:
        """What the queues hold that are open on this node, by namespace and name."""
        for replica in self.opened:
            description = self._directory.known(replica.namespace, replica.name)
            if description is not None:  # else it is being removed
                yield replica.namespace, replica.name, _stats(replica, description.config)

    async def _use(self, namespace: Namespace, name: str) -> tuple[Replica, QueueConfig]:
        description = self._directory.known(namespace, name)
        if description is None:
            check_name(name)
            description = await self._directory.find(namespace, name)
        replica = self.opened.opened(namespace, name)
        if replica is None:
            replica = await self.opened.get(namespace, name)
        else:
            replica.touch()
        if replica.log is None or not replica.log.available:
            raise BusUnavailable()
        return replica, description.config

    # -- sending

    def send(
        self, namespace: Namespace, name: str, messages: Sequence[Outgoing], *, may_create: bool = False
    ) -> Deferred[list[Sent | Refused]]:
        """Store messages, in order.

        :param may_create: whether to make the queue, with defaults, if it does not exist.
        :returns: a Deferred of what became of each: :class:`Sent` once it is stored, or why it is refused.
        :raises NotFound: through the Deferred.
        :raises MessageTooLarge: through the Deferred, if it is too much together.
        :raises BusUnavailable: through the Deferred; they may or may not be stored.
        """
        return Deferred.fromCoroutine(self._send(namespace, name, messages, may_create))

    async def _send(
        self, namespace: Namespace, name: str, messages: Sequence[Outgoing], may_create: bool
    ) -> list[Sent | Refused]:
        try:
            replica, config = await self._use(namespace, name)
        except NotFound:
            if not may_create:
                raise
            refusals = _refusals(messages, QueueConfig.parse(name, {}))
            if len(refusals) == len(messages):
                return list(refusals)  # no queue for what it would not take
            with contextlib.suppress(Conflict):  # made with something else than defaults in this moment
                await self._create(namespace, name, QueueConfig.parse(name, {}), ())
            replica, config = await self._use(namespace, name)
        prepared: list[tuple[Envelope, int, str | None] | Refused] = []
        for message in messages:
            try:
                prepared.append(_prepare(message, config))
            except Refused as refusal:
                prepared.append(refusal)
        check_batch([one[1] for one in prepared if not isinstance(one, Refused)])
        under_way: list[Deferred[Any] | Refused] = []
        for message, one in zip(messages, prepared, strict=True):
            if isinstance(one, Refused):
                under_way.append(one)
                continue
            envelope, size, dedup = one
            if len(replica.machine) >= MAX_MESSAGES:
                under_way.append(QueueFull())
                continue
            delay = config.delay if message.delay is None else message.delay
            command = ["s", size, delay * 1000, message.group, dedup, envelope.id if dedup is not None else None]
            blob = envelope.encode()
            if len(blob) > replica.largest:
                under_way.append(MessageTooLarge(f"the message bus takes at most {replica.largest} bytes"))
                continue
            while command[-1] is None:
                command.pop()
            under_way.append(replica.command(*command, blob=blob))
        results: list[Sent | Refused] = []
        for message, one, result in zip(messages, prepared, await outcomes(under_way), strict=True):
            if isinstance(one, Refused) or isinstance(result, Refused):
                results.append(result)  # what was refused before is its own outcome
            else:
                results.append(_sent(one[0], message, result))
                self._sent.value += 1
        raise_if_all(results, NotFound, BusUnavailable)
        return results

    def deposit(
        self, namespace: Namespace, name: str, messages: Sequence[Outgoing], origins: Sequence[str]
    ) -> Deferred[None]:
        """Store messages that come from elsewhere, in order, each once for its origin; a body may be empty.

        Origins are remembered for 5 minutes, and the last 10,240 of them for as long as it takes.

        :returns: a Deferred of ``None``, fired once all are stored.
        :raises NotFound: through the Deferred.
        :raises QueueFull: through the Deferred.
        :raises BusUnavailable: through the Deferred; some may be stored.
        """

        async def deposit() -> None:
            replica, config = await self._use(namespace, name)
            if len(replica.machine) >= MAX_MESSAGES:
                raise QueueFull()
            under_way = []
            for message, origin in zip(messages, origins, strict=True):
                size = len(message.body.encode()) + attributes_bytes(message.attributes)
                envelope = _envelope(message, message.body.encode())
                command = ("s", size, config.delay * 1000, message.group, None, None, origin)
                under_way.append(replica.command(*command, blob=envelope.encode()))
            for result in reversed(await outcomes(under_way)):
                if isinstance(result, Refused):
                    raise result
            self._sent.value += len(messages)

        return Deferred.fromCoroutine(deposit())

    # -- receiving

    def receive(
        self,
        namespace: Namespace,
        name: str,
        limit: int = 1,
        wait: int | None = None,
        visibility: int | None = None,
        attempt: str | None = None,
        principal: Principal | None = None,
    ) -> Deferred[list[ReceivedMessage]]:
        """Take messages, each for a while.

        Cancelling the Deferred ends the wait; nothing is taken then.

        :param limit: at most so many, 1 to 10.
        :param wait: seconds to wait for a first one, 0 to 20; ``None``: as the queue is configured.
        :param visibility: seconds until a message that was not deleted is handed out again, 0 to 43,200; ``None``:
            as the queue is configured.
        :param attempt: FIFO: names this attempt, so that a repetition gets the same messages.
        :param principal: who waits: it ends when their token or key is revoked.
        :returns: a Deferred of a list of :class:`ReceivedMessage`.
        :raises NotFound: through the Deferred.
        :raises InFlightLimit: through the Deferred, if a standard queue is not waited for and has too much in flight.
        """
        return Deferred.fromCoroutine(self._receive(namespace, name, limit, wait, visibility, attempt, principal))

    async def _receive(
        self,
        namespace: Namespace,
        name: str,
        limit: int,
        wait: int | None,
        visibility: int | None,
        attempt: str | None,
        principal: Principal | None,
    ) -> list[ReceivedMessage]:
        check_range("max", limit, 1, MAX_RECEIVE)
        if wait is not None:
            check_range("wait", wait, 0, MAX_WAIT)
        if visibility is not None:
            check_range("visibility", visibility, 0, MAX_VISIBILITY)
        replica, config = await self._use(namespace, name)
        if attempt is not None:
            check_token("attempt_id", attempt)
            if not config.fifo:
                raise InvalidParameter("attempt_id is for FIFO queues only")
        dead = config.dead_letter
        if dead is not None and self._directory.known(namespace, dead.queue) is None:
            dead = None  # nowhere to go: they are handed out as before
        seconds = config.receive_wait if wait is None else wait
        waiting = replica.receive(
            limit,
            (config.visibility if visibility is None else visibility) * 1000,
            seconds,
            0 if dead is None else dead.max_receives,
            config.retention,
            attempt,
        )
        if seconds and principal is not None and self._connections is not None and not waiting.called:
            handout = await _Poll(waiting).ended(self._connections, principal)
        else:
            handout = await waiting
        if not handout.grants:
            if handout.full and not config.fifo and not seconds:
                raise InFlightLimit(f"{replica.machine.max_in_flight} messages are with receivers")
            return []
        try:
            bodies = await replica.fetch(handout.grants)
        except (Refused, CancelledError):
            for grant in handout.grants:
                replica.give_back(grant)
            raise
        assert replica.log is not None
        incarnation = replica.log.incarnation
        received = []
        for grant, blob in zip(handout.grants, bodies, strict=True):
            if blob is None:
                # Somebody else removed it from the stream.
                self._log.error("a message of the queue {name} is not in its log", name=name)
                replica.give_back(grant)
                continue
            receipt = self._receipts.issue(namespace, name, Receipt(incarnation, grant.place, grant.number))
            received.append(_received(Envelope.decode(blob), grant, receipt))
        self._received.value += len(received)
        return received

    def peek(self, namespace: Namespace, name: str, limit: int = 10) -> Deferred[list[ReceivedMessage]]:
        """Look at visible messages, the oldest first, without taking them.

        :returns: a Deferred of a list of :class:`ReceivedMessage` without receipts.
        :raises NotFound: through the Deferred.
        """

        async def peek() -> list[ReceivedMessage]:
            check_range("limit", limit, 1, MAX_PEEK)
            replica, _ = await self._use(namespace, name)
            grants = replica.machine.peek(replica.bus_now(), limit)
            bodies = await replica.fetch(grants)
            return [
                _received(Envelope.decode(blob), grant, "")
                for grant, blob in zip(grants, bodies, strict=True)
                if blob is not None
            ]

        return Deferred.fromCoroutine(peek())

    def delete(self, namespace: Namespace, name: str, receipts: Sequence[str]) -> Deferred[list[Refused | None]]:
        """Remove received messages for good; again is no error.

        :returns: a Deferred of what became of each: ``None`` once it cannot come back, or why it is refused:
            :class:`ReceiptInvalid` if the receipt was never issued for this queue, :class:`ReceiptExpired`.
        :raises NotFound: through the Deferred, if there is no such queue.
        """

        def command(replica: Replica, receipt: Receipt, _: int) -> tuple[Any, ...]:
            return "d", receipt.place, receipt.number

        async def delete() -> list[Refused | None]:
            wishes = [(receipt, 0) for receipt in receipts]
            results = await self._each(namespace, name, wishes, command, gone=None)
            self._deleted.value += results.count(None)
            return results

        return Deferred.fromCoroutine(delete())

    def change_visibility(
        self, namespace: Namespace, name: str, changes: Sequence[tuple[str, int]]
    ) -> Deferred[list[Refused | None]]:
        """Have received messages handed out again in so many seconds from now, 0 to 43,200.

        :param changes: pairs of receipt and seconds.
        :returns: a Deferred of what became of each, as :meth:`delete` has it; :class:`NotFound` if the message is
            gone, :class:`VisibilityTotal` beyond 12 hours since it was received.
        :raises NotFound: through the Deferred, if there is no such queue.
        """

        def command(replica: Replica, receipt: Receipt, seconds: int) -> tuple[Any, ...]:
            check_range("visibility", seconds, 0, MAX_VISIBILITY)
            message = replica.machine.find(receipt.place)
            if message is not None and message.taken:
                passed = (replica.bus_now() - message.taken) // _SECOND
                if max(0, passed) + seconds > MAX_VISIBILITY:
                    raise VisibilityTotal(f"the visibility is {MAX_VISIBILITY} seconds at most since the receive")
            return "v", receipt.place, receipt.number, seconds * 1000

        gone = NotFound("the message is not there any more")
        return Deferred.fromCoroutine(self._each(namespace, name, changes, command, gone=gone))

    async def _each(
        self,
        namespace: Namespace,
        name: str,
        wishes: Sequence[tuple[str, int]],
        command: Callable[[Replica, Receipt, int], tuple[Any, ...]],
        gone: Refused | None,
    ) -> list[Refused | None]:
        replica, _ = await self._use(namespace, name)
        assert replica.log is not None
        under_way: list[Deferred[Any] | Refused | None] = []
        for text, number in wishes:
            try:
                receipt = self._receipts.open(namespace, name, text)
                if receipt.incarnation != replica.log.incarnation:
                    under_way.append(gone)  # of a queue that was removed, and the message with it
                else:
                    under_way.append(replica.command(*command(replica, receipt, number)))
            except Refused as refusal:
                under_way.append(refusal)
        results: list[Refused | None] = []
        for outcome in await outcomes(under_way):
            if outcome is Done.EXPIRED:
                results.append(ReceiptExpired("the visibility of the message ended before"))
            elif outcome is Done.GONE:
                results.append(gone)
            else:
                results.append(None if outcome is Done.DONE else outcome)
        raise_if_all(results, BusUnavailable)
        return results

    # -- move tasks

    def start_redrive(
        self,
        namespace: Namespace,
        name: str,
        destination: str | None = None,
        max_per_second: int | None = None,
        grants: Sequence[str] = ("*",),
    ) -> Deferred[Redrive]:
        """Begin to move what a dead-letter queue holds, the oldest first, as new messages.

        :param destination: a queue of the same kind; ``None``: each goes to the queue that it came from.
        :param max_per_second: 1 to 500; ``None``: as fast as it goes.
        :param grants: the queues that who asks may use: to others nothing is moved.
        :returns: a Deferred of :class:`Redrive`.
        :raises InsufficientScope: through the Deferred, if they do not cover where the messages would go.
        :raises NotFound: through the Deferred, if one of the queues does not exist.
        :raises RedriveRunning: through the Deferred.
        """

        async def start() -> Redrive:
            await self._use(namespace, name)
            if max_per_second is not None:
                check_range("max_per_second", max_per_second, 1, MAX_REDRIVE_RATE)
            if destination is not None:
                await self._use(namespace, destination)
                if destination == name or is_fifo(destination) != is_fifo(name):
                    raise InvalidParameter("the destination is another queue of the same kind")
            for goal in self.sources(namespace, name) if destination is None else [destination]:
                if not may_move(grants, name, goal):
                    raise InsufficientScope(f"the token does not permit moving messages from here to the queue {goal}")
            return await self._redrives.begin(namespace, name, destination, max_per_second, grants)

        return Deferred.fromCoroutine(start())

    def redrives(self, namespace: Namespace, name: str) -> Deferred[list[Redrive]]:
        """:returns: a Deferred of the last 10 move tasks of a queue, newest first."""

        async def redrives() -> list[Redrive]:
            check_name(name)
            await self._directory.find(namespace, name)
            return await self._redrives.listing(namespace, name)

        return Deferred.fromCoroutine(redrives())

    def cancel_redrive(self, namespace: Namespace, name: str, id_: str) -> Deferred[Redrive]:
        """End a move task; what was moved stays moved.

        :returns: a Deferred of :class:`Redrive` as it is now.
        :raises NotFound: through the Deferred, if there is none of this id that is running.
        """

        async def cancel() -> Redrive:
            check_name(name)
            return await self._redrives.cancel(namespace, name, id_)

        return Deferred.fromCoroutine(cancel())

    # -- subscriptions

    def prepare_subscriptions(self, prepare: Callable[[Namespace, str, str], Deferred[None]]) -> None:
        """Have ``prepare(namespace, name, filter)`` awaited before a subscription is written down."""
        self._prepare = prepare

    def on_subscriptions(self, changed: Callable[[Namespace, str, tuple[str, ...]], None]) -> None:
        """Have ``changed`` called with the filters of every queue that has some, now and whenever they change."""
        seen: dict[tuple[Namespace, str], tuple[str, ...]] = {}

        def listener(namespace: Namespace, name: str, description: QueueDescription | None) -> None:
            filters = () if description is None else description.subscriptions
            if seen.get((namespace, name), ()) != filters:
                if filters:
                    seen[namespace, name] = filters
                else:
                    seen.pop((namespace, name))
                changed(namespace, name, filters)

        self._directory.listen(listener)

    def subscribe(self, namespace: Namespace, name: str, filter_: str) -> Deferred[bool]:
        """Have every message on a matching topic sent to the queue, from now on.

        :param filter_: a full filter.
        :returns: a Deferred of bool: whether this is new.
        :raises NotFound: through the Deferred.
        """

        async def subscribe() -> bool:
            check_name(name)
            before = await self._directory.find(namespace, name)
            if filter_ in before.subscriptions:
                return False
            if len(before.subscriptions) >= MAX_SUBSCRIPTIONS:
                raise InvalidParameter(f"a queue has at most {MAX_SUBSCRIPTIONS} subscriptions")
            if self._prepare is not None:
                await self._prepare(namespace, name, filter_)

            def add(one: QueueDescription) -> QueueDescription:
                if filter_ in one.subscriptions:
                    return one
                return attrs.evolve(one, subscriptions=(*one.subscriptions, filter_))

            await self.edit(namespace, name, add)
            return True

        return Deferred.fromCoroutine(subscribe())

    def unsubscribe(self, namespace: Namespace, name: str, filter_: str) -> Deferred[bool]:
        """End a subscription.

        :returns: a Deferred of bool: whether there was one.
        :raises NotFound: through the Deferred.
        """

        async def unsubscribe() -> bool:
            check_name(name)
            before = await self._directory.find(namespace, name)
            if filter_ not in before.subscriptions:
                return False
            await self.edit(
                namespace,
                name,
                lambda one: attrs.evolve(one, subscriptions=tuple(f for f in one.subscriptions if f != filter_)),
            )
            return True

        return Deferred.fromCoroutine(unsubscribe())


def _stats(replica: Replica, config: QueueConfig) -> QueueStats:
    now, machine = replica.bus_now(), replica.machine
    oldest = machine.oldest()
    visible, in_flight, delayed = machine.counts(now, config.retention)
    age = 0.0 if oldest is None else max(0.0, (now - oldest) / _SECOND)
    return QueueStats(visible, in_flight, delayed, machine.bytes, min(age, float(config.retention)))


def _refusals(messages: Sequence[Outgoing], config: QueueConfig) -> list[Refused]:
    """Why messages cannot be sent to a queue of this configuration."""
    refusals: list[Refused] = []
    for message in messages:
        try:
            _prepare(message, config)
        except Refused as refusal:
            refusals.append(refusal)
    return refusals


def _prepare(message: Outgoing, config: QueueConfig) -> tuple[Envelope, int, str | None]:
    """Check a message; give what is stored, its size, and the key under which its repetition is recognised."""
    body = check_body(message.body)
    check_attributes(message.attributes)
    size = len(body) + (attributes_bytes(message.attributes) if message.attributes else 0)
    check_size(size, config)
    if message.delay is not None:
        check_range("delay", message.delay, 0, MAX_DELAY)
    if message.group is not None:
        check_token("group", message.group)
    if message.dedup_id is not None:
        check_token("dedup_id", message.dedup_id)
    if not config.fifo:
        if message.dedup_id is not None:
            raise InvalidParameter("dedup_id is for FIFO queues only")
        return _envelope(message, body), size, None
    if message.group is None:
        raise MissingField("a message of a FIFO queue needs a group")
    if message.delay:
        raise InvalidParameter("a FIFO queue has a delay for all of its messages, and none of one message")
    dedup = message.dedup_id
    if dedup is None:
        if not config.content_dedup:
            raise InvalidParameter("the queue has no content_dedup: a message needs a dedup_id")
        dedup = hashlib.sha256(body).hexdigest()
        message = attrs.evolve(message, dedup_id=dedup)
    return _envelope(message, body), size, f"{message.group}\0{dedup}" if config.dedup_scope == "group" else dedup


def _envelope(message: Outgoing, body: bytes) -> Envelope:
    id_ = str(uuid.uuid4())
    return Envelope(id_, body, message.attributes, message.sender, message.group, message.dedup_id, message.trace)


def _sent(envelope: Envelope, message: Outgoing, accepted: Accepted) -> Sent:
    system = {} if message.trace is None else {"AWSTraceHeader": Attribute("String", message.trace)}
    return Sent(
        envelope.id if accepted.id is None else accepted.id,
        md5_of(envelope.body),
        md5_of_attributes(message.attributes),
        md5_of_attributes(system),
        f"{accepted.place:020d}",
        accepted.id is not None,
    )


def _received(envelope: Envelope, grant: Grant, receipt: str) -> ReceivedMessage:
    return ReceivedMessage(
        id=envelope.id,
        receipt=receipt,
        body=envelope.body.decode(),
        attributes=envelope.attributes,
        receive_count=grant.number,
        sent_at=grant.sent // _MS,
        first_received_at=grant.first // _MS,
        sequence=f"{grant.place:020d}",
        sender=envelope.sender,
        group=envelope.group,
        dedup_id=envelope.dedup_id,
        trace=envelope.trace,
        dead_letter_source=envelope.source,
    )
