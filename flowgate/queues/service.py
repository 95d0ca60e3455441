"""The verbs of queues, the same for every protocol: checks, configuration, receipts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.errors import Conflict, InvalidParameter, MessageTooLarge, NotFound
from flowgate.interfaces import IQueues, IStore
from flowgate.message import QueueMessage, QueueStats
from flowgate.queues.model import (
    MAX_ATTRIBUTE_BYTES,
    MAX_RECEIVE,
    MAX_VISIBILITY,
    MAX_WAIT,
    Configured,
    QueueConfig,
    QueueDescription,
    ReceivedMessage,
    Sent,
    check_name,
    check_range,
)
from flowgate.queues.receipts import Receipts
from flowgate.topics import Namespace

BUCKET = "FG_QUEUES"
"""The bucket of the store that holds the configurations."""


def _key(namespace: Namespace, name: str) -> str:
    return f"{namespace.user}.{namespace.app}.{name}"


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


class Queues:
    """Queues with their policy.  Permissions are the caller's affair; every check of values is made here."""

    _log = Logger()

    def __init__(self, queues: IQueues, store: IStore, secret: bytes, now: Callable[[], float]) -> None:
        """Prepare the queues.

        :param queues: the bus's part.
        :param store: keeps the configurations.
        :param secret: signs receipts; the same on all nodes.
        :param now: seconds since 1970 UTC.
        """
        self._queues = queues
        self._store = store
        self._receipts = Receipts(secret)
        self._now = now
        self._described: dict[str, QueueDescription] = {}
        self._unwatch: Callable[[], None] | None = None

    def start(self) -> Deferred[None]:
        """Follow the configurations, so that no verb has to ask for them.

        :returns: a Deferred of ``None``.
        :raises BusUnavailable: through the Deferred.
        """

        async def start() -> None:
            self._unwatch = await self._store.watch(BUCKET, self._changed)

        return Deferred.fromCoroutine(start())

    def stop(self) -> None:
        """Follow them no more."""
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()
        self._described.clear()

    def _changed(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._described.pop(key, None)
            return
        try:
            self._described[key] = _parse(key, value)
        except Conflict:
            self._described.pop(key, None)
            self._log.error("the configuration of queue {key} cannot be read, so the queue is not served", key=key)

    async def _find(self, namespace: Namespace, name: str) -> QueueDescription:
        check_name(name)
        key = _key(namespace, name)
        described = self._described.get(key)
        if described is None:
            entry = await self._store.get(BUCKET, key)  # made by another node a moment ago, perhaps
            if entry is None:
                raise NotFound("there is no such queue")
            described = _parse(key, entry.value)
            if self._unwatch is not None:
                self._described.setdefault(key, described)
        return described

    def configure(
        self, namespace: Namespace, name: str, config: QueueConfig | Mapping[str, object]
    ) -> Deferred[Configured]:
        """Have a queue with just this configuration.

        :param config: a :class:`QueueConfig`, or its members as JSON values.
        :returns: a Deferred of :class:`Configured`.
        :raises InvalidParameter: through the Deferred, if the name or a member is wrong.
        :raises Conflict: through the Deferred, if the queue exists with another configuration.
        """
        return Deferred.fromCoroutine(self._configure(namespace, name, config))

    async def _configure(
        self, namespace: Namespace, name: str, config: QueueConfig | Mapping[str, object]
    ) -> Configured:
        check_name(name)
        # A value is checked as well: it can be made without a check.
        wanted = QueueConfig.parse(config.members() if isinstance(config, QueueConfig) else config)
        key = _key(namespace, name)
        described = QueueDescription(name, wanted, int(self._now()))
        value = json.dumps({"config": wanted.members(), "created_at": described.created_at}).encode()
        while True:
            entry = await self._store.get(BUCKET, key)
            if entry is not None:
                if _parse(key, entry.value).config != wanted:
                    raise Conflict("the queue exists with another configuration")
                return Configured.SAME
            # The queue first: a configuration without its queue would be a promise that nobody keeps.
            await self._queues.create(namespace, name, wanted.retention)
            try:
                await self._store.put(BUCKET, key, value, 0)
            except Conflict:
                continue  # another node was faster
            if self._unwatch is not None:
                self._described[key] = described
            return Configured.CREATED

    def describe(self, namespace: Namespace, name: str) -> Deferred[QueueDescription]:
        """:returns: a Deferred of :class:`QueueDescription`; :class:`NotFound` if there is no such queue."""
        return Deferred.fromCoroutine(self._find(namespace, name))

    def stats(self, namespace: Namespace, name: str) -> Deferred[QueueStats]:
        """:returns: a Deferred of :class:`QueueStats`; :class:`NotFound` if there is no such queue."""

        async def stats() -> QueueStats:
            await self._find(namespace, name)
            return await self._queues.stats(namespace, name)

        return Deferred.fromCoroutine(stats())

    def remove(self, namespace: Namespace, name: str) -> Deferred[None]:
        """Remove a queue with its messages.

        :returns: a Deferred of ``None``.
        :raises NotFound: through the Deferred.
        """

        async def remove() -> None:
            check_name(name)
            key = _key(namespace, name)
            if await self._store.get(BUCKET, key) is None:
                raise NotFound("there is no such queue")
            with contextlib.suppress(NotFound):  # an earlier removal went half the way
                await self._queues.delete(namespace, name)
            await self._store.delete(BUCKET, key)
            self._described.pop(key, None)

        return Deferred.fromCoroutine(remove())

    def send(
        self,
        namespace: Namespace,
        name: str,
        body: str,
        attributes: Mapping[str, object] | None = None,
        *,
        may_create: bool = False,
    ) -> Deferred[Sent]:
        """Store a message.

        :param attributes: user's attributes, JSON values.
        :param may_create: whether to make the queue, with defaults, if it does not exist.
        :returns: a Deferred of :class:`Sent`, fired once the message is stored.
        :raises NotFound: through the Deferred.
        :raises MessageTooLarge: through the Deferred.
        """
        return Deferred.fromCoroutine(self._send(namespace, name, body, dict(attributes or {}), may_create))

    async def _send(
        self, namespace: Namespace, name: str, body: str, attributes: dict[str, object], may_create: bool
    ) -> Sent:
        try:
            config = (await self._find(namespace, name)).config
        except NotFound:
            if not may_create:
                raise
            config = await self._make(namespace, name)
        try:
            raw = body.encode()
            size = len(raw) + (len(json.dumps(attributes, ensure_ascii=False).encode()) if attributes else 0)
        except UnicodeEncodeError:
            raise InvalidParameter("the message is not valid Unicode") from None
        if size > config.max_message_bytes:
            raise MessageTooLarge(f"the queue takes messages of at most {config.max_message_bytes} bytes")
        if attributes and len(json.dumps(attributes)) > MAX_ATTRIBUTE_BYTES:
            raise MessageTooLarge(f"attributes have at most {MAX_ATTRIBUTE_BYTES} bytes, written as ASCII JSON")
        message = QueueMessage(secrets.token_hex(16), raw, attributes)
        try:
            (sequence,) = await self._queues.send(namespace, name, [message])
        except NotFound:
            # Configured, but gone from the bus.
            if not may_create:
                raise
            await self._queues.create(namespace, name, config.retention)
            (sequence,) = await self._queues.send(namespace, name, [message])
        return Sent(message.id, _md5(raw), sequence)

    async def _make(self, namespace: Namespace, name: str) -> QueueConfig:
        with contextlib.suppress(Conflict):  # made with something else than defaults in this moment
            await self._configure(namespace, name, QueueConfig())
        return (await self._find(namespace, name)).config

    def receive(
        self, namespace: Namespace, name: str, max: int = 1, wait: int | None = None, visibility: int | None = None
    ) -> Deferred[list[ReceivedMessage]]:
        """Take messages, each for a while.

        Cancelling the Deferred ends the wait; nothing is taken then.

        :param max: at most so many, 1 to 10.
        :param wait: seconds to wait for a first one, 0 to 20; ``None``: as the queue is configured.
        :param visibility: seconds until a message that was not deleted is handed out again, 0 to 43,200; ``None``:
            as the queue is configured.
        :returns: a Deferred of a list of :class:`ReceivedMessage`.
        :raises NotFound: through the Deferred.
        """
        return Deferred.fromCoroutine(self._receive(namespace, name, max, wait, visibility))

    async def _receive(
        self, namespace: Namespace, name: str, limit: int, wait: int | None, visibility: int | None
    ) -> list[ReceivedMessage]:
        check_range("max", limit, 1, MAX_RECEIVE)
        if wait is not None:
            check_range("wait", wait, 0, MAX_WAIT)
        if visibility is not None:
            check_range("visibility", visibility, 0, MAX_VISIBILITY)
        config = (await self._find(namespace, name)).config
        received = await self._queues.receive(
            namespace,
            name,
            limit,
            config.receive_wait if wait is None else wait,
            config.visibility if visibility is None else visibility,
        )
        return [
            ReceivedMessage(
                id=one.message.id,
                receipt=self._receipts.issue(namespace, name, one.handle),
                body=one.message.body.decode(),
                md5=_md5(one.message.body),
                receive_count=one.receive_count,
                sent_at=one.sent_at // 1_000_000,
                sequence=one.sequence,
                attributes=one.message.attributes,
            )
            for one in received
        ]

    def delete(self, namespace: Namespace, name: str, receipt: str) -> Deferred[None]:
        """Remove a received message for good; again is no error.

        :returns: a Deferred of ``None``, fired once it cannot come back.
        :raises ReceiptInvalid: through the Deferred, if the receipt was never issued for this queue.
        :raises NotFound: through the Deferred, if there is no such queue.
        """

        async def delete() -> None:
            await self._find(namespace, name)
            await self._queues.delete_messages(namespace, name, [self._receipts.open(namespace, name, receipt)])

        return Deferred.fromCoroutine(delete())

    def change_visibility(self, namespace: Namespace, name: str, receipt: str, seconds: int) -> Deferred[None]:
        """Have a received message handed out again in ``seconds`` from now, 0 to 43,200.

        :returns: a Deferred of ``None``.
        :raises ReceiptInvalid: through the Deferred, if the receipt was never issued for this queue.
        :raises NotFound: through the Deferred, if there is no such queue.
        """

        async def change() -> None:
            check_range("visibility", seconds, 0, MAX_VISIBILITY)
            await self._find(namespace, name)
            handle = self._receipts.open(namespace, name, receipt)
            await self._queues.change_visibility(namespace, name, handle, seconds)

        return Deferred.fromCoroutine(change())


def _parse(key: str, value: bytes) -> QueueDescription:
    """Read a stored configuration.

    :raises Conflict: if that is not possible: what a newer version promises of a queue, this one may not keep.
    """
    try:
        members = json.loads(value)
        return QueueDescription(key.split(".", 2)[2], QueueConfig.parse(members["config"]), int(members["created_at"]))
    except (ValueError, LookupError, TypeError, AttributeError, InvalidParameter):
        raise Conflict("the queue's configuration is of another version, or damaged") from None
