"""The moments at which API keys expire."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

_LONGEST: Final = 60.0
"""Seconds until it looks again at the latest: the clock of the calendar may be set while the reactor's runs on."""


class Expiries:
    """Tells of each key when its time has come, by one timer for all.

    :param now: seconds since 1970 UTC.
    :param expired: called with a key's id.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float], expired: Callable[[str], None]) -> None:
        self._clock = clock
        self._now = now
        self._expired = expired
        self._times: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._timer: IDelayedCall | None = None

    def set(self, key_id: str, at: int | None) -> None:
        """The key expires then; never, if ``None``.  What is over already is told of no more."""
        if at is None or at <= self._now():
            self._times.pop(key_id, None)
        elif self._times.get(key_id) != at:
            self._times[key_id] = at
            heappush(self._heap, (at, key_id))
            if len(self._heap) > 64 + 2 * len(self._times):  # keys whose time was changed again and again
                self._heap = [(time, key) for key, time in self._times.items()]
                heapify(self._heap)
            self._wait()

    def stop(self) -> None:
        """Tell of nothing any more."""
        self._times.clear()
        self._heap.clear()
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            seconds = min(max(self._heap[0][0] - self._now(), 0.001), _LONGEST)
            self._timer = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        while self._heap and self._heap[0][0] <= self._now():
            at, key_id = heappop(self._heap)
            if self._times.get(key_id) == at:
                del self._times[key_id]
                self._expired(key_id)
        self._wait()
