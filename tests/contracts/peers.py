"""What every way between nodes does."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface.verify import verifyObject

from flowgate.errors import BusUnavailable, NotFound
from flowgate.interfaces import IPeers

_T = TypeVar("_T")


class Told:
    """Keeps what a node heard, and can be waited for."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._wanted: tuple[int, Deferred[None]] | None = None

    def __call__(self, payload: bytes) -> None:
        self.heard.append(payload)
        if self._wanted is not None and len(self.heard) >= self._wanted[0]:
            (_, wanted), self._wanted = self._wanted, None
            wanted.callback(None)

    def count(self, number: int) -> Deferred[None]:
        """:returns: a Deferred that fires once ``number`` messages were heard."""
        wanted: Deferred[None] = Deferred()
        if len(self.heard) >= number:
            wanted.callback(None)
        else:
            self._wanted = number, wanted
        return wanted


class PeersContract:
    """Mixed into a test case whose ``setUp`` makes three nodes of a gateway."""

    one: IPeers
    two: IPeers
    three: IPeers
    assertEqual: Any
    assertTrue: Any
    assertFailure: Any

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        """Have ``deferred`` fire, if only time is missing."""
        raise NotImplementedError

    async def settled(self) -> None:
        """Wait until every node listens to what it was given handlers for."""
        raise NotImplementedError

    async def leave(self, node: IPeers) -> None:
        """Take a node's connection away."""
        raise NotImplementedError

    def test_interface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IPeers, self.one))

    def test_names(self) -> None:
        """Every node has a name of its own."""
        self.assertEqual(len({self.one.node, self.two.node, self.three.node}), 3)

    async def test_ask(self) -> None:
        """A question reaches the node that is asked and nobody else, and its answer comes back."""
        others: list[bytes] = []

        def other(question: bytes) -> Deferred[bytes]:
            others.append(question)
            return succeed(b"")

        self.two.answer("echo", lambda question: succeed(b"two " + question))
        self.one.answer("echo", other)
        self.three.answer("echo", other)
        await self.settled()
        self.assertEqual(await self.done(self.one.ask(self.two.node, "echo", b"\0\xff\r\n")), b"two \0\xff\r\n")
        self.assertEqual(await self.done(self.three.ask(self.two.node, "echo")), b"two ")
        self.assertEqual(others, [])

    async def test_late_answer(self) -> None:
        """An answer may take its time; questions do not wait for each other."""
        first: Deferred[bytes] = Deferred()
        answers = [first, succeed(b"2")]
        self.two.answer("slow", lambda _: answers.pop(0))
        await self.settled()
        slow = self.one.ask(self.two.node, "slow")
        self.assertEqual(await self.done(self.one.ask(self.two.node, "slow")), b"2")
        first.callback(b"1")
        self.assertEqual(await self.done(slow), b"1")

    async def test_nobody(self) -> None:
        """A node that does not exist, any more or at all, or that has no such verb, is not found at once."""
        self.two.answer("echo", succeed)
        await self.settled()
        name = self.two.node
        await self.assertFailure(self.done(self.one.ask(name, "other")), NotFound)
        await self.leave(self.two)
        await self.assertFailure(self.done(self.one.ask(name, "echo")), NotFound)
        for name in ("nobody", "", "a.b", "*", ">", "a b", "\r\n"):
            await self.assertFailure(self.done(self.one.ask(name, "echo")), NotFound)

    async def test_no_answer(self) -> None:
        """A question whose handler fails, or takes longer than the asker waits, fails when its time is over."""
        never: Deferred[bytes] = Deferred()
        self.two.answer("fails", lambda _: fail(BusUnavailable()))
        self.two.answer("never", lambda _: never)
        await self.settled()
        for verb in ("fails", "never"):
            await self.assertFailure(self.done(self.one.ask(self.two.node, verb, timeout=0.05)), BusUnavailable)

    async def test_asking_while_away(self) -> None:
        """A node that is cut off cannot ask."""
        self.two.answer("echo", succeed)
        await self.leave(self.one)
        await self.assertFailure(self.done(self.one.ask(self.two.node, "echo")), BusUnavailable)

    async def test_tell(self) -> None:
        """What is told reaches every other node that listens to its verb, in order, and not the teller."""
        one, two, three, other = Told(), Told(), Told(), Told()
        self.one.hear("news", one)
        self.two.hear("news", two)
        self.three.hear("news", three)
        self.three.hear("other", other)
        await self.settled()
        self.one.tell("news", b"1")
        self.one.tell("news", b"2")
        await self.done(two.count(2))
        await self.done(three.count(2))
        self.assertEqual((one.heard, two.heard, three.heard, other.heard), ([], [b"1", b"2"], [b"1", b"2"], []))

    async def test_telling_while_away(self) -> None:
        """A node that is cut off tells nobody, and that is no error."""
        two = Told()
        self.two.hear("news", two)
        await self.settled()
        await self.leave(self.one)
        self.one.tell("news", b"1")
        self.three.tell("news", b"2")
        await self.done(two.count(1))
        self.assertEqual(two.heard, [b"2"])
