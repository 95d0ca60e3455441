"""Shared subscriptions: a group is one durable pull consumer, its members ask it for messages.

The server hands messages out in turn to whoever has asked, one each, on whichever node: so every member keeps one
request open, for as many messages as it is ready for.  A message is redelivered if its holder gives it back or, some
time after a sign of life, if its node is gone.  The consumer goes away by itself when nobody has asked for a while;
that of a durable group is removed.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from flowgate.bus.bridge import api_error
from flowgate.bus.group import Group, Key, Membership, consumer_name
from flowgate.bus.grouping import Grouper
from flowgate.bus.holding import MOST, Holding
from flowgate.bus.link import Link, decode_json
from flowgate.bus.wants import Wants
from flowgate.errors import BusUnavailable, NotFound
from flowgate.interfaces import IGroupMember, IGroups, IMembership, IPeers
from flowgate.topics import Namespace, Topic

MAX_GROUPS: Final = 10_000
"""Groups with members on this node; more are refused."""

_NO_SUCH_CONSUMER: Final = 10014
_TICK_SECONDS: Final = 1.0


@implementer(IGroups)
class LinkGroups:
    """:class:`IGroups` on the link."""

    def __init__(
        self,
        reactor: Any,
        link: Link,
        peers: IPeers,
        *,
        stream: str = "FG_TOPICS",
        ack_seconds: float = 30.0,
        idle_seconds: float = 300.0,
        most_ahead: int = MOST,
    ) -> None:
        """Take part.

        :param reactor: IReactorTime.
        :param link: the way to the stream.
        :param peers: the way to the other nodes.
        :param stream: the stream that holds the topics.
        :param ack_seconds: how long after the last sign of life of its node a message is given to somebody else; in
            durable groups 5 at most.
        :param idle_seconds: how long a group without members is kept, with what is stored for it meanwhile.
        :param most_ahead: how many messages may be before a durable group until publishers are held back.
        """
        self.reactor = reactor
        self.link = link
        self.stream = stream
        self.ack_seconds = ack_seconds
        self.idle_seconds = idle_seconds
        self.grouper = Grouper()
        self._groups: dict[Key, Group] = {}
        self._wants = Wants(reactor, peers)
        self._holding = Holding(reactor, most_ahead)
        self._out: list[bytes] = []  # acknowledgements: at most one or two for each message that a member was given
        self._asking: dict[Membership, None] = {}
        self._turn: IDelayedCall | None = None
        self._ticking: IDelayedCall | None = None
        self._stopped = False
        link.add_listener(self)

    # -- IGroups

    def join(
        self,
        namespace: Namespace,
        group: str,
        filter_: str,
        member: IGroupMember,
        *,
        durable: bool = False,
        ordered: bool = False,
    ) -> Deferred[IMembership]:
        return Deferred.fromCoroutine(self._join((namespace, group, filter_, durable), member, ordered))

    async def _join(self, key: Key, member: IGroupMember, ordered: bool) -> IMembership:
        if not self.link.up or self._stopped:
            raise BusUnavailable()
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) >= MAX_GROUPS:
                raise BusUnavailable("too many groups share subscriptions on this node")
            found = self._groups[key] = Group(self, key, ordered)
            self._wants.add((key[0], key[2]))
            if found.durable:
                found.held = self._holding.add(key[0], key[2], found.progress)
            if self._ticking is None:
                self._ticking = self.reactor.callLater(_TICK_SECONDS, self._tick)
        elif found.over:
            raise BusUnavailable("the group is being removed")
        membership = Membership(found, member)
        found.members[membership] = None
        try:
            await found.ready()
        except BaseException:
            membership.leave()
            raise
        if membership not in found.members:
            raise BusUnavailable("the gateway is going away")
        membership.begin()
        return membership

    def forget(self, namespace: Namespace, group: str, filter_: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._forget((namespace, group, filter_, True)))

    async def _forget(self, key: Key) -> None:
        if not self.link.up or self._stopped:
            raise BusUnavailable()
        found = self._groups.get(key)
        if found is None:
            await self._remove(consumer_name(key), "")
            return
        found.over = True  # or it would be made again
        try:
            await found.made()
            await self._remove(found.consumer, found.created)
        except BaseException:
            found.over = False
            raise
        found.end(NotFound("the subscription was removed"))

    async def _remove(self, consumer: str, created: str) -> None:
        """Remove a consumer.

        :param created: leave it alone if it was not made then, but later; empty if that is not known.
        """
        if created and (await self.api(f"INFO.{self.stream}.{consumer}")).get("created", created) != created:
            return
        await self.api(f"DELETE.{self.stream}.{consumer}")

    async def api(self, verb: str, body: bytes = b"") -> dict[str, Any]:
        """Ask something of a consumer.

        :returns: the answer; empty if there is no such consumer.
        """
        answer = decode_json(await self.link.request(f"$JS.API.CONSUMER.{verb}", body))
        if "error" in answer:
            if answer["error"].get("err_code") == _NO_SUCH_CONSUMER:
                return {}
            raise api_error(answer["error"])
        return answer

    @property
    def any(self) -> bool:
        return bool(self._wants)

    def wants(self, topic: Topic) -> bool:
        return self._wants.match(topic)

    def room(self, topic: Topic, count: int, published: bool = False) -> Deferred[None] | None:
        return self._holding.room(topic, count, published)

    def stored(self, topic: Topic, count: int) -> None:
        self._holding.stored(topic, count)

    def stop(self) -> None:
        """Tell every member that it is over, and give back what they hold."""
        self._stopped = True
        for group in list(self._groups.values()):
            group.end(BusUnavailable("the gateway is going away"))
        self._flush()
        self._wants.stop()
        self._holding.stop()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def left(self, group: Group) -> None:
        """Have nothing to do with a group any more, since it has no members here."""
        del self._groups[group.key]
        self._wants.discard((group.key[0], group.key[2]))
        if group.held is not None:
            self._holding.discard(group.held)

    # -- what the link tells

    def link_up(self) -> None:
        self._wants.hello()
        for group in list(self._groups.values()):
            group.resume()
        self._flush()  # what was done while the link was down

    def link_down(self) -> None:
        for group in list(self._groups.values()):
            group.pause()
        self._holding.reset()

    # -- writing: once for what one turn brings

    def say(self, handle: str, word: bytes = b"") -> None:
        """Tell the consumer what became of a message; nothing at all says that it is done."""
        self._out.append(b"PUB %b %d\r\n%b\r\n" % (handle.encode(), len(word), word))
        self._soon()

    def ask(self, membership: Membership) -> None:
        """Have a member's request sent, if it has none open."""
        self._asking[membership] = None
        self._soon()

    def _soon(self) -> None:
        if self._turn is None:
            self._turn = self.reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        self._turn = None
        asking, self._asking = self._asking, {}
        if not self.link.up:
            return  # the acknowledgements wait; requests are made anew
        out, self._out = self._out, []
        for membership in asking:
            membership.request(out)
        if out:
            self.link.write(b"".join(out))

    # -- time

    def _tick(self) -> None:
        self._ticking = None
        if self.link.up:
            for group in list(self._groups.values()):
                group.look()
        if self._groups:
            self._ticking = self.reactor.callLater(_TICK_SECONDS, self._tick)
