"""Shared subscriptions over a real nats-server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from flowgate.bus.groups import LinkGroups
from flowgate.bus.jetstream import JetStreamBus
from flowgate.bus.peers import LinkPeers
from flowgate.errors import BusUnavailable
from flowgate.interfaces import IGroups
from flowgate.message import Run
from flowgate.topics import Namespace, Topic
from tests.contracts.groups import MOST_AHEAD, GroupsContract, Member
from tests.contracts.topics import SHOP, Listener, numbered
from tests.integration.nats import nats_server

_T = TypeVar("_T")


def _state(listener: Listener, available: bool) -> Deferred[None]:
    return listener.until(lambda: listener.states[-1] is available)


class LinkGroupsTests(GroupsContract, TestCase):
    """The contract, over JetStream, and what only a real bus can do."""

    timeout = 40
    ack_seconds = 1.5

    async def setUp(self) -> None:  # type: ignore[override]
        self.server = nats_server(self)
        self.nodes: dict[IGroups, tuple[JetStreamBus, Listener]] = {}
        self.one, self.two = await self.make_node(), await self.make_node()
        self.bus, self.listener = self.nodes[self.one]

    async def make_node(self) -> LinkGroups:
        listener = Listener()
        bus = JetStreamBus(reactor, [self.server.url], listener)
        peers = LinkPeers(bus.link)
        groups = LinkGroups(reactor, bus.link, peers, ack_seconds=self.ack_seconds, most_ahead=MOST_AHEAD)
        self.addCleanup(bus.stop)
        self.addCleanup(groups.stop)
        await bus.start()
        self.nodes[groups] = bus, listener
        return groups

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        return deferred

    async def publish(self, name: str, payloads: Sequence[bytes], qos: int = 1, namespace: Namespace = SHOP) -> None:
        run = Run(Topic(namespace, name), payloads, qos=qos)
        if qos:
            await self.bus.publish(run)
        else:
            self.assertTrue(self.bus.send(run, True))

    async def eventually(self, condition: Callable[[], bool]) -> None:
        await self.fence()
        while not condition():
            await self.fence()

    async def fence(self) -> None:
        """Let the server read what was written, and this test what the server wrote before that."""
        await gatherResults([bus.link.fence() for bus, _ in self.nodes.values() if bus.link.up])

    async def overdue(self) -> None:
        """It passes by itself."""

    async def held_back(self) -> None:
        """It passes by itself."""

    async def forgotten(self) -> None:
        """Only shown below: the time has to pass."""

    async def die(self, node: IGroups) -> None:
        assert isinstance(node, LinkGroups)
        bus, _ = self.nodes[node]
        await bus.stop()

    async def go_away(self) -> None:
        self.server.kill()
        for _, listener in self.nodes.values():
            await _state(listener, False)

    async def come_back(self) -> None:
        self.server.start()
        for _, listener in self.nodes.values():
            await _state(listener, True)

    async def api(self, verb: str, body: object = None) -> dict[str, Any]:
        message = await self.bus.link.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"")
        answer: dict[str, Any] = json.loads(message[4])
        return answer

    async def consumers(self) -> list[str]:
        names: list[str] = (await self.api("CONSUMER.NAMES.FG_TOPICS"))["consumers"] or []
        return names

    async def test_held_messages_are_kept(self) -> None:
        """What a member holds for longer than the time to acknowledge is not given to others while its node lives."""
        slow = await self.join(self.one, 1)
        await self.publish("a", [b"0"])
        await self.until(slow, 1)
        other = await self.join(self.two, 100)
        # Another group, in which a message is forgotten after that, says when the time is over.
        forgetful = await self.join(self.one, 1, group="h")
        await self.publish("a", [b"1"])
        await self.until(forgetful, 1)
        forgetful.membership._held.clear()  # type: ignore[attr-defined]
        late = await self.join(self.two, 1, group="h")
        await self.until(late, 1)
        self.assertEqual(other.payloads, [b"1"])
        slow.membership.done(slow.handles)
        other.membership.done(other.handles)
        consumer = slow.handles[0].split(".")[3]
        while (await self.api(f"CONSUMER.INFO.FG_TOPICS.{consumer}"))["num_ack_pending"]:
            pass

    async def test_done_while_cut_off(self) -> None:
        """What a member is done with, or gives back, while its node is cut off is so once it is back."""
        member, leaving = await self.join(self.one, 2), await self.join(self.one, group="h")
        await self.publish("a", numbered(0, 2))
        await self.until(member, 2)
        leaving.ask(2)
        await self.until(leaving, 2)
        connection = self.bus.link._standing
        assert connection is not None
        connection.abort()
        await _state(self.listener, False)
        member.membership.done(member.handles[:1])
        leaving.membership.leave()
        await _state(self.listener, True)
        await self.publish("a", [b"2"])
        other = await self.join(self.two, 9, group="h")
        await self.until(other, 3)
        self.assertEqual(sorted(other.payloads), numbered(0, 3))
        member.membership.leave()
        another = await self.join(self.two, 9)
        await self.until(another, 2)
        self.assertEqual(sorted(another.payloads), numbered(1, 3))

    async def test_consumer_is_made_again(self) -> None:
        """A consumer that somebody removed is made again, and members are given what is stored after that."""
        members = [await self.join(node, 9) for node in (self.one, self.two)]
        (name,) = await self.consumers()
        self.assertTrue((await self.api(f"CONSUMER.DELETE.FG_TOPICS.{name}"))["success"])
        remade: list[str] = []
        while not remade:
            remade = await self.consumers()
        self.assertEqual(remade, [name])
        await self.publish("a", numbered(0, 4))
        await self.eventually(lambda: sum(len(member.payloads) for member in members) >= 4)
        self.assertEqual(sorted(members[0].payloads + members[1].payloads), numbered(0, 4))

    async def test_consumer_that_vanished_unseen(self) -> None:
        """A consumer that is missing when a member asks is made again."""
        member = await self.join(self.one)
        (name,) = await self.consumers()
        await self.api(f"CONSUMER.DELETE.FG_TOPICS.{name}")
        member.ask(5)
        while not await self.consumers():
            pass
        await self.publish("a", [b"1"])
        await self.until(member, 1)

    async def test_group_goes_away(self) -> None:
        """A group that nobody has asked for some time is removed by the server."""
        bus, _ = self.nodes[self.one]
        groups = LinkGroups(reactor, bus.link, LinkPeers(bus.link), idle_seconds=0.2)
        self.addCleanup(groups.stop)
        member = await self.join(groups, 1)
        self.assertEqual(len(await self.consumers()), 1)
        member.membership.leave()
        while await self.consumers():
            pass

    async def test_durable_group_stays(self) -> None:
        """A durable group without members is there when others have gone, with all that was stored."""
        bus, _ = self.nodes[self.one]
        groups = LinkGroups(reactor, bus.link, LinkPeers(bus.link), idle_seconds=0.2)
        self.addCleanup(groups.stop)
        members = [await self.join(groups, 1), await self.join(groups, 1, durable=True)]
        for member in members:
            member.membership.leave()
        while len(names := await self.consumers()) > 1:
            pass
        self.assertTrue(names[0].startswith("fg-durable-"))
        await self.publish("a", numbered(0, 3))
        late = await self.join(self.two, 9, durable=True)
        await self.until(late, 3)
        self.assertEqual(late.payloads, numbered(0, 3))

    async def test_durable_group_survives_the_server(self) -> None:
        """What was stored for a durable group before its nodes and the server died is given afterwards.

        What was done in the last moments before that may be given again: the server had not written it down.
        """
        member = await self.join(self.one, 2, durable=True)
        await self.publish("a", numbered(0, 5))
        await self.until(member, 2)
        member.membership.done(member.handles)
        await self.eventually(lambda: True)
        await self.die(self.one)
        del self.nodes[self.one]
        await self.go_away()
        await self.come_back()
        late = await self.join(self.two, 9, durable=True)
        await self.done(late.until(lambda: set(late.payloads) >= set(numbered(2, 5))))
        self.assertEqual(len(set(late.payloads)), len(late.payloads))

    async def test_forget_what_was_made_anew(self) -> None:
        """A node that is late to forget a group leaves the one that was made since then alone."""
        late = await self.join(self.one, 9, durable=True)
        await self.two.forget(SHOP, "g", "a/#")
        another = await self.make_node()
        member = await self.join(another, 9, durable=True)
        await self.publish("a", [b"1"])
        await self.one.forget(SHOP, "g", "a/#")
        self.assertEqual((len(await self.consumers()), len(late.ends)), (1, 1))
        await self.publish("a", [b"2"])
        await self.until(member, 1)
        await self.eventually(lambda: sorted(late.payloads + member.payloads) == [b"1", b"2"])

    async def test_durable_consumer_is_made_again(self) -> None:
        """The consumer of a durable group that nobody forgets here is made again."""
        member = await self.join(self.one, 9, durable=True)
        await self.two.forget(SHOP, "g", "a/#")
        while not await self.consumers():
            pass
        await self.publish("a", [b"1"])
        await self.until(member, 1)

    async def test_stop(self) -> None:
        """A node that stops tells its members, takes no others, and gives back what they held."""
        stopped, other = await self.join(self.one, 5), await self.join(self.two)
        await self.publish("a", [b"1"])
        await self.until(stopped, 1)
        assert isinstance(self.one, LinkGroups)
        self.one.stop()
        self.assertIsInstance(stopped.ends[0], BusUnavailable)
        await self.assertFailure(self.one.join(SHOP, "g", "a/#", Member()), BusUnavailable)
        other.ask(1)
        await self.until(other, 1)

    async def test_many_messages(self) -> None:
        """Members that are done at once are given everything once, more than one request brings."""
        members = [await self.join(node, 150, at_once=True) for node in (self.one, self.two, self.two)]
        for start in range(0, 6000, 1000):
            await self.publish(f"a/{start}", numbered(start, start + 1000))
        await self.eventually(lambda: sum(len(member.payloads) for member in members) >= 6000)
        self.assertEqual(sorted((p for member in members for p in member.payloads), key=int), numbered(0, 6000))
        for member in members:
            self.assertGreaterEqual(len(member.payloads), 500)

    async def test_faulty_member(self) -> None:
        """A member that raises loses its place, and others are given what it was given."""

        class Faulty(Member):
            def take(self, run: Run, handles: Sequence[str]) -> None:
                super().take(run, handles)
                raise RuntimeError("a fault")

        faulty = Faulty()
        faulty.membership = await self.one.join(SHOP, "g", "a/#", faulty)
        faulty.ask(5)
        await self.publish("a", [b"1"])
        await self.until(faulty, 1)
        other = await self.join(self.two, 5)
        await self.until(other, 1)
        self.assertIsInstance(faulty.ends[0], BusUnavailable)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
