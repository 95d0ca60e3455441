"""Which queues there are, and how each is configured: a bucket of the store that every node follows."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.errors import Conflict, InvalidParameter, NotFound
from flowgate.interfaces import IStore
from flowgate.queues.model import QueueConfig, QueueDescription
from flowgate.topics import Namespace

BUCKET = "FG_QUEUES"
"""The bucket of the store that holds the configurations."""

_ATTEMPTS = 5

Changed = Callable[[Namespace, str, "QueueDescription | None"], None]


def _key(namespace: Namespace, name: str) -> str:
    return f"{namespace.user}.{namespace.app}.{name}"


class Directory:
    """The queues' descriptions.

    :ivar now: seconds since 1970 UTC.
    """

    _log = Logger()

    def __init__(self, store: IStore, now: Callable[[], float]) -> None:
        self._store = store
        self.now = now
        self._known: dict[Namespace, dict[str, QueueDescription]] = {}
        self._listeners: list[Changed] = []
        self._unwatch: Callable[[], None] | None = None

    def start(self) -> Deferred[None]:
        """Follow the bucket.

        :raises BusUnavailable: through the Deferred.
        """

        async def start() -> None:
            self._unwatch = await self._store.watch(BUCKET, self._changed)

        return Deferred.fromCoroutine(start())

    def stop(self) -> None:
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()
        self._known.clear()

    def listen(self, changed: Changed) -> None:
        """Have ``changed`` called for every queue there is, and whenever one is made, changed or removed (``None``)."""
        self._listeners.append(changed)
        for namespace, queues in self._known.items():
            for name, description in queues.items():
                changed(namespace, name, description)

    def _changed(self, key: str, value: bytes | None) -> None:
        user, app, name = key.split(".", 2)
        namespace = Namespace(user, app)
        try:
            description = None if value is None else _parse(name, value)
        except Conflict:
            self._log.warn("the configuration of the queue {key} cannot be read and is passed over", key=key)
            description = None
        self._take(namespace, name, description)

    def _take(self, namespace: Namespace, name: str, description: QueueDescription | None) -> None:
        queues = self._known.setdefault(namespace, {})
        if queues.get(name) == description:
            return
        if description is None:
            queues.pop(name, None)
            if not queues:
                del self._known[namespace]
        else:
            queues[name] = description
        for listener in self._listeners:
            listener(namespace, name, description)

    def known(self, namespace: Namespace, name: str) -> QueueDescription | None:
        """The description of a queue, if this node has heard of it."""
        queues = self._known.get(namespace)
        return None if queues is None else queues.get(name)

    def all(self) -> list[tuple[Namespace, QueueDescription]]:
        """All queues of all namespaces."""
        return [(namespace, one) for namespace, queues in self._known.items() for one in queues.values()]

    def count(self, namespace: Namespace) -> int:
        """How many queues a namespace has."""
        return len(self._known.get(namespace, ()))

    def listing(
        self, namespace: Namespace, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[QueueDescription]:
        """Queues of a namespace by name, from behind ``after``."""
        queues = self._known.get(namespace, {})
        names = sorted(name for name in queues if name.startswith(prefix))
        begin = bisect_right(names, after)
        return [queues[name] for name in names[begin : begin + limit]]

    async def find(self, namespace: Namespace, name: str, *, fresh: bool = False) -> QueueDescription:
        """The description of a queue.

        :param fresh: whether to ask the store in any case.
        :raises NotFound: if there is none.
        :raises Conflict: if it cannot be read.
        """
        description = None if fresh else self.known(namespace, name)
        if description is None:
            # Made by another node just now, perhaps.
            entry = await self._store.get(BUCKET, _key(namespace, name))
            description = None if entry is None else _parse(name, entry.value)
            self._take(namespace, name, description)
        if description is None:
            raise NotFound("there is no such queue")
        return description

    async def create(self, namespace: Namespace, name: str, config: QueueConfig) -> QueueDescription:
        """Write down a new queue.

        :raises Conflict: if there is one of this name.
        """
        now = int(self.now())
        description = QueueDescription(name, config, now, now)
        await self._store.put(BUCKET, _key(namespace, name), _write(description), 0)
        self._take(namespace, name, description)
        return description

    async def change(
        self, namespace: Namespace, name: str, edit: Callable[[QueueDescription], QueueDescription]
    ) -> QueueDescription:
        """Change what is written down of a queue.

        :param edit: gives the new description for the one of now; called again if somebody else was faster.
        :raises NotFound: if there is none.
        :raises Conflict: if others change it all the time.
        """
        for attempt in range(_ATTEMPTS):
            entry = await self._store.get(BUCKET, _key(namespace, name))
            if entry is None:
                self._take(namespace, name, None)
                raise NotFound("there is no such queue")
            before = _parse(name, entry.value)
            after = edit(before)
            if after == before:
                return before
            try:
                await self._store.put(BUCKET, _key(namespace, name), _write(after), entry.revision)
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            self._take(namespace, name, after)
            return after
        raise AssertionError("not reached")

    async def remove(self, namespace: Namespace, name: str) -> None:
        """Strike out a queue."""
        await self._store.delete(BUCKET, _key(namespace, name))
        self._take(namespace, name, None)


def _write(description: QueueDescription) -> bytes:
    members = {
        "config": description.config.members(),
        "created_at": description.created_at,
        "modified_at": description.modified_at,
        "subscriptions": list(description.subscriptions),
    }
    return json.dumps(members, separators=(",", ":")).encode()


def _parse(name: str, value: bytes) -> QueueDescription:
    """Read a stored description.

    :raises Conflict: if that is not possible: what a newer version promises of a queue, this one may not keep.
    """
    try:
        members = json.loads(value)
        created = int(members["created_at"])
        return QueueDescription(
            name,
            QueueConfig.parse(name, members["config"]),
            created,
            int(members.get("modified_at", created)),
            tuple(members.get("subscriptions", ())),
        )
    except (ValueError, LookupError, TypeError, AttributeError, InvalidParameter):
        raise Conflict("the queue's configuration is of another version, or damaged") from None
