"""What the messages of the stream were tagged with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from flowgate.bus.grouping import TAG, Grouper, fetched_sequence
from flowgate.bus.link import Link
from flowgate.bus.reading import PAGE_BYTES, PAGE_MESSAGES, History
from flowgate.bus.stream import StreamSettings, stream_info
from flowgate.bus.wire import header
from flowgate.interfaces import ITagged

_ROOTS: Final = ("log", "live")


@implementer(ITagged)
class JetStreamTagged:
    """:class:`ITagged` over the topics' stream; it reads page by page, so it is for rare cases."""

    def __init__(self, reactor: Any, link: Link, settings: StreamSettings | None = None) -> None:
        """Be ready to read.

        :param reactor: IReactorTime.
        :param settings: of the stream; its name is all that matters.
        """
        self._link = link
        self._settings = settings or StreamSettings()
        self._history = History(reactor, link, self._settings, Grouper(1))

    def mark(self) -> Deferred[int]:
        return Deferred.fromCoroutine(self._mark())

    async def _mark(self) -> int:
        return (await stream_info(self._link, self._settings)).last

    def read(self, user: str, app: str, after: int, take: Callable[[str, int], None]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._read(user, app, after, take))

    async def _read(self, user: str, app: str, after: int, take: Callable[[str, int], None]) -> None:
        last = await self._mark()
        for root in _ROOTS:
            subject = f"fg.{root}.{user}.{app or '*'}.>"
            place = after
            while place < last:
                messages, more = await self._history.messages(subject, place, PAGE_MESSAGES, PAGE_BYTES)
                for message in messages:
                    place = fetched_sequence(message)
                    tag = header(message[3], TAG) if place <= last else b""
                    if tag:
                        take(tag.decode("ascii", "replace"), len(message[4]))
                if not messages or not more:
                    break
