"""The verified fake of what finds tagged messages."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from flowgate.bus.memory_topics import MemoryBus
from flowgate.errors import BusUnavailable
from flowgate.interfaces import ITagged


@implementer(ITagged)
class MemoryTagged:
    """Reads what a :class:`MemoryBus` holds, at once."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus

    def mark(self) -> Deferred[int]:
        return succeed(self._bus.last) if self._bus.available else fail(BusUnavailable())

    def read(self, user: str, app: str, after: int, take: Callable[[str, int], None]) -> Deferred[None]:
        if not self._bus.available:
            return fail(BusUnavailable())
        for topic, tag, size in self._bus.tagged(after):
            if topic.namespace.user == user and app in ("", topic.namespace.app):
                take(tag, size)
        return succeed(None)
