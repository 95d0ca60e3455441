"""Deadlines of very many connections on one delayed call."""

from __future__ import annotations

from math import ceil
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger()


class Due(Protocol):
    """Something with a deadline."""

    def due(self) -> None:
        """The deadline has passed."""


class Wheel:
    """Deadlines to the second: an item has one at a time, setting it again moves it.

    A ``callLater`` per connection would cost half a kilobyte and a heap operation for every packet; here a deadline is
    one dictionary entry, and a tick a second looks at those that are due.  A deadline is kept up to 1 s late, never
    early.  An item whose ``due`` raises costs the others nothing.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._slots: dict[int, dict[Due, None]] = {}
        self._places: dict[Due, int] = {}
        self._tick: IDelayedCall | None = None
        self._next = 0

    def set(self, item: Due, delay: float) -> None:
        """Have ``item.due()`` called in ``delay`` seconds, instead of any deadline that it had."""
        now = self._clock.seconds()
        if self._tick is None:
            self._next = ceil(now)
        # Not before the second that is looked at next: an earlier one is never looked at again.
        place = max(ceil(now + delay), self._next)
        old = self._places.get(item)
        if old == place:
            return
        if old is not None:
            self._leave(item, old)
        self._places[item] = place
        self._slots.setdefault(place, {})[item] = None
        if self._tick is None:
            self._schedule()

    def cancel(self, item: Due) -> None:
        """Forget the deadline of ``item``, if it has one."""
        place = self._places.pop(item, None)
        if place is not None:
            self._leave(item, place)

    def _leave(self, item: Due, place: int) -> None:
        slot = self._slots.get(place)
        if slot is not None:
            slot.pop(item, None)
            if not slot:
                del self._slots[place]

    def _schedule(self) -> None:
        self._tick = self._clock.callLater(max(0.0, self._next - self._clock.seconds()), self._run)

    def _run(self) -> None:
        tick = self._tick
        now = self._clock.seconds()
        while self._next <= now:
            # After a long pause of the process every missed second is looked at, in order.
            place = self._next
            self._next += 1
            for item in list(self._slots.pop(place, ())):
                if self._places.get(item) == place:  # else an item before it has cancelled or moved it
                    del self._places[item]
                    try:
                        item.due()
                    except Exception:
                        _log.failure("a deadline of {item} failed", item=type(item).__name__)
        if self._tick is tick:  # else stopped meanwhile
            self._tick = None
            if self._slots:
                self._schedule()

    def stop(self) -> None:
        """Forget every deadline."""
        self._slots.clear()
        self._places.clear()
        if self._tick is not None and self._tick.active():
            self._tick.cancel()
        self._tick = None
