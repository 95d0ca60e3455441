"""The store's verified fake."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from zope.interface import implementer

from flowgate.bus.keys import check_key
from flowgate.errors import Conflict
from flowgate.interfaces import IStore
from flowgate.message import Entry


class _Bucket:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.watchers: list[Callable[[str, bytes | None], None]] = []
        self.revision = 0

    def tell(self, key: str, value: bytes | None) -> None:
        for watcher in list(self.watchers):
            watcher(key, value)


@implementer(IStore)
class MemoryStore:
    """Entries in a dictionary; everything happens at once."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def _find(self, bucket: str, key: str) -> _Bucket:
        check_key(bucket, key)
        return self._buckets.setdefault(bucket, _Bucket())

    def get(self, bucket: str, key: str) -> Deferred[Entry | None]:
        return maybeDeferred(lambda: self._find(bucket, key).entries.get(key))

    def put(self, bucket: str, key: str, value: bytes, revision: int | None = None) -> Deferred[int]:
        return maybeDeferred(self._put, bucket, key, value, revision)

    def _put(self, bucket: str, key: str, value: bytes, revision: int | None) -> int:
        found = self._find(bucket, key)
        old = found.entries.get(key)
        if revision is not None and revision != (old.revision if old else 0):
            raise Conflict("the entry was changed by somebody else")
        found.revision += 1
        found.entries[key] = Entry(value, found.revision)
        found.tell(key, value)
        return found.revision

    def delete(self, bucket: str, key: str, revision: int | None = None) -> Deferred[None]:
        return maybeDeferred(self._delete, bucket, key, revision)

    def _delete(self, bucket: str, key: str, revision: int | None) -> None:
        found = self._find(bucket, key)
        old = found.entries.get(key)
        if old is None:
            return
        if revision is not None and revision != old.revision:
            raise Conflict("the entry was changed by somebody else")
        del found.entries[key]
        found.revision += 1
        found.tell(key, None)

    def watch(self, bucket: str, changed: Callable[[str, bytes | None], None]) -> Deferred[Callable[[], None]]:
        found = self._find(bucket, "x")

        def watcher(key: str, value: bytes | None) -> None:
            changed(key, value)

        for key, entry in list(found.entries.items()):
            changed(key, entry.value)
        found.watchers.append(watcher)

        def stop() -> None:
            if watcher in found.watchers:
                found.watchers.remove(watcher)

        return succeed(stop)
