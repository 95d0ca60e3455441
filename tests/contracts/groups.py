"""What every kind of shared subscription does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from zope.interface import implementer
from zope.interface.verify import verifyObject

from flowgate.errors import BusUnavailable, Refused
from flowgate.interfaces import IGroupMember, IGroups, IMembership
from flowgate.message import Run
from flowgate.topics import Namespace, Topic
from tests.contracts.topics import OTHER, SHOP, Watched, numbered

_T = TypeVar("_T")


@implementer(IGroupMember)
class Member(Watched):
    """Keeps what it was given, and sees to it that it is never more than it was ready for."""

    def __init__(self, *, at_once: bool = False) -> None:
        """Make a member.

        :param at_once: whether it is done with each run at once, and ready for as many messages more.
        """
        super().__init__()
        self._at_once = at_once
        self._ready = 0
        self.runs: list[Run] = []
        self.handles: list[str] = []
        self.ends: list[Refused] = []
        self.membership: IMembership

    def ask(self, count: int) -> None:
        self._ready += count
        self.membership.ask(count)

    def take(self, run: Run, handles: Sequence[str]) -> None:
        assert 0 < run.count == len(handles) == len(run.payloads) == len(run.sequences), "a run with its handles"
        self._ready -= run.count
        assert self._ready >= 0, "a member was given more than it was ready for"
        self.runs.append(run)
        self.handles += handles
        if self._at_once:
            self.membership.done(handles)
            self.ask(run.count)
        self.changed()

    def lost(self, reason: Refused) -> None:
        self.ends.append(reason)
        self.changed()

    @property
    def payloads(self) -> list[bytes]:
        return [payload for run in self.runs for payload in run.payloads]


class GroupsContract:
    """Mixed into a test case whose ``setUp`` makes ``self.one`` and ``self.two``: the groups as two nodes see them."""

    one: IGroups
    two: IGroups
    assertEqual: Any
    assertTrue: Any
    assertFalse: Any
    assertFailure: Any
    assertGreaterEqual: Any
    assertIsInstance: Any

    # -- to be provided

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        """Have ``deferred`` fire, if only time is missing."""
        raise NotImplementedError

    async def publish(self, name: str, payloads: Sequence[bytes], qos: int = 1, namespace: Namespace = SHOP) -> None:
        """Store messages."""
        raise NotImplementedError

    async def eventually(self, condition: Callable[[], bool]) -> None:
        """Wait for something that nobody tells."""
        raise NotImplementedError

    async def overdue(self) -> None:
        """Let so much time pass that messages of a dead node are given to others."""
        raise NotImplementedError

    async def die(self, node: IGroups) -> None:
        """End a node without a word."""
        raise NotImplementedError

    async def go_away(self) -> None:
        """Take the bus away from all nodes."""
        raise NotImplementedError

    async def come_back(self) -> None:
        """Give it back."""
        raise NotImplementedError

    # -- help

    async def join(
        self,
        node: IGroups,
        ask: int = 0,
        *,
        group: str = "g",
        filter_: str = "a/#",
        namespace: Namespace = SHOP,
        at_once: bool = False,
    ) -> Member:
        member = Member(at_once=at_once)
        member.membership = await self.done(node.join(namespace, group, filter_, member))
        if ask:
            member.ask(ask)
        return member

    async def until(self, member: Member, count: int) -> None:
        """Wait until ``member`` was given ``count`` messages."""
        await self.done(member.until(lambda: len(member.payloads) >= count))

    # -- the promises

    async def test_interface(self) -> None:
        """It provides the interface, and so does a membership."""
        self.assertTrue(verifyObject(IGroups, self.one))
        member = await self.join(self.one)
        self.assertTrue(verifyObject(IMembership, member.membership))
        self.assertTrue(verifyObject(IGroupMember, member))

    async def test_one_member(self) -> None:
        """A single member is given everything on the filter and nothing else, in order, with its places."""
        member = await self.join(self.one, 100)
        await self.publish("a", [b"1"])
        await self.publish("b", [b"2"])
        await self.publish("a/b", [b"3", b"4"], qos=2)
        await self.publish("a/b", [b"5"], namespace=OTHER)
        await self.publish("a/c", [b"6"])
        await self.until(member, 4)
        self.assertEqual(member.payloads, [b"1", b"3", b"4", b"6"])
        self.assertEqual({(run.topic.name, run.qos) for run in member.runs}, {("a", 1), ("a/b", 2), ("a/c", 1)})
        sequences = [sequence for run in member.runs for sequence in run.sequences]
        self.assertEqual(sequences, sorted(set(sequences)))
        self.assertTrue(all(run.recorded for run in member.runs))

    async def test_balance(self) -> None:
        """Every message is given to one member only, and all members of all nodes get about as many."""
        members = [await self.join(node, 100, at_once=True) for node in (self.one, self.one, self.two)]
        for number in range(30):
            await self.publish("a", [b"%d" % number])

        def given() -> list[bytes]:
            return [payload for member in members for payload in member.payloads]

        for member in members:
            await self.until(member, 8)
        await self.eventually(lambda: len(given()) >= 30)
        self.assertEqual(sorted(given(), key=int), numbered(0, 30))

    async def test_balance_of_a_run(self) -> None:
        """A run that was published at once is dealt out one by one, once the members are known to be ready."""
        members = [await self.join(node, 100) for node in (self.one, self.two, self.two)]
        while not all(member.payloads for member in members):
            await self.publish("a", [b"ready"])
            await self.eventually(lambda: True)
        await self.publish("a", numbered(0, 30))

        def given() -> list[int]:
            return [sum(1 for one in member.payloads if one != b"ready") for member in members]

        await self.eventually(lambda: sum(given()) >= 30)
        self.assertEqual(given(), [10, 10, 10])

    async def test_only_who_is_ready(self) -> None:
        """A member is given what it asked for and no more; the rest waits for those who ask."""
        slow = await self.join(self.one, 2)
        idle = await self.join(self.two)
        await self.publish("a", numbered(0, 7))
        await self.until(slow, 2)
        other = await self.join(self.two, 3)
        await self.until(other, 3)
        slow.ask(1)
        slow.ask(1)
        await self.until(slow, 4)
        self.assertEqual(sorted(slow.payloads + other.payloads), numbered(0, 7))
        self.assertEqual(idle.payloads, [])

    async def test_begins_with_its_first_member(self) -> None:
        """What was stored before the group began is not given."""
        await self.publish("a", [b"before"])
        member = await self.join(self.one, 9)
        await self.publish("a", [b"after"])
        await self.until(member, 1)
        self.assertEqual(member.payloads, [b"after"])

    async def test_leaving_gives_back(self) -> None:
        """What a member was given and was not done with is given to others when it leaves; what it was, is not."""
        leaving = await self.join(self.one, 5)
        await self.publish("a", numbered(0, 5))
        await self.until(leaving, 5)
        leaving.membership.done(leaving.handles[:2])
        staying = await self.join(self.two, 100)
        leaving.membership.leave()
        leaving.membership.leave()
        leaving.membership.ask(10)
        leaving.membership.done(leaving.handles)
        await self.until(staying, 3)
        await self.publish("a", [b"5"])
        await self.until(staying, 4)
        self.assertEqual(sorted(staying.payloads), numbered(2, 6))
        self.assertEqual((len(leaving.payloads), leaving.ends), (5, []))

    async def test_leaving_for_nobody(self) -> None:
        """What the last member gives back waits for one who comes soon, and so does what is stored meanwhile."""
        leaving = await self.join(self.one, 2)
        await self.publish("a", numbered(0, 2))
        await self.until(leaving, 2)
        leaving.membership.leave()
        await self.publish("a", [b"2"])
        coming = await self.join(self.two, 9)
        await self.until(coming, 3)
        self.assertEqual(sorted(coming.payloads), numbered(0, 3))

    async def test_death(self) -> None:
        """What the members of a node that died hold is given to others, after some time."""
        dying, staying = await self.join(self.one, 5), await self.join(self.two)
        await self.publish("a", numbered(0, 5))
        await self.until(dying, 5)
        dying.membership.done(dying.handles[:1])
        await self.eventually(lambda: True)
        await self.die(self.one)
        staying.ask(100)
        await self.overdue()
        await self.until(staying, 4)
        self.assertEqual(sorted(staying.payloads), numbered(1, 5))

    async def test_unacknowledged(self) -> None:
        """Unacknowledged messages that are stored are given too."""
        member = await self.join(self.one, 9)
        await self.publish("a", [b"0"], qos=0)
        await self.until(member, 1)
        self.assertEqual([(run.qos, *run.payloads) for run in member.runs], [(0, b"0")])

    async def test_groups_are_apart(self) -> None:
        """Another group, the same name on another filter or in another namespace has its own messages."""
        members = [
            await self.join(self.one, 9),
            await self.join(self.two, 9, group="h"),
            await self.join(self.two, 9, filter_="a/b"),
            await self.join(self.two, 9, filter_="+/b"),
            await self.join(self.one, 9, namespace=OTHER),
        ]
        await self.publish("a/b", [b"1"])
        await self.publish("a/b", [b"2"], namespace=OTHER)
        for member in members:
            await self.until(member, 1)
        self.assertEqual([member.payloads for member in members], [[b"1"]] * 4 + [[b"2"]])

    async def test_wants(self) -> None:
        """What a group may want is known on every node, for as long as it has members."""
        topics = [Topic(SHOP, "a/b"), Topic(SHOP, "b"), Topic(OTHER, "a/b"), Topic(SHOP, "$a")]

        def wanted(node: IGroups) -> list[bool]:
            return [node.wants(topic) for topic in topics]

        self.assertEqual(wanted(self.one), [False] * 4)
        first, second = await self.join(self.one), await self.join(self.one)
        self.assertEqual(wanted(self.one), [True, False, False, False])
        await self.eventually(lambda: wanted(self.two) == [True, False, False, False])
        first.membership.leave()
        third = await self.join(self.two, filter_="#", group="h")
        second.membership.leave()
        self.assertEqual(wanted(self.two), [True, True, False, False])
        await self.eventually(lambda: wanted(self.one) == [True, True, False, False])
        third.membership.leave()
        self.assertEqual(wanted(self.two), [False] * 4)
        await self.eventually(lambda: wanted(self.one) == [False] * 4)

    async def test_outage(self) -> None:
        """Nobody can join while the bus is away; members of before are given messages again after it."""
        members = [await self.join(node, 100) for node in (self.one, self.two)]

        def given() -> set[bytes]:
            return {payload for member in members for payload in member.payloads}

        await self.publish("a", numbered(0, 2))
        await self.eventually(lambda: len(given()) == 2)
        await self.go_away()
        await self.assertFailure(self.done(self.one.join(SHOP, "g", "a/#", Member())), BusUnavailable)
        members[0].ask(10)
        await self.come_back()
        await self.publish("a", numbered(2, 12))
        await self.eventually(lambda: given() == set(numbered(0, 12)))
        self.assertEqual(members[0].ends + members[1].ends, [])
