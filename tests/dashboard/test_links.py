"""One-time links."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from flowgate.bus.memory_store import MemoryStore
from flowgate.dashboard import links
from flowgate.dashboard.links import FIRST_SECONDS, LIFE_SECONDS, LINKS, Links
from flowgate.errors import InvalidToken, RateLimited
from tests.contracts.at_once import AtOnceTestCase


class LinkTests(AtOnceTestCase):
    """Links on one store."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.now = 1000.0
        self.store = MemoryStore()
        self.links = await self.node()

    async def node(self) -> Links:
        found = Links(self.store, lambda: self.now)
        await found.start()
        return found

    async def refused(self, secret: str, node: Links | None = None) -> None:
        for verb in (node or self.links).look, (node or self.links).use:
            await self.assertFailure(Deferred.fromCoroutine(verb(secret)), InvalidToken)

    async def test_once(self) -> None:
        """A link is used once, on whichever node; looking at it does not use it."""
        other = await self.node()
        secret, made = await self.links.make("alice", admin=True)
        for _ in range(3):
            self.assertEqual(await other.look(secret), made)
        self.assertEqual(await other.use(secret), made)
        await self.refused(secret)
        await self.refused(secret, other)

    async def test_race(self) -> None:
        """Of two that use it at the same time one succeeds."""
        secret, _ = await self.links.make("alice")
        other = await self.node()
        reading: list[Deferred[Any]] = []
        get = self.store.get

        def slow(bucket: str, key: str) -> Deferred[Any]:
            reading.append(Deferred())
            waiting = reading[-1]
            answer = get(bucket, key)
            return waiting.addCallback(lambda _: answer)

        self.patch(self.store, "get", slow)
        first, second = (Deferred.fromCoroutine(one.use(secret)) for one in (self.links, other))
        for one in reading:
            one.callback(None)
        self.assertEqual((await first).user, "alice")
        await self.assertFailure(second, InvalidToken)

    async def test_expires(self) -> None:
        """A link is good for as long as it was made for."""
        for seconds in (LIFE_SECONDS, FIRST_SECONDS):
            self.now = 1000.0
            secret, made = await self.links.make("alice", seconds=seconds)
            self.assertEqual(made.expires_at, 1000 + seconds)
            self.now += seconds - 1
            await self.links.look(secret)
            self.now += 1
            await self.refused(secret)

    async def test_replaced(self) -> None:
        """A new link of a user makes the older one worthless, and not those of others."""
        old, _ = await self.links.make("alice")
        others, _ = await self.links.make("bob")
        new, _ = await self.links.make("alice")
        await self.refused(old)
        await self.links.use(others)
        await self.links.use(new)

    async def test_never_made(self) -> None:
        """What was never made, or is no secret at all, is refused."""
        for secret in ("", "x" * 43, "x" * 10_000, "../../etc/passwd", "é" * 43):
            await self.refused(secret)

    async def test_secret_is_not_stored(self) -> None:
        """What is stored does not contain the secret."""
        secret, made = await self.links.make("alice")
        entry = await self.store.get(LINKS, made.name)
        assert entry is not None
        self.assertNotIn(secret.encode(), entry.value + made.name.encode())

    async def test_damaged(self) -> None:
        """A record that cannot be read is no link."""
        secret, made = await self.links.make("alice")
        for value in (b"", b"{}", b"[1, null, 5]", b"\xff", b'["alice", 1, 99999]'):
            await self.store.put(LINKS, made.name, value)
            await self.refused(secret)

    async def test_bounded(self) -> None:
        """There are not endlessly many; those that are too old make room."""
        self.patch(links, "MOST", 3)
        for number in range(3):
            await self.links.make(f"user-{number}")
        await self.assertFailure(Deferred.fromCoroutine(self.links.make("alice")), RateLimited)
        self.now += LIFE_SECONDS
        await self.links.make("alice")

    async def test_stopped(self) -> None:
        """After the stop nothing is followed, and links are found all the same."""
        other = await self.node()
        other.stop()
        secret, _ = await self.links.make("alice")
        await other.use(secret)
