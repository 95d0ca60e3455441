"""The fake of shared subscriptions passes the contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from twisted.internet.task import Clock

from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_topics import MemoryBus
from flowgate.errors import BusUnavailable
from flowgate.interfaces import IGroups
from flowgate.message import Run
from flowgate.topics import Namespace, Topic
from tests.contracts.at_once import AtOnceTestCase
from tests.contracts.groups import MOST_AHEAD, GroupsContract
from tests.contracts.topics import SHOP

_T = TypeVar("_T")


class MemoryGroupsTests(GroupsContract, AtOnceTestCase):
    """The contract, over a clock that the test moves, and what only the fake can show."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.clock = Clock()
        self.bus = MemoryBus(self.clock)
        await self.bus.start()
        self.hub = MemoryGroupsHub(self.clock, self.bus, MOST_AHEAD)
        self.one, self.two = MemoryGroups(self.hub), MemoryGroups(self.hub)

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        self.clock.pump([0] * 20)
        return deferred

    async def publish(self, name: str, payloads: Sequence[bytes], qos: int = 1, namespace: Namespace = SHOP) -> None:
        run = Run(Topic(namespace, name), payloads, qos=qos)
        if qos:
            stored = self.bus.publish(run)
            self.clock.pump([0] * 20)
            await stored
        else:
            self.assertTrue(self.bus.send(run, True))

    async def eventually(self, condition: Callable[[], bool]) -> None:
        self.clock.pump([0] * 20)
        self.assertTrue(condition())

    async def overdue(self) -> None:
        self.clock.advance(30)

    async def held_back(self) -> None:
        self.clock.advance(0.1)

    async def forgotten(self) -> None:
        self.clock.advance(301)

    async def die(self, node: IGroups) -> None:
        assert isinstance(node, MemoryGroups)
        node.die()

    async def go_away(self) -> None:
        self.bus.go_away()

    async def come_back(self) -> None:
        self.bus.come_back()

    async def test_stop(self) -> None:
        """A node that stops tells its members, and others get what they held."""
        stopped, other = await self.join(self.one, 5), await self.join(self.two)
        await self.publish("a", [b"1"])
        await self.until(stopped, 1)
        assert isinstance(self.one, MemoryGroups)
        self.one.stop()
        self.assertIsInstance(stopped.ends[0], BusUnavailable)
        other.ask(1)
        await self.until(other, 1)

    async def test_idle_group(self) -> None:
        """A group without members is forgotten after a while, and nothing stays in the clock."""
        member = await self.join(self.one, 5)
        member.membership.leave()
        self.clock.pump([0] * 5 + [300])
        self.assertEqual(self.hub.groups, {})
        await self.bus.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
