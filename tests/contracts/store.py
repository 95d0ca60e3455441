"""What every store does."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from flowgate.errors import Conflict, InvalidParameter
from flowgate.interfaces import IStore
from flowgate.message import Entry


class Seen:
    """Keeps what a watch tells, and can be waited for."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, bytes | None]] = []
        self._wanted: tuple[int, Deferred[None]] | None = None

    def __call__(self, key: str, value: bytes | None) -> None:
        self.changes.append((key, value))
        if self._wanted is not None and len(self.changes) >= self._wanted[0]:
            (_, wanted), self._wanted = self._wanted, None
            wanted.callback(None)

    def count(self, number: int) -> Deferred[None]:
        """:returns: a Deferred that fires once ``number`` changes were told."""
        wanted: Deferred[None] = Deferred()
        if len(self.changes) >= number:
            wanted.callback(None)
        else:
            self._wanted = number, wanted
        return wanted


class StoreContract:
    """Mixed into a test case whose ``setUp`` makes ``self.store``, an empty one."""

    store: IStore
    assertEqual: Any
    assertIsNone: Any
    assertTrue: Any
    assertGreater: Any
    assertFailure: Any
    addCleanup: Any

    async def _watch(self, seen: Seen) -> Any:
        stop = await self.store.watch("B", seen)
        self.addCleanup(stop)
        return stop

    def test_interface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IStore, self.store))

    async def test_nothing_there(self) -> None:
        """A key that was never written has no entry."""
        self.assertIsNone(await self.store.get("B", "k"))

    async def test_put_and_get(self) -> None:
        """What was put is got back, byte for byte, with the revision that ``put`` returned."""
        revision = await self.store.put("B", "a.b-c_D", b"\0\xff\r\n")
        self.assertEqual(await self.store.get("B", "a.b-c_D"), Entry(b"\0\xff\r\n", revision))

    async def test_empty_value(self) -> None:
        """An empty value is a value."""
        revision = await self.store.put("B", "k", b"")
        self.assertEqual(await self.store.get("B", "k"), Entry(b"", revision))

    async def test_revision_grows(self) -> None:
        """Every write has a higher revision."""
        first = await self.store.put("B", "k", b"1")
        self.assertGreater(await self.store.put("B", "k", b"2"), first)

    async def test_buckets_are_apart(self) -> None:
        """The same key in another bucket is another entry."""
        await self.store.put("B", "k", b"1")
        self.assertIsNone(await self.store.get("C", "k"))

    async def test_put_at_revision(self) -> None:
        """A write that names the entry's revision succeeds."""
        first = await self.store.put("B", "k", b"1")
        await self.store.put("B", "k", b"2", first)
        entry = await self.store.get("B", "k")
        self.assertEqual(entry and entry.value, b"2")

    async def test_put_at_old_revision(self) -> None:
        """A write that names an older revision is refused and changes nothing."""
        first = await self.store.put("B", "k", b"1")
        second = await self.store.put("B", "k", b"2")
        await self.assertFailure(self.store.put("B", "k", b"3", first), Conflict)
        self.assertEqual(await self.store.get("B", "k"), Entry(b"2", second))

    async def test_put_if_absent(self) -> None:
        """Revision 0 writes only where nothing is."""
        await self.store.put("B", "k", b"1", 0)
        await self.assertFailure(self.store.put("B", "k", b"2", 0), Conflict)

    async def test_put_if_absent_after_delete(self) -> None:
        """Revision 0 writes where something was removed."""
        await self.store.put("B", "k", b"1")
        await self.store.delete("B", "k")
        await self.store.put("B", "k", b"2", 0)
        entry = await self.store.get("B", "k")
        self.assertEqual(entry and entry.value, b"2")

    async def test_delete(self) -> None:
        """A removed entry is gone, its revision too."""
        revision = await self.store.put("B", "k", b"1")
        await self.store.delete("B", "k")
        self.assertIsNone(await self.store.get("B", "k"))
        await self.assertFailure(self.store.put("B", "k", b"2", revision), Conflict)

    async def test_delete_nothing(self) -> None:
        """Removing what is not there is no error."""
        await self.store.delete("B", "k")

    async def test_delete_at_revision(self) -> None:
        """A removal that names the entry's revision succeeds; nothing is left, and it may be written again."""
        await self.store.put("B", "k", b"1")
        revision = await self.store.put("B", "k", b"2")
        await self.store.delete("B", "k", revision)
        self.assertIsNone(await self.store.get("B", "k"))
        await self.store.put("B", "k", b"3", 0)

    async def test_delete_at_old_revision(self) -> None:
        """A removal that names an older revision is refused and removes nothing."""
        first = await self.store.put("B", "k", b"1")
        second = await self.store.put("B", "k", b"2")
        await self.assertFailure(self.store.delete("B", "k", first), Conflict)
        self.assertEqual(await self.store.get("B", "k"), Entry(b"2", second))

    async def test_delete_at_revision_of_nothing(self) -> None:
        """Removing at a revision what is not there, or not any more, is no error."""
        await self.store.delete("B", "k", 7)
        revision = await self.store.put("B", "k", b"1")
        await self.store.delete("B", "k", revision)
        await self.store.delete("B", "k", revision)

    async def test_bad_keys(self) -> None:
        """A key outside the alphabet, with a dot at an end, empty, or too long is refused."""
        for key in ("", ".a", "a.", "a..b", "a b", "a*", ">", "a/b", "ä", "k" * 201, "a\n"):
            await self.assertFailure(self.store.put("B", key, b""), InvalidParameter)

    async def test_longest_key(self) -> None:
        """200 characters are a key."""
        await self.store.put("B", "k" * 200, b"1")
        entry = await self.store.get("B", "k" * 200)
        self.assertEqual(entry and entry.value, b"1")

    async def test_watch_tells_entries_of_now(self) -> None:
        """When the watch has begun, every present entry was told, and no removed one."""
        await self.store.put("B", "a", b"1")
        await self.store.put("B", "b.c", b"2")
        await self.store.put("B", "gone", b"3")
        await self.store.delete("B", "gone")
        seen = Seen()
        await self._watch(seen)
        self.assertEqual(sorted(seen.changes), [("a", b"1"), ("b.c", b"2")])

    async def test_watch_tells_changes(self) -> None:
        """Writes and removals are told in order."""
        seen = Seen()
        await self._watch(seen)
        await self.store.put("B", "a", b"1")
        await self.store.put("B", "a", b"")
        await self.store.delete("B", "a")
        await seen.count(3)
        self.assertEqual(seen.changes, [("a", b"1"), ("a", b""), ("a", None)])

    async def test_watch_many(self) -> None:
        """A bucket larger than any buffer on the way is told whole."""
        for number in range(600):
            await self.store.put("B", f"k{number}", b"")
        seen = Seen()
        await self._watch(seen)
        self.assertEqual(len(seen.changes), 600)

    async def test_watch_ends(self) -> None:
        """After its end a watch tells nothing, and ending it again does nothing; others go on."""
        seen, other = Seen(), Seen()
        stop = await self._watch(seen)
        await self._watch(other)
        stop()
        stop()
        await self.store.put("B", "a", b"1")
        await other.count(1)
        self.assertEqual(seen.changes, [])

    async def test_two_watches(self) -> None:
        """Two watches of one bucket are told the same."""
        one, two = Seen(), Seen()
        await self._watch(one)
        await self._watch(two)
        await self.store.put("B", "a", b"1")
        await one.count(1)
        await two.count(1)
        self.assertEqual(one.changes, two.changes)
