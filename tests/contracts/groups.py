"""What every kind of shared subscription does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flowgate.errors import BusUnavailable, NotFound, Refused
from flowgate.interfaces import IGroupMember, IGroups, IMembership
from flowgate.message import Run
from flowgate.topics import Namespace, Topic
from tests.contracts.topics import OTHER, SHOP, Watched, numbered

_T = TypeVar("_T")

MOST_AHEAD = 100
"""Messages that may be before a durable group, in these tests."""


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
    """Mixed into a test case whose ``setUp`` makes ``self.one`` and ``self.two``: the groups as two nodes see them,
    with :data:`MOST_AHEAD`."""

    one: IGroups
    two: IGroups
    assertEqual: Any
    assertTrue: Any
    assertFalse: Any
    assertFailure: Any
    assertGreaterEqual: Any
    assertLessEqual: Any
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

    async def held_back(self) -> None:
        """Let so much time pass that publishers who are held back learn that they are not any more."""
        raise NotImplementedError

    async def forgotten(self) -> None:
        """Let so much time pass that a group without members is gone, unless it is durable."""
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
        durable: bool = False,
        ordered: bool = False,
    ) -> Member:
        member = Member(at_once=at_once)
        joining = node.join(namespace, group, filter_, member, durable=durable, ordered=ordered)
        member.membership = await self.done(joining)
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

    async def test_durable_and_others_are_apart(self) -> None:
        """A durable group and another one of the same name each have their own messages."""
        members = [await self.join(self.one, 9), await self.join(self.two, 9, durable=True)]
        await self.publish("a", [b"1"])
        for member in members:
            await self.until(member, 1)
        self.assertEqual([member.payloads for member in members], [[b"1"], [b"1"]])

    async def test_durable_without_members(self) -> None:
        """A durable group keeps what its last member gave back, and what is stored without any member."""
        first = await self.join(self.one, 2, durable=True)
        await self.publish("a", numbered(0, 2))
        await self.until(first, 2)
        first.membership.done(first.handles[:1])
        first.membership.leave()
        await self.publish("a", numbered(2, 5))
        await self.forgotten()
        second = await self.join(self.two, 9, durable=True)
        await self.until(second, 4)
        self.assertEqual(sorted(second.payloads), numbered(1, 5))

    async def test_ordered(self) -> None:
        """An ordered group has one message at a time, on all nodes; who gets it again gets it before later ones."""
        members = [await self.join(node, 100, durable=True, ordered=True) for node in (self.one, self.two)]
        await self.publish("a", numbered(0, 2))
        await self.publish("b", [b"-"])
        await self.publish("a/b", numbered(2, 6))
        given: list[bytes] = []
        for number in range(6):
            await self.eventually(lambda: any(member.payloads for member in members))
            (holder,) = (member for member in members if member.payloads)
            await self.eventually(lambda: True)
            self.assertEqual(holder.payloads, [b"%d" % number])
            given += holder.payloads
            if number == 3:  # the one that has it goes, and another gets it again
                holder.membership.leave()
                members.remove(holder)
                await self.eventually(lambda: bool(members[0].payloads))
                (holder,) = members
                self.assertEqual(holder.payloads, [b"3"])
            handles, holder.handles, holder.runs = holder.handles, [], []
            holder.membership.done(handles)
        self.assertEqual(given, numbered(0, 6))

    async def test_ordered_death(self) -> None:
        """An ordered group goes on with the message that a dead node had."""
        dying = await self.join(self.one, 5, durable=True, ordered=True)
        await self.publish("a", numbered(0, 3))
        await self.until(dying, 1)
        await self.die(self.one)
        staying = await self.join(self.two, 5, durable=True, ordered=True, at_once=True)
        await self.overdue()
        await self.until(staying, 3)
        self.assertEqual(staying.payloads, numbered(0, 3))

    async def test_forget(self) -> None:
        """A durable group that is forgotten tells its members here, and a later one of the same name begins anew."""
        member = await self.join(self.one, 1, durable=True)
        await self.publish("a", numbered(0, 3))
        await self.until(member, 1)
        await self.done(self.one.forget(SHOP, "g", "a/#"))
        self.assertIsInstance(member.ends[0], NotFound)
        self.assertFalse(self.one.wants(Topic(SHOP, "a")))
        await self.publish("a", [b"3"])
        later = await self.join(self.two, 9, durable=True)
        await self.publish("a", [b"4"])
        await self.until(later, 1)
        self.assertEqual(later.payloads, [b"4"])

    async def test_forget_without_members(self) -> None:
        """A durable group is forgotten by a node that has no members, also a second time; others are not."""
        member = await self.join(self.one, durable=True)
        other = await self.join(self.one)
        for one in (member, other):
            one.membership.leave()
        await self.publish("a", [b"0"])
        for _ in range(2):
            await self.done(self.two.forget(SHOP, "g", "a/#"))
        member, other = await self.join(self.one, 9, durable=True), await self.join(self.one, 9)
        await self.publish("a", [b"1"])
        await self.until(member, 1)
        await self.until(other, 2)
        self.assertEqual((member.payloads, sorted(other.payloads)), ([b"1"], numbered(0, 2)))

    async def test_forget_on_all_nodes(self) -> None:
        """A group whose nodes all forget it is gone, whoever was first."""
        members = [await self.join(node, 9, durable=True) for node in (self.one, self.two)]
        for node in (self.one, self.two):
            await self.done(node.forget(SHOP, "g", "a/#"))
        self.assertTrue(all(isinstance(member.ends[0], NotFound) for member in members))
        await self.publish("a", [b"0"])
        later = await self.join(self.two, 9, durable=True)
        await self.publish("a", [b"1"])
        await self.until(later, 1)
        self.assertEqual(later.payloads, [b"1"])

    async def ahead(self, node: IGroups, topic: Topic) -> tuple[int, Deferred[None]]:
        """Publish until ``node`` holds that back; tell how many messages that were, and what to wait for."""
        published = 0
        while (held := node.room(topic, 10)) is None:
            await self.publish(topic.name, numbered(published, published + 10))
            node.stored(topic, 10)
            published += 10
            self.assertLessEqual(published, MOST_AHEAD)
        return published, held

    async def test_room(self) -> None:
        """Who is too far ahead of a durable group is held back until the group has followed, in order."""
        topic, other = Topic(SHOP, "a/b"), Topic(SHOP, "b")
        member = await self.join(self.one, durable=True)
        published, held = await self.ahead(self.one, topic)
        fired: list[int] = []

        def fire(_: None, number: int) -> None:
            fired.append(number)

        waiting = [held, *filter(None, (self.one.room(topic, 1) for _ in range(3)))]
        self.assertEqual(len(waiting), 4)
        for number, one in enumerate(waiting):
            one.addCallback(fire, number)
        self.assertEqual(self.one.room(other, 1), None)
        await self.eventually(lambda: True)
        self.assertEqual(fired, [])
        member.ask(published)
        await self.until(member, published)
        member.membership.done(member.handles)
        await self.held_back()
        await self.eventually(lambda: len(fired) == 4)
        self.assertEqual(fired, [0, 1, 2, 3])
        self.assertEqual(self.one.room(topic, 1), None)

    async def test_room_of_another_node(self) -> None:
        """A node learns that a group is behind also by what others publish, once it has published itself."""
        topic = Topic(SHOP, "a")
        await self.join(self.one, durable=True)
        await self.join(self.two, durable=True)
        await self.ahead(self.one, topic)
        published, held = await self.ahead(self.two, topic)
        held.addErrback(lambda _: None)
        self.assertGreaterEqual(published, 0)
        await self.eventually(lambda: True)
        self.assertFalse(held.called)
        held.cancel()

    async def test_room_without_group(self) -> None:
        """Nobody is held back for other groups, for one that is gone, or if nobody wants the topic."""
        topic = Topic(SHOP, "a")
        await self.join(self.one)
        member = await self.join(self.one, durable=True)
        _, held = await self.ahead(self.one, topic)
        member.membership.leave()
        await self.done(self.one.forget(SHOP, "g", "a/#"))
        await self.done(held)
        self.assertEqual([self.one.room(topic, 1000) for _ in range(3)], [None] * 3)

    async def test_room_in_an_outage(self) -> None:
        """Nobody is held back while the bus is away: it refuses what is published."""
        topic = Topic(SHOP, "a")
        await self.join(self.one, durable=True)
        _, held = await self.ahead(self.one, topic)
        await self.go_away()
        await self.held_back()
        await self.done(held)
        await self.come_back()

    async def test_outage(self) -> None:
        """Nobody can join while the bus is away; members of before are given messages again after it."""
        members = [await self.join(node, 100) for node in (self.one, self.two)]

        def given() -> set[bytes]:
            return {payload for member in members for payload in member.payloads}

        await self.publish("a", numbered(0, 2))
        await self.eventually(lambda: len(given()) == 2)
        await self.go_away()
        await self.assertFailure(self.done(self.one.join(SHOP, "g", "a/#", Member())), BusUnavailable)
        await self.assertFailure(self.done(self.one.forget(SHOP, "g", "a/#")), BusUnavailable)
        members[0].ask(10)
        await self.come_back()
        await self.publish("a", numbered(2, 12))
        await self.eventually(lambda: given() == set(numbered(0, 12)))
        self.assertEqual(members[0].ends + members[1].ends, [])
