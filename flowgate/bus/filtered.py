"""One reader's way through the acknowledged messages on several filters.

It is that of any :class:`~flowgate.bus.feed.Feed`; only the pages are put together from several subjects, and what
the tail brings has been sorted out before it comes here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from flowgate.bus.feed import Feed, State
from flowgate.bus.grouping import fetched_sequence
from flowgate.bus.names import LOG, filter_subject, subject_topic
from flowgate.bus.overrun import Doubts
from flowgate.bus.reading import PAGE_BYTES, PAGE_MESSAGES, History, Look, Losses, Page, all_of
from flowgate.bus.stream import StreamSettings, StreamState
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable
from flowgate.interfaces import IFilteredFeed, IReader
from flowgate.message import Cursor, Run
from flowgate.topics import FilterTree, Namespace, covers, has_wildcard, matches

if TYPE_CHECKING:
    from flowgate.bus.tail import Feeds, SharedTail

_SUBJECTS_AT_ONCE = 16
"""Subjects that are read at once for one page: each of them may bring one message that is larger than a page."""
_LEAST_MESSAGES = 16
_CACHED_TOPICS = 1000
_NEVER = 2**63


def without_covered(filters: Iterable[str]) -> list[str]:
    """Those of ``filters`` that no other one of them takes in."""
    wild: FilterTree[str] = FilterTree()
    wanted = list(dict.fromkeys(filters))
    for filter_ in wanted:
        if has_wildcard(filter_):
            wild.add(filter_, filter_)
    # The tree takes a wildcard in the inner filter for a level like any other, so it finds too many, never too few.
    return [
        inner for inner in wanted if not any(outer != inner and covers(outer, inner) for outer in wild.match(inner))
    ]


@attrs.define(slots=True, eq=False)
class _Wish:
    """A filter that is read; compared by identity.

    :ivar since: it is read behind this place.
    :ivar due: whether what is missing behind ``since`` is missed: not until it was said from where on it is read.
    """

    since: int
    due: bool


class Filters:
    """The filters of one feed.

    :ivar grown: counts the filters that were added.
    """

    __slots__ = ("_since", "_subjects", "grown", "namespace", "wishes")

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.wishes: dict[str, _Wish] = {}
        self.grown = 0
        self._subjects: list[str] | None = None
        self._since: dict[str, int | None] = {}

    def add(self, filter_: str, since: int, due: bool) -> _Wish:
        """Read a filter behind ``since``; one that is read already stays as it is."""
        wish = self.wishes.get(filter_)
        if wish is None:
            wish = self.wishes[filter_] = _Wish(since, due)
            self.grown += 1
            self._changed()
        return wish

    def settle(self, wish: _Wish, since: int) -> None:
        """Read a filter behind ``since`` only, and miss what is missing there."""
        wish.since = max(wish.since, since)
        wish.due = True
        self._changed()

    def discard(self, filter_: str) -> bool:
        """Read a filter no longer; tell whether it was read."""
        if self.wishes.pop(filter_, None) is None:
            return False
        self._changed()
        return True

    def from_the_beginning(self) -> None:
        """Read every filter whole: the places are those of another stream."""
        for wish in self.wishes.values():
            wish.since, wish.due = 0, True
        self._changed()

    def _changed(self) -> None:
        self._subjects = None
        self._since.clear()

    def subjects(self) -> list[str]:
        """What takes in all filters; some of it may overlap."""
        if self._subjects is None:
            kept = without_covered(self.wishes)
            self._subjects = [filter_subject(LOG, self.namespace, filter_) for filter_ in kept]
        return self._subjects

    def since(self, name: str) -> int | None:
        """From where on the topic ``name`` is read; ``None`` if it is not."""
        if name in self._since:
            return self._since[name]
        if len(self._since) >= _CACHED_TOPICS:
            self._since.clear()
        found = (wish.since for filter_, wish in self.wishes.items() if matches(filter_, name))
        since = self._since[name] = min(found, default=None)
        return since

    def missed_since(self, name: str | None = None) -> int:
        """Behind which place it is missed if something is missing on the topic ``name``, or on any topic."""
        due = (
            wish.since for filter_, wish in self.wishes.items() if wish.due and (name is None or matches(filter_, name))
        )
        return min(due, default=_NEVER)


class FilteredSource:
    """What lies behind a cursor on several filters, up to the tail's place.

    Each subject is read by itself, and what they give is put in order.  They are read at moments of their own: so
    nothing is given that lies behind the tail's place before the first of them, for another one may lack what was
    stored before that.  The tail brings it.
    """

    __slots__ = ("_filters", "_history", "_losses", "_settings", "_tail")

    def __init__(self, history: History, settings: StreamSettings, filters: Filters, tail: SharedTail) -> None:
        self._history = history
        self._settings = settings
        self._filters = filters
        self._tail = tail
        self._losses = Losses(history)

    def page(self, after: int) -> Deferred[Page]:
        return Deferred.fromCoroutine(self._page(after))

    async def _page(self, after: int) -> Page:
        while True:
            grown = self._filters.grown
            page = await self._read(after, self._tail.last)
            if grown == self._filters.grown:
                return page
            # It may lie behind what the tail has brought on the new filter meanwhile, and must not pass it by.

    async def _read(self, after: int, upto: int) -> Page:
        subjects = self._filters.subjects()
        if not subjects or after >= upto:
            return Page([], False)
        at_once = min(len(subjects), _SUBJECTS_AT_ONCE)
        limit = max(PAGE_MESSAGES // at_once, _LEAST_MESSAGES)
        found: dict[int, Message] = {}
        frontier = upto  # from here on something may be missing
        suspects: list[str] = []
        for start in range(0, len(subjects), at_once):
            some = subjects[start : start + at_once]
            asked = [self._history.messages(subject, after, limit, PAGE_BYTES // at_once) for subject in some]
            ends: dict[str, int] = {}  # of what seems to have been read whole
            for subject, (messages, pending) in zip(some, await all_of(asked), strict=True):
                sequences = [fetched_sequence(message) for message in messages]
                found.update(zip(sequences, messages, strict=True))
                if pending and sequences:
                    frontier = min(frontier, sequences[-1])
                else:
                    ends[subject] = sequences[-1] if sequences else after
                if len(messages) + pending >= self._settings.per_topic:
                    suspects.append(subject)
            if self._settings.replicas > 1:
                frontier = await self._compared(ends, frontier)
            found, frontier = _first_of(found, frontier)
        ordered = [found[sequence] for sequence in sorted(found)]
        return Page(self._history.group(ordered), frontier < upto, suspects)

    async def _compared(self, ends: dict[str, int], frontier: int) -> int:
        """How far that is whole by what the stream's leader knows: a replica that lags behind may have answered."""
        asked = [Deferred.fromCoroutine(self._history.following(subject, end)) for subject, end in ends.items()]
        return min([frontier, *(sequence - 1 for sequence in await all_of(asked) if sequence)])

    async def look(self, after: int, page: Page) -> Look:
        return await self._losses.look(after, page.suspects, self._filters.missed_since(), self._missed_since)

    def _missed_since(self, subject: str) -> int:
        _, topic = subject_topic(subject.encode())
        return self._filters.missed_since(topic.name)

    async def newer(self, after: int) -> bool:
        return False  # every page was compared with the leader


def _first_of(found: dict[int, Message], frontier: int) -> tuple[dict[int, Message], int]:
    """As much of ``found`` as lies up to ``frontier`` and fits into a page; and how far that is."""
    kept: dict[int, Message] = {}
    size = 0
    for sequence in sorted(found):
        if sequence > frontier:
            break
        if len(kept) >= PAGE_MESSAGES or size >= PAGE_BYTES:
            return kept, next(reversed(kept))
        kept[sequence] = found[sequence]
        size += len(found[sequence][4])
    return kept, frontier


@implementer(IFilteredFeed)
class FilteredFeed(Feed):
    """One reader's way through the acknowledged messages on several filters of one namespace."""

    __slots__ = ("_filters",)
    _tail: SharedTail

    def __init__(self, feeds: Feeds, tail: SharedTail, reader: IReader, after: int) -> None:
        """Make a feed without filters; see :meth:`join`."""
        self._filters = Filters(tail.namespace)
        source = FilteredSource(feeds.history, feeds.settings, self._filters, tail)
        super().__init__(feeds, tail, source, reader, after)

    @property
    def cursor(self) -> Cursor:
        if self._state is State.LIVE and not self._buffer and not self._missed:
            # The tail has brought nothing for this reader since: what lies between is not for it.
            return Cursor(self._epoch, max(self._after, self._tail.given))
        return Cursor(self._epoch, self._after)

    async def join(self, filters: Iterable[str]) -> None:
        """Read filters from the beginning; before :meth:`begin` or :meth:`go_live`.

        :raises BusUnavailable: if JetStream does not answer, or the feed was stopped meanwhile.
        """
        wanted = list(dict.fromkeys(filters))
        if wanted:
            await self._placed()
            for filter_ in wanted:
                self._filters.add(filter_, 0, True)
            self._tail.join(wanted, self)

    async def _placed(self) -> None:
        await self._tail.place()
        if self._state is State.STOPPED:
            raise BusUnavailable()

    def add(self, filter_: str) -> Deferred[int]:
        return Deferred.fromCoroutine(self._add(filter_))

    async def _add(self, filter_: str) -> int:
        if self._state is State.STOPPED or not self._context.up:
            raise BusUnavailable()
        await self._placed()
        new = filter_ not in self._filters.wishes
        # From its place on, the tail brings all there is on the filter; pages leave out what lies before.
        wish = self._filters.add(filter_, self._tail.last, False)
        if new:
            self._tail.join([filter_], self)
        try:
            await self._tail.ready()
            state = await self._context.history.state()
        except BusUnavailable:
            if new and self._filters.wishes.get(filter_) is wish:
                self.discard(filter_)
            raise
        if new:
            self._filters.settle(wish, state.last)
        return state.last

    def discard(self, filter_: str) -> None:
        if not self._filters.discard(filter_):
            return
        self._tail.leave(filter_, self)
        if self._buffer:
            kept = [run for run in self._buffer if self._filters.since(run.topic.name) is not None]
            self._clear()
            if kept:
                self._fill(kept)

    def stop(self) -> None:
        if self._state is not State.STOPPED:
            super().stop()
            for filter_ in self._filters.wishes:
                self._tail.leave(filter_, self)

    def _restart(self, state: StreamState) -> None:
        self._filters.from_the_beginning()
        super()._restart(state)

    def _whole(self, doubts: Doubts, run: Run) -> int:
        whole = super()._whole(doubts, run)
        return whole if whole > self._filters.missed_since(run.topic.name) else 0

    def _wanted(self, run: Run) -> Run | None:
        since = self._filters.since(run.topic.name)
        return None if since is None else run.after(since)
