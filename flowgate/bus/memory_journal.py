"""The journal's verified fake."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from flowgate.bus.books import check_entry, check_page
from flowgate.errors import BusUnavailable
from flowgate.interfaces import IJournal
from flowgate.message import JournalEntry


@implementer(IJournal)
class MemoryJournal:
    """Books in lists; everything happens at once.

    :param now: seconds since 1970 UTC.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._books: dict[str, list[JournalEntry]] = {}
        self._written: set[tuple[str, str, str]] = set()
        self._away = False

    def go_away(self) -> None:
        """Be as a bus that is away."""
        self._away = True

    def come_back(self) -> None:
        """Be within reach again, with what was written."""
        self._away = False

    def append(self, book: str, owner: str, entry_id: str, value: bytes) -> Deferred[bool]:
        return maybeDeferred(self._append, book, owner, entry_id, value)

    def _append(self, book: str, owner: str, entry_id: str, value: bytes) -> bool:
        check_entry(book, owner, entry_id, value)
        if self._away:
            raise BusUnavailable()
        if (book, owner, entry_id) in self._written:
            return False
        self._written.add((book, owner, entry_id))
        entries = self._books.setdefault(book, [])
        entries.append(JournalEntry(len(entries) + 1, self._now(), owner, entry_id, value))
        return True

    def page(self, book: str, owner: str, before: int | None, limit: int) -> Deferred[list[JournalEntry]]:
        return maybeDeferred(self._page, book, owner, before, limit)

    def _page(self, book: str, owner: str, before: int | None, limit: int) -> list[JournalEntry]:
        check_page(book, owner, limit)
        if self._away:
            raise BusUnavailable()
        found = [
            entry
            for entry in reversed(self._books.get(book, []))
            if (not owner or entry.owner == owner) and (before is None or entry.sequence < before)
        ]
        return found[:limit]
