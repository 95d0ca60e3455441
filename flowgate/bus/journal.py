"""Books: one stream each, with a subject for every entry, so that the server itself refuses a second one.

JetStream reads forward only.  The place at which a page of one owner begins is found by counting: a batched get tells
how many messages follow on its subject, so a few of them find the place from which on just so many are left.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from flowgate.bus import wire
from flowgate.bus.books import check_entry, check_page
from flowgate.bus.bridge import api_error
from flowgate.bus.grouping import Grouper, fetched_at, fetched_sequence, fetched_subject
from flowgate.bus.keeper import Presence
from flowgate.bus.link import Link, NoResponders, decode_json
from flowgate.bus.reading import PAGE_BYTES, History
from flowgate.bus.stream import StreamSettings
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, Conflict, ProtocolViolation
from flowgate.gate import Gate
from flowgate.interfaces import IJournal
from flowgate.message import JournalEntry

_PAGES_AT_ONCE: Final = 8
_PROBES: Final = 64
"""Counts for one page at most: halving needs no more for any stream, and every second one halves."""
_LATE_SECONDS: Final = 0.05
_LATE_LOOKS: Final = 40  # after so many the replica that answers is too far behind


@attrs.frozen(slots=True)
class BookSettings(StreamSettings):
    """What the stream of a book keeps: everything, for ever."""

    per_topic: int = 1
    max_age: int = 0

    @classmethod
    def of(cls, book: str, replicas: int) -> BookSettings:
        return cls(name=f"FG_BOOK_{book}", replicas=replicas)

    def config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "subjects": [f"fg.book.{self.name.removeprefix('FG_BOOK_')}.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "discard_new_per_subject": True,
            "max_msgs_per_subject": self.per_topic,
            "num_replicas": self.replicas,
            "allow_direct": True,
            "deny_delete": True,
            "deny_purge": True,
        }


class _Book:
    """One book's stream."""

    def __init__(self, reactor: Any, link: Link, name: str, replicas: int) -> None:
        self.settings = BookSettings.of(name, replicas)
        self.presence = Presence(link, self.settings)
        self.history = History(reactor, link, self.settings, Grouper(1))


@implementer(IJournal)
class JetStreamJournal:
    """:class:`IJournal` over one stream for each book, made when it is first needed.

    With replicas, an entry that the leader has stored may be missing for moments on the one that answers: the newest
    page waits for it.
    """

    def __init__(self, reactor: Any, link: Link, *, replicas: int = 1) -> None:
        """Describe the journal.

        :param reactor: IReactorTime.
        :param replicas: servers that hold each entry.
        """
        self._reactor = reactor
        self._link = link
        self._replicas = replicas
        self._books: dict[str, _Book] = {}
        self._pages = Gate(_PAGES_AT_ONCE)

    def _book(self, name: str) -> _Book:
        book = self._books.get(name)
        if book is None:
            book = self._books[name] = _Book(self._reactor, self._link, name, self._replicas)
        return book

    # -- writing

    def append(self, book: str, owner: str, entry_id: str, value: bytes) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._append(book, owner, entry_id, value))

    async def _append(self, book: str, owner: str, entry_id: str, value: bytes) -> bool:
        check_entry(book, owner, entry_id, value)
        subject = f"fg.book.{book}.{owner}.{entry_id}"
        presence = self._book(book).presence
        try:
            await presence.ensure()
            try:
                await self._store(subject, value)
            except NoResponders:
                presence.there = False
                await presence.ensure()
                await self._store(subject, value)
        except Conflict:
            return False
        return True

    async def _store(self, subject: str, value: bytes) -> None:
        # The stream's own limit refuses a second entry with the words of a failed disk: this asks for a clear answer.
        head = wire.headers([("Nats-Expected-Last-Subject-Sequence", "0")])
        answer = decode_json(await self._link.request(subject, value, head=head))
        if "error" in answer:
            raise api_error(answer["error"])
        if not isinstance(answer.get("seq"), int):
            raise ProtocolViolation("JetStream acknowledged an entry without its place")

    # -- reading

    def page(self, book: str, owner: str, before: int | None, limit: int) -> Deferred[list[JournalEntry]]:
        return Deferred.fromCoroutine(self._page(book, owner, before, limit))

    async def _page(self, name: str, owner: str, before: int | None, limit: int) -> list[JournalEntry]:
        check_page(name, owner, limit)
        book = self._book(name)
        await book.presence.ensure()
        subject = f"fg.book.{name}.{owner or '*'}.*"

        def read() -> Deferred[list[JournalEntry]]:
            return Deferred.fromCoroutine(self._read(book, owner, subject, before, limit))

        try:
            return await self._pages.run(read)
        except NoResponders:
            book.presence.there = False
            await book.presence.ensure()
            return await self._pages.run(read)

    async def _read(self, book: _Book, owner: str, subject: str, before: int | None, limit: int) -> list[JournalEntry]:
        # The leader knows of everything that was acknowledged.
        newest = await self._newest(book, subject)
        end = newest + 1 if before is None else min(before, newest + 1)
        if end <= 1:
            return []
        late = 0
        while True:
            found = await self._last_before(book.history, owner, subject, end, limit)
            if end <= newest or (found and found[0].sequence == newest):
                return found
            late += 1
            if late > _LATE_LOOKS:
                raise BusUnavailable("a replica of a book is far behind")
            await deferLater(self._reactor, _LATE_SECONDS)

    async def _newest(self, book: _Book, subject: str) -> int:
        """The sequence of the last entry on ``subject``; 0 if there is none."""
        body = json.dumps({"last_by_subj": subject}).encode()
        answer = decode_json(await self._link.request(f"$JS.API.STREAM.MSG.GET.{book.settings.name}", body))
        if "message" in answer:
            return int(answer["message"]["seq"])
        error = answer.get("error") or {}
        if error.get("code") != 404:
            raise api_error(error)
        return 0

    async def _last_before(
        self, history: History, owner: str, subject: str, end: int, limit: int
    ) -> list[JournalEntry]:
        """The last entries before ``end``, the newest first."""
        # Nothing is ever removed: on all entries together, places are counts.
        start = max(1, end - limit) if not owner else await self._start(history, subject, end, limit)
        while True:
            entries = await self._between(history, subject, start, end, limit)
            if len(entries) >= limit or start == 1:
                return entries[: -limit - 1 : -1]
            start = max(1, end - 2 * (end - start))  # a replica has counted more than it gave

    @staticmethod
    async def _between(history: History, subject: str, start: int, end: int, limit: int) -> list[JournalEntry]:
        entries: list[JournalEntry] = []
        after = start - 1
        while after < end - 1:
            messages, more = await history.messages(subject, after, limit, PAGE_BYTES)
            for message in messages:
                after = fetched_sequence(message)
                if after < end:
                    entries.append(_entry(message))
            if not messages or not more:
                break
        return entries

    async def _start(self, history: History, subject: str, end: int, limit: int) -> int:
        """A place behind which there are ``limit`` entries before ``end``, or all, and hardly more than twice as many.

        Entries that come while it counts do no harm: those behind ``end`` are counted last, so at worst too few seem
        to lie before it.
        """
        low, high = 1, end
        held = await self._count(history, subject, low)
        for probe in range(_PROBES):
            if held <= 2 * limit or high - low <= limit:
                break
            guess = high - (high - low) * limit * 3 // (held * 2) if probe % 2 == 0 else (low + high) // 2
            guess = min(max(guess, low + 1), high - 1)
            count = await self._count(history, subject, guess) - await self._count(history, subject, end)
            if count >= limit:
                low, held = guess, count
            else:
                high = guess
        return low

    @staticmethod
    async def _count(history: History, subject: str, start: int) -> int:
        """How many entries on ``subject`` have ``start`` or a higher sequence."""
        messages, more = await history.messages(subject, start - 1, 1, 1)
        return len(messages) + more


def _entry(message: Message) -> JournalEntry:
    """:raises ProtocolViolation: if the message is not one of a book."""
    try:
        *_, owner, entry_id = fetched_subject(message).decode("ascii").split(".")
    except ValueError:
        raise ProtocolViolation("an entry of a book has a subject that is not ours") from None
    sequence, time = fetched_at(message)
    return JournalEntry(sequence, time / 1e9, owner, entry_id, message[4])
