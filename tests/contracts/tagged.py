"""What everything promises that finds tagged messages."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from flowgate.errors import BusUnavailable
from flowgate.interfaces import IBus, ITagged
from flowgate.message import Run
from flowgate.topics import Namespace, Topic

if TYPE_CHECKING:
    _Mixin = TestCase
else:
    _Mixin = object  # or the mixin would be collected as a test case wherever it is imported

_T = TypeVar("_T")

SHOP, BANK, BOBS = Namespace("alice", "shop"), Namespace("alice", "bank"), Namespace("bob", "shop")


class TaggedContract(_Mixin):
    """Mix into a test case whose ``setUp`` makes ``bus`` and ``tagged``, with nothing published yet."""

    bus: IBus
    tagged: ITagged

    def done(self, deferred: Deferred[_T]) -> Awaitable[_T]:
        """Have what is under way happen, then give it."""
        raise NotImplementedError

    async def go_away(self) -> None:
        """Make the bus unavailable, at once."""
        raise NotImplementedError

    async def read(self, user: str = "alice", app: str = "", after: int = 0) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        await self.done(self.tagged.read(user, app, after, lambda tag, size: found.append((tag, size))))
        return sorted(found)

    async def test_interface(self) -> None:
        """It has the methods of the interface."""
        self.assertTrue(verifyObject(ITagged, self.tagged))

    async def test_ways(self) -> None:
        """On whichever way a message comes into the stream, its tag and its size are found there."""
        topic = Topic(SHOP, "a/b c")
        await self.done(self.bus.publish_one(topic, b"1", tag="n.1"))
        await self.done(self.bus.publish_one(topic, b"22", tag="n.2", message_id="k", ttl=100, retain=True, qos=2))
        await self.done(self.bus.publish(Run(topic, [b"333", b"4444"], qos=1, tag="n.3")))
        await self.done(self.bus.publish_many([Run(topic, [b"55555"], qos=1, tag="n.4", message_ids=["l"])]))
        await self.done(self.bus.publish_one(topic, b"without"))
        self.bus.send(Run(topic, [b"666666"], tag="n.5"), True)
        await self.done(self.bus.publish_one(topic, b"behind all", message_id="m"))
        found = [("n.1", 1), ("n.2", 2), ("n.3", 3), ("n.3", 4), ("n.4", 5), ("n.5", 6)]
        self.assertEqual(await self.read(), found)

    async def test_last(self) -> None:
        """A run may carry a tag on its last message alone, however it is split up on its way."""
        for count in (1, 2, 2500):
            for unacknowledged in (False, True):
                run = Run(Topic(SHOP, "a"), [b"x"] * count, qos=0 if unacknowledged else 1)
                run.last_tag = f"n.{count}={count}"
                if unacknowledged:
                    self.bus.send(run, True)
                else:
                    await self.done(self.bus.publish(run))
        await self.done(self.bus.publish_one(Topic(SHOP, "a"), b"behind all"))
        self.assertEqual(await self.read(), sorted([(f"n.{count}={count}", 1) for count in (1, 2, 2500)] * 2))

    async def test_repetition(self) -> None:
        """A message that is repeated is there once, with its first tag."""
        topic = Topic(SHOP, "a")
        for tag in ("n.1", "n.2"):
            await self.done(self.bus.publish_one(topic, b"1", tag=tag, message_id="k"))
        self.assertEqual(await self.read(), [("n.1", 1)])

    async def test_places(self) -> None:
        """Behind a mark only what was published after it is found; of a user, or of one application."""
        for namespace in (SHOP, BANK, BOBS):
            await self.done(self.bus.publish_one(Topic(namespace, "a"), b"x", tag=f"{namespace.user}.{namespace.app}"))
        mark = await self.done(self.tagged.mark())
        await self.done(self.bus.publish_one(Topic(SHOP, "a"), b"xx", tag="late"))
        self.assertEqual(await self.read(), [("alice.bank", 1), ("alice.shop", 1), ("late", 2)])
        self.assertEqual(await self.read(app="bank"), [("alice.bank", 1)])
        self.assertEqual(await self.read("bob"), [("bob.shop", 1)])
        self.assertEqual(await self.read(after=mark), [("late", 2)])

    async def test_many(self) -> None:
        """All are found, however many there are."""
        await self.done(self.bus.publish(Run(Topic(SHOP, "a"), [b"x"] * 2500, qos=1, tag="n.1")))
        self.assertEqual(len(await self.read()), 2500)

    async def test_away(self) -> None:
        """A bus that is away is no reason to find nothing."""
        await self.go_away()
        await self.assertFailure(self.tagged.mark(), BusUnavailable)
        await self.assertFailure(self.tagged.read("alice", "", 0, lambda tag, size: None), BusUnavailable)
