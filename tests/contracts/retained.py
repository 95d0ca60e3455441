"""What every store of retained messages promises."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import DeferredList
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from flowgate.errors import BusUnavailable, MessageTooLarge
from flowgate.interfaces import IRetained
from flowgate.message import Cursor, RetainedPage
from flowgate.topics import Namespace, Topic

if TYPE_CHECKING:
    _Mixin = TestCase
else:
    _Mixin = object  # or the mixin would be collected as a test case wherever it is imported

SHOP = Namespace("alice", "shop")
OTHER = Namespace("alice", "other")
_T = TypeVar("_T")


def place(sequence: int, epoch: str = "e") -> Cursor:
    return Cursor(epoch, sequence)


class RetainedContract(_Mixin):
    """Mix into a test case whose ``setUp`` makes ``retained``."""

    retained: IRetained

    # -- to be provided

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        """Have ``deferred`` fire, if only time is missing."""
        raise NotImplementedError

    async def wait(self) -> None:
        """Let a tenth of a second pass."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Let nothing be answered until :meth:`go_away`."""
        raise NotImplementedError

    async def go_away(self) -> None:
        """Make the store unavailable, at once."""
        raise NotImplementedError

    async def come_back(self) -> None:
        """Make the store available again, with what it had."""
        raise NotImplementedError

    # -- helpers

    async def fails(self, deferred: Awaitable[object], kind: type[Exception]) -> None:
        try:
            await self.done(deferred)
        except kind:
            return
        self.fail(f"no {kind.__name__}")

    async def put(
        self, name: str, payload: bytes, qos: int = 1, *, ttl: int | None = None, at: Cursor | None = None
    ) -> None:
        await self.done(self.retained.put(Topic(SHOP, name), payload, qos, ttl, at))

    async def pages(self, filter_: str, namespace: Namespace = SHOP, limit: int = 1000) -> list[RetainedPage]:
        found: list[RetainedPage] = []
        after: int | None = 0
        while after is not None:
            found.append(await self.done(self.retained.page(namespace, filter_, after, limit)))
            after = found[-1].after
        return found

    async def kept(self, filter_: str, namespace: Namespace = SHOP) -> dict[str, bytes]:
        """The names and payloads of what matches."""
        runs = [run for page in await self.pages(filter_, namespace) for run in page.runs]
        found = {run.topic.name: run.payloads[0] for run in runs}
        self.assertEqual(len(found), len(runs))
        return found

    # -- keeping

    def test_interface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IRetained, self.retained))

    async def test_kept(self) -> None:
        """What was put is read as a run of one retained message, with its quality of service, its time and a place."""
        for qos in (0, 1, 2):
            await self.put("a", b"%d" % qos, qos)
            [page] = await self.pages("a")
            [run] = page.runs
            self.assertEqual(
                (run.topic, run.payloads, run.qos, run.retain), (Topic(SHOP, "a"), [b"%d" % qos], qos, True)
            )
            self.assertEqual((len(run.sequences), len(run.times), page.after), (1, 1, None))

    async def test_any_bytes(self) -> None:
        """A payload is bytes of any kind, up to what a gateway takes."""
        for payload in (b"\0\r\n\xff", b" ", bytes(255) * 1024):
            await self.put("a", payload)
            self.assertEqual(await self.kept("a"), {"a": payload})

    async def test_odd_names(self) -> None:
        """A topic has any name that MQTT allows."""
        names = ["a/b", "/", "a b", "a.b", "*", ">", "%", "€/ü", "x" * 512]
        for name in names:
            await self.put(name, name.encode())
        self.assertEqual(await self.kept("#"), {name: name.encode() for name in names})

    async def test_too_large(self) -> None:
        """What the bus does not take is refused, and what was kept before stays."""
        await self.put("a", b"1")
        await self.fails(self.retained.put(Topic(SHOP, "a"), bytes(1024 * 1024 + 1), 0), MessageTooLarge)
        self.assertEqual(await self.kept("a"), {"a": b"1"})

    async def test_replaced(self) -> None:
        """A topic has one retained message, the last one."""
        await self.put("a", b"1")
        await self.put("b", b"1")
        await self.put("a", b"2")
        self.assertEqual(await self.kept("#"), {"a": b"2", "b": b"1"})

    async def test_removed(self) -> None:
        """An empty payload removes what is kept, and is not kept itself ([MQTT-3.3.1-10], [MQTT-3.3.1-11])."""
        await self.put("a", b"1")
        await self.put("b", b"1")
        await self.put("a", b"")
        await self.put("c", b"")
        self.assertEqual(await self.kept("#"), {"b": b"1"})
        self.assertEqual(await self.kept("a"), {})
        await self.put("a", b"2")
        self.assertEqual(await self.kept("a"), {"a": b"2"})

    async def test_order_of_calls(self) -> None:
        """Calls that do not wait for each other take effect in their order, and all are answered."""
        calls = []
        for number in range(100):
            for name in ("a", "b", "c"):
                payload = b"" if number % 10 == 7 else b"%d" % number
                calls.append(self.retained.put(Topic(SHOP, name), payload, number % 3))
        outcomes = await self.done(DeferredList(calls))
        self.assertTrue(all(succeeded for succeeded, _ in outcomes))
        self.assertEqual(await self.kept("#"), {"a": b"99", "b": b"99", "c": b"99"})

    async def test_time_to_live(self) -> None:
        """A message is gone by itself when its time is over; the next one of its topic has its own time."""
        await self.put("a", b"1", ttl=1)
        await self.put("b", b"1", ttl=1)
        await self.put("b", b"2")
        self.assertEqual(await self.kept("#"), {"a": b"1", "b": b"2"})
        while "a" in await self.kept("#"):
            await self.wait()
        self.assertEqual(await self.kept("#"), {"b": b"2"})
        self.assertEqual(await self.kept("a"), {})
        await self.put("a", b"3")
        self.assertEqual(await self.kept("a"), {"a": b"3"})

    # -- places in history

    async def test_places(self) -> None:
        """A page tells the place that each message has in history, as far as it is known."""
        await self.put("a", b"1", at=place(5))
        await self.put("b", b"1")
        [page] = await self.pages("#")
        self.assertEqual(list(page.places), [place(5), None])

    async def test_later_place(self) -> None:
        """A message replaces one that is earlier in history, not one that is the same or later."""
        await self.put("a", b"5", at=place(5))
        await self.put("a", b"7", at=place(7))
        await self.put("a", b"6", at=place(6))
        await self.put("a", b"8", at=place(7))
        self.assertEqual(await self.kept("a"), {"a": b"7"})

    async def test_order_of_places(self) -> None:
        """So it is for calls that do not wait for each other."""
        calls = [self.retained.put(Topic(SHOP, "a"), b"%d" % at, 1, None, place(at)) for at in (3, 9, 4, 8, 5)]
        outcomes = await self.done(DeferredList(calls))
        self.assertTrue(all(succeeded for succeeded, _ in outcomes))
        self.assertEqual(await self.kept("a"), {"a": b"9"})

    async def test_without_a_place(self) -> None:
        """A message without a place replaces any, and is no earlier than that."""
        await self.put("a", b"7", at=place(7))
        await self.put("a", b"live")
        await self.put("a", b"6", at=place(6))
        self.assertEqual(await self.kept("a"), {"a": b"live"})
        await self.put("a", b"8", at=place(8))
        self.assertEqual(await self.kept("a"), {"a": b"8"})

    async def test_without_a_place_and_at_once(self) -> None:
        """So it is for calls that do not wait for each other."""
        calls = [
            self.retained.put(Topic(SHOP, "a"), b"7", 1, None, place(7)),
            self.retained.put(Topic(SHOP, "a"), b"live", 0),
            self.retained.put(Topic(SHOP, "a"), b"live again", 0),
            self.retained.put(Topic(SHOP, "a"), b"6", 1, None, place(6)),
        ]
        await self.done(DeferredList(calls))
        [page] = await self.pages("a")
        self.assertEqual(([run.payloads[0] for run in page.runs], list(page.places)), ([b"live again"], [place(7)]))

    async def test_removal_is_remembered(self) -> None:
        """A repetition of what is earlier in history than the removal does not bring it back."""
        await self.put("a", b"5", at=place(5))
        await self.put("a", b"", at=place(6))
        await self.put("a", b"5", at=place(5))
        self.assertEqual(await self.kept("a"), {})

    async def test_other_epoch(self) -> None:
        """When the history was made anew its places are all later than the old ones."""
        await self.put("a", b"old", at=place(500))
        await self.put("a", b"new", at=place(1, "f"))
        await self.put("a", b"older", at=place(1, "f"))
        self.assertEqual(await self.kept("a"), {"a": b"new"})

    # -- reading

    async def test_filters(self) -> None:
        """A filter finds what it matches, and nothing else (section 4.7)."""
        for name in ("a", "a/b", "a/b/c", "b", "b/b", "/b", "$x/b", "$x"):
            await self.put(name, b"1")
        for filter_, names in {
            "a": {"a"},
            "a/#": {"a", "a/b", "a/b/c"},
            "+": {"a", "b"},
            "+/b": {"a/b", "b/b", "/b"},
            "a/+/c": {"a/b/c"},
            "#": {"a", "a/b", "a/b/c", "b", "b/b", "/b"},
            "$x/#": {"$x/b", "$x"},
            "$x/+": {"$x/b"},
            "c": set(),
            "c/#": set(),
        }.items():
            self.assertEqual(set(await self.kept(filter_)), names, filter_)

    async def test_namespaces(self) -> None:
        """Nothing is seen of another namespace."""
        await self.put("a", b"1")
        await self.done(self.retained.put(Topic(OTHER, "a"), b"2", 1))
        for filter_ in ("a", "#", "+"):
            self.assertEqual(await self.kept(filter_), {"a": b"1"})
            self.assertEqual(await self.kept(filter_, OTHER), {"a": b"2"})
            self.assertEqual(await self.kept(filter_, Namespace("bob", "shop")), {})

    async def test_pages(self) -> None:
        """Many messages come in pages, each message once, in the order in which they were kept."""
        names = [f"a/{number}" for number in range(2500)]
        await self.done(DeferredList([self.retained.put(Topic(SHOP, name), b"x", 1) for name in names]))
        await self.put("a/7", b"y")
        pages = await self.pages("a/#")
        self.assertEqual([len(page.runs) for page in pages], [1000, 1000, 500])
        found = [run.topic.name for page in pages for run in page.runs]
        self.assertEqual(sorted(found), sorted(names))
        self.assertEqual(found[-1], "a/7")
        sequences = [run.sequences[0] for page in pages for run in page.runs]
        self.assertEqual(sequences, sorted(sequences))

    async def test_some_pages(self) -> None:
        """So do a few, if they are asked for in small pages; a page may begin behind any message."""
        for number in range(5):
            await self.put(f"a/{number}", b"x")
        await self.put("b", b"x")
        pages = await self.pages("a/+", limit=2)
        self.assertEqual([len(page.runs) for page in pages], [2, 2, 1])
        behind = await self.done(self.retained.page(SHOP, "a/+", pages[0].runs[0].sequences[0]))
        self.assertEqual([run.topic.name for run in behind.runs], ["a/1", "a/2", "a/3", "a/4"])

    async def test_large_pages(self) -> None:
        """A page ends at 256 KiB, though not before its first message."""
        for number in range(4):
            await self.put(f"a/{number}", bytes(100_000) + b"x")
        await self.put("a/4", bytes(300_000) + b"x")
        await self.put("a/5", b"x")
        pages = await self.pages("a/#")
        self.assertEqual([len(page.runs) for page in pages], [3, 2, 1])

    async def test_put_while_reading(self) -> None:
        """What is put while pages are read is on a later one."""
        for number in range(4):
            await self.put(f"a/{number}", b"1")
        first = await self.done(self.retained.page(SHOP, "a/#", 0, 2))
        await self.put("a/3", b"2")
        await self.put("a/0", b"2")
        await self.put("a/2", b"")
        second = await self.done(self.retained.page(SHOP, "a/#", first.after or 0))
        self.assertEqual([run.topic.name for run in first.runs], ["a/0", "a/1"])
        self.assertEqual([(run.topic.name, run.payloads[0]) for run in second.runs], [("a/3", b"2"), ("a/0", b"2")])

    async def test_removals_in_pages(self) -> None:
        """However much was removed, a page has a message as long as there is one."""
        for number in range(5):
            await self.put(f"a/{number}", b"1")
        for number in range(4):
            await self.put(f"b/{number}", b"")
        await self.put("b/4", b"1")
        for number in range(5):
            await self.put(f"a/{number}", b"")
        await self.put("c", b"1")
        pages = await self.pages("#", limit=1)
        self.assertEqual([[run.topic.name for run in page.runs] for page in pages][:2], [["b/4"], ["c"]])

    async def test_fetch(self) -> None:
        """Single messages are read by their places as long as they are kept."""
        for name in ("a", "b", "c", "d"):
            await self.put(name, name.encode(), 2)
        [page] = await self.pages("#")
        a, b, c, d = [run.sequences[0] for run in page.runs]
        await self.put("b", b"new")
        await self.put("c", b"")
        [new] = (await self.pages("b"))[0].runs
        found = await self.done(self.retained.fetch([a, b, c, d, new.sequences[0], 999_999]))
        self.assertEqual(
            {sequence: (run.topic.name, run.payloads[0], run.qos, run.retain) for sequence, run in found.items()},
            {a: ("a", b"a", 2, True), d: ("d", b"d", 2, True), new.sequences[0]: ("b", b"new", 1, True)},
        )
        self.assertEqual(list(found[d].sequences), [d])
        self.assertEqual(await self.done(self.retained.fetch([])), {})

    # -- while the bus is away

    async def test_away(self) -> None:
        """While the store is away everything fails with BusUnavailable; what was kept is there afterwards."""
        await self.put("a", b"1")
        await self.go_away()
        for deferred in (
            self.retained.put(Topic(SHOP, "a"), b"2", 1),
            self.retained.page(SHOP, "#"),
            self.retained.fetch([1]),
        ):
            await self.fails(deferred, BusUnavailable)
        await self.come_back()
        self.assertEqual(await self.kept("#"), {"a": b"1"})
        await self.put("a", b"3")
        self.assertEqual(await self.kept("#"), {"a": b"3"})

    async def test_under_way(self) -> None:
        """What is under way when the store goes away fails."""
        await self.put("a", b"1")
        self.freeze()
        names = ["a", "b", "a", "a"]
        calls: list[Awaitable[object]] = [self.retained.put(Topic(SHOP, name), b"2", 1) for name in names]
        calls.append(self.retained.page(SHOP, "#"))
        await self.go_away()
        for call in calls:
            await self.fails(call, BusUnavailable)
        await self.come_back()
        await self.put("c", b"3")
        self.assertEqual((await self.kept("c")), {"c": b"3"})
