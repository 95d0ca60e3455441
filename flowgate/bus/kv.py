"""The store, in JetStream's key-value buckets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import nats.js.errors
from nats.aio.client import Client
from nats.js.api import Header, KeyValueConfig, StorageType
from nats.js.kv import KV_DEL, KV_OP, KV_PURGE, KeyValue
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from flowgate.bus.bridge import REQUEST_SECONDS, IConnectionListener, NatsConnection, to_deferred
from flowgate.bus.keys import MARKER_SECONDS, check_key
from flowgate.errors import BusUnavailable, Conflict
from flowgate.interfaces import IStore
from flowgate.message import Entry

_RETRY_SECONDS: Final = 0.5

Changed = Callable[[str, "bytes | None"], None]


@implementer(IStore)
class JetStreamStore:
    """Buckets of small values, made when they are first used."""

    def __init__(self, connection: NatsConnection, replicas: int = 1) -> None:
        """Prepare a store.

        :param connection: the way to the bus.
        :param replicas: how many servers keep each new bucket.
        """
        self._connection = connection
        self._replicas = replicas
        self._buckets: dict[str, KeyValue] = {}
        self._client: Client | None = None

    async def bucket(self, name: str) -> KeyValue:
        """The bucket called ``name``, made if need be."""
        client = self._connection.client
        if client is not self._client:
            self._client = client
            self._buckets.clear()
        bucket = self._buckets.get(name)
        if bucket is None:
            jetstream = client.jetstream(timeout=REQUEST_SECONDS)
            try:
                bucket = await jetstream.key_value(name)
            except nats.js.errors.BucketNotFoundError:
                bucket = await jetstream.create_key_value(
                    KeyValueConfig(bucket=name, history=1, storage=StorageType.FILE, replicas=self._replicas)
                )
            self._buckets[name] = bucket
        return bucket

    def get(self, bucket: str, key: str) -> Deferred[Entry | None]:
        async def get() -> Entry | None:
            check_key(bucket, key)
            try:
                entry = await (await self.bucket(bucket)).get(key)
            except nats.js.errors.KeyNotFoundError:
                return None
            assert entry.revision is not None
            return Entry(entry.value or b"", entry.revision)

        return to_deferred(self._connection.guard(get()))

    def put(self, bucket: str, key: str, value: bytes, revision: int | None = None) -> Deferred[int]:
        async def put() -> int:
            check_key(bucket, key)
            entries = await self.bucket(bucket)
            if revision is None:
                return await entries.put(key, value)
            if revision == 0:
                return await entries.create(key, value)
            return await entries.update(key, value, last=revision)

        return to_deferred(self._connection.guard(put()))

    def delete(self, bucket: str, key: str, revision: int | None = None) -> Deferred[None]:
        async def delete() -> None:
            check_key(bucket, key)
            entries = await self.bucket(bucket)
            with contextlib.suppress(nats.js.errors.KeyNotFoundError):
                entry = await entries.get(key)  # so that removing what is not there leaves no marker
                if revision is None:
                    await entries.purge(key, msg_ttl=MARKER_SECONDS)
                elif entry.revision != revision:
                    raise Conflict("the entry was changed by somebody else")
                else:
                    # nats-py's purge knows no revision, its delete no time to live.
                    await self._connection.client.jetstream(timeout=REQUEST_SECONDS).publish(
                        f"$KV.{bucket}.{key}",
                        headers={
                            Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(revision),
                            Header.ROLLUP: "sub",
                            KV_OP: KV_PURGE,
                        },
                        msg_ttl=MARKER_SECONDS,
                    )

        return to_deferred(self._connection.guard(delete()))

    def watch(self, bucket: str, changed: Changed) -> Deferred[Callable[[], None]]:
        return to_deferred(_Watch(self, self._connection, bucket, changed).start())


@implementer(IConnectionListener)
class _Watch:
    """A watch that outlives connections: after each of them it reads the bucket anew and tells the difference.

    nats-py's own watcher comes back too, but only after it has missed two heartbeats of 5 s.
    """

    _log = Logger()

    def __init__(self, store: JetStreamStore, connection: NatsConnection, bucket: str, changed: Changed) -> None:
        self._store = store
        self._connection = connection
        self._bucket = bucket
        self._changed = changed
        self._known: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> Callable[[], None]:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._connection.available:
            raise BusUnavailable()
        check_key(self._bucket, "x")
        self._connection.add_listener(self)
        self._task = asyncio.ensure_future(self._run(ready))
        try:
            await ready
        except BaseException:
            self.stop()
            raise
        return self.stop

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._connection.remove_listener(self)
            self.disconnected()

    def connected(self) -> None:
        self.disconnected()
        self._task = asyncio.ensure_future(self._run(None))

    def disconnected(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, ready: asyncio.Future[None] | None) -> None:
        while not self._stopped:
            try:
                await self._follow(ready)
            except asyncio.CancelledError:
                if ready is not None and not ready.done():
                    ready.set_exception(BusUnavailable())
                return
            except Exception as error:
                if ready is not None and not ready.done():
                    ready.set_exception(error)
                    return
                self._log.debug("watch of {bucket} begins anew: {reason}", bucket=self._bucket, reason=str(error))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, ready: asyncio.Future[None] | None) -> None:
        bucket = await self._store.bucket(self._bucket)
        watcher = await bucket.watchall()
        seen: set[str] | None = set()
        try:
            async for entry in watcher:
                complete = entry is not None and entry.delta == 0
                if entry is None:
                    # The end of what is there now.  nats-py may say so before the first entry, too early.
                    complete = bool(seen) or (seen is not None and not (await bucket.status()).values)
                else:
                    removed = entry.operation in (KV_DEL, KV_PURGE)
                    if seen is not None and not removed:
                        seen.add(entry.key)
                    self._take(entry.key, None if removed else entry.value or b"", entry.revision or 0)
                if complete and seen is not None:
                    # Markers of removed keys do not last for ever: what was not listed is gone.
                    for key in self._known.keys() - seen:
                        self._take(key, None, 0)
                    seen = None
                    if ready is not None and not ready.done():
                        ready.set_result(None)
        finally:
            if self._connection.available:
                self._connection.in_background(watcher.stop())  # type: ignore[no-untyped-call]

    def _take(self, key: str, value: bytes | None, revision: int) -> None:
        if value is None:
            if self._known.pop(key, None) is None:
                return
        elif self._known.get(key) == revision:
            return
        else:
            self._known[key] = revision
        if self._stopped:
            return
        try:
            self._changed(key, value)
        except Exception:
            self._log.failure("a watcher of {bucket} failed", bucket=self._bucket)
