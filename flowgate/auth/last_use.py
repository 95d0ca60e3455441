"""When each API key was last used: written seldom, known on every node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import BusUnavailable
from flowgate.interfaces import IStore

_log = Logger()

LAST_USE: Final = "FG_KEY_USES"

SECONDS: Final = 60
"""A key's use is written at most once in so many seconds, by all nodes together (about)."""

AT_ONCE: Final = 64
"""Writes under way; further uses are written when they are repeated."""


class LastUse:
    """The times at which keys were last shown to any node: cached, and kept up to date by the store.

    There is one time for each key that there is: :meth:`forget` drops those of others.

    :param now: seconds since 1970 UTC.
    """

    def __init__(self, store: IStore, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._times: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._writing = 0

    async def start(self) -> Callable[[], None]:
        """Read all times, and follow.

        :returns: what ends that.
        """
        return await self._store.watch(LAST_USE, self._changed)

    def _changed(self, key_id: str, value: bytes | None) -> None:
        if value is None:
            self._times.pop(key_id, None)
            self._due.pop(key_id, None)
            return
        try:
            time = int(value)
        except ValueError:
            _log.error("the stored last use of {key_id} cannot be read", key_id=key_id)
            return
        self._times[key_id] = time
        self._due[key_id] = max(self._due.get(key_id, 0.0), float(time + SECONDS))

    def of(self, key_id: str) -> int | None:
        """When the key was last used, in seconds since 1970 UTC; at most a minute too early, or ``None`` if never."""
        return self._times.get(key_id)

    def note(self, key_id: str) -> None:
        """The key is used now; to be called for keys that there are."""
        now = self._now()
        if now < self._due.get(key_id, 0.0) or self._writing >= AT_ONCE:
            return
        self._due[key_id] = now + SECONDS
        self._writing += 1
        self._store.put(LAST_USE, key_id, b"%d" % now).addCallbacks(
            self._written, self._not_written, callbackArgs=(key_id, int(now)), errbackArgs=(key_id,)
        )

    def _written(self, _revision: int, key_id: str, time: int) -> None:
        self._writing -= 1
        self._times[key_id] = max(time, self._times.get(key_id, 0))

    def _not_written(self, failure: Failure, key_id: str) -> None:
        self._writing -= 1
        self._due.pop(key_id, None)  # the next use tries again
        if not isinstance(failure.value, BusUnavailable):
            _log.failure("the last use of {key_id} cannot be noted", failure, key_id=key_id)

    def forget(self, key_id: str) -> Deferred[None]:
        """Drop the time of a key that was removed.

        :raises BusUnavailable: through the Deferred.
        """
        self._times.pop(key_id, None)
        self._due.pop(key_id, None)
        return self._store.delete(LAST_USE, key_id)
