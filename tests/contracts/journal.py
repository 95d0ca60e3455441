"""What every journal promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from flowgate.errors import BusUnavailable, InvalidParameter, MessageTooLarge
from flowgate.interfaces import IJournal

if TYPE_CHECKING:
    _Mixin = TestCase
else:
    _Mixin = object  # or the mixin would be collected as a test case wherever it is imported


class JournalContract(_Mixin):
    """Mix into a test case whose ``setUp`` makes ``journal``, with no books yet."""

    journal: IJournal

    async def go_away(self) -> None:
        """Make the journal unavailable, at once."""
        raise NotImplementedError

    async def come_back(self) -> None:
        """Make it available again, with what it had."""
        raise NotImplementedError

    async def fill(self, owner: str, numbers: range) -> None:
        for number in numbers:
            self.assertTrue(await self.journal.append("audit", owner, f"e{number}", b"%d" % number))

    async def ids(self, owner: str = "", before: int | None = None, limit: int = 1000) -> list[str]:
        return [entry.entry_id for entry in await self.journal.page("audit", owner, before, limit)]

    async def test_interface(self) -> None:
        """It has the methods of the interface."""
        self.assertTrue(verifyObject(IJournal, self.journal))

    async def test_entry(self) -> None:
        """An entry is read as it was written, with the time of its writing."""
        value = bytes(range(256))
        self.assertTrue(await self.journal.append("audit", "alice", "a:B_c-9", value))
        (entry,) = await self.journal.page("audit", "alice", None, 10)
        self.assertEqual((entry.owner, entry.entry_id, entry.value), ("alice", "a:B_c-9", value))
        self.assertTrue(await self.journal.append("audit", "alice", "later", b""))
        newest, oldest = await self.journal.page("audit", "alice", None, 10)
        self.assertEqual((newest.entry_id, newest.value, oldest), ("later", b"", entry))
        self.assertGreater(newest.sequence, oldest.sequence)
        self.assertGreaterEqual(newest.at, oldest.at)
        self.assertGreater(oldest.at, 1e9)

    async def test_once(self) -> None:
        """A second entry of the same id is not written, whatever its value, and the first one stays."""
        self.assertTrue(await self.journal.append("audit", "alice", "1", b"first"))
        for value in (b"first", b"second"):
            self.assertFalse(await self.journal.append("audit", "alice", "1", value))
        self.assertEqual([entry.value for entry in await self.journal.page("audit", "", None, 10)], [b"first"])

    async def test_once_at_the_same_time(self) -> None:
        """Of many who write the same entry at once, one does."""
        written = await gatherResults([self.journal.append("audit", "alice", "1", b"%d" % n) for n in range(20)])
        self.assertEqual(sorted(written), [False] * 19 + [True])
        self.assertEqual(await self.ids(), ["1"])

    async def test_books_and_owners_are_apart(self) -> None:
        """The same id in another book, or of another owner, is another entry."""
        for book, owner in (("audit", "alice"), ("audit", "bob"), ("ledger", "alice")):
            self.assertTrue(await self.journal.append(book, owner, "1", f"{book} {owner}".encode()))
        for book, owner, values in (
            ("audit", "alice", [b"audit alice"]),
            ("audit", "", [b"audit bob", b"audit alice"]),
            ("ledger", "", [b"ledger alice"]),
            ("ledger", "bob", []),
        ):
            found = await self.journal.page(book, owner, None, 10)
            self.assertEqual([entry.value for entry in found], values, (book, owner))

    async def test_empty(self) -> None:
        """A book on which nothing was written has no entries."""
        self.assertEqual(await self.journal.page("audit", "", None, 10), [])
        self.assertEqual(await self.journal.page("audit", "alice", 5, 10), [])

    async def test_pages(self) -> None:
        """Pages go back through a book, whole and without repetition, and the last one is shorter."""
        await self.fill("alice", range(25))
        for limit in (1, 7, 24, 25, 26):
            seen: list[str] = []
            before = None
            while True:
                page = await self.journal.page("audit", "", before, limit)
                seen += [entry.entry_id for entry in page]
                if len(page) < limit:
                    break
                before = page[-1].sequence
            self.assertEqual(seen, [f"e{number}" for number in reversed(range(25))], limit)

    async def test_pages_of_one_owner(self) -> None:
        """An owner's entries are found wherever they lie among those of others: at the ends, thinly, and densely."""
        await self.fill("alice", range(5))
        await self.fill("bob", range(30))
        await self.fill("alice", range(5, 40))
        for number in range(8):
            await self.fill("bob", range(100 + 10 * number, 106 + 10 * number))
            await self.fill("alice", range(40 + number, 41 + number))
        await self.fill("bob", range(200, 210))
        for limit in (1, 3, 10, 47, 48, 49, 1000):
            seen: list[str] = []
            before = None
            while True:
                page = await self.journal.page("audit", "alice", before, limit)
                seen += [entry.entry_id for entry in page]
                if len(page) < limit:
                    break
                before = page[-1].sequence
            self.assertEqual(seen, [f"e{number}" for number in reversed(range(48))], limit)
        self.assertEqual(await self.ids("carol"), [])

    async def test_before(self) -> None:
        """``before`` leaves out the entry with that sequence and all later ones, also where it is no entry's place."""
        await self.fill("alice", range(3))
        first, *_ = reversed(await self.journal.page("audit", "alice", None, 3))
        self.assertEqual(await self.ids(before=first.sequence), [])
        self.assertEqual(await self.ids("alice", first.sequence + 1), ["e0"])
        for large in (first.sequence + 1000, 2**62):
            self.assertEqual(await self.ids("alice", large, 2), ["e2", "e1"])
            self.assertEqual(await self.ids(before=large, limit=2), ["e2", "e1"])
        for small in (1, 0, -1):
            self.assertEqual(await self.ids("alice", small), [])

    async def test_names(self) -> None:
        """Names that could reach other entries are refused, for writing and for reading."""
        for book in ("", "A", "a.b", "*", ">", "a b", "x" * 33, "ä"):
            await self.assertFailure(self.journal.append(book, "alice", "1", b""), InvalidParameter)
            await self.assertFailure(self.journal.page(book, "", None, 1), InvalidParameter)
        for name in ("*", ">", "a.b", "a b", "a\n", "x" * 129, "ä"):
            await self.assertFailure(self.journal.append("audit", name, "1", b""), InvalidParameter)
            await self.assertFailure(self.journal.append("audit", "alice", name, b""), InvalidParameter)
            await self.assertFailure(self.journal.page("audit", name, None, 1), InvalidParameter)
        await self.assertFailure(self.journal.append("audit", "", "1", b""), InvalidParameter)
        await self.assertFailure(self.journal.append("audit", "alice", "", b""), InvalidParameter)
        for limit in (0, -1, 1001):
            await self.assertFailure(self.journal.page("audit", "", None, limit), InvalidParameter)
        self.assertEqual(await self.ids(), [])

    async def test_sizes(self) -> None:
        """The largest entries are whole, also many of them on one page; a larger one is refused."""
        largest = bytes(range(256)) * 32
        await self.assertFailure(self.journal.append("audit", "alice", "x", largest + b"!"), MessageTooLarge)
        for number in range(40):
            await self.journal.append("audit", "alice", f"e{number}", largest)
        for owner in ("alice", ""):
            page = await self.journal.page("audit", owner, None, 100)
            self.assertEqual([entry.value == largest for entry in page], [True] * 40)

    async def test_away(self) -> None:
        """While the bus is away nothing is written or read; afterwards everything is there, and the id decides."""
        await self.fill("alice", range(2))
        await self.go_away()
        await self.assertFailure(self.journal.append("audit", "alice", "e9", b""), BusUnavailable)
        await self.assertFailure(self.journal.page("audit", "", None, 1), BusUnavailable)
        await self.come_back()
        self.assertFalse(await self.journal.append("audit", "alice", "e1", b""))
        self.assertTrue(await self.journal.append("audit", "alice", "e9", b""))
        self.assertEqual(await self.ids(), ["e9", "e1", "e0"])
