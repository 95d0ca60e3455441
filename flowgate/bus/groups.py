"""Shared subscriptions: a group is one durable pull consumer, its members ask it for messages.

The server hands messages out in turn to whoever has asked, one each, on whichever node: so every member keeps one
request open, for as many messages as it is ready for.  A message is redelivered if its holder gives it back or, some
time after a sign of life, if its node is gone.  The consumer goes away by itself when nobody has asked for a while.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.bus import wire
from flowgate.bus.bridge import api_error
from flowgate.bus.grouping import Grouper, consumed_at, delivered_subject
from flowgate.bus.link import Link, decode_json
from flowgate.bus.names import filter_subject
from flowgate.bus.wants import Wants
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, ProtocolViolation, Refused
from flowgate.interfaces import IGroupMember, IGroups, IMembership, IPeers
from flowgate.topics import Namespace, Topic

MAX_GROUPS: Final = 10_000
"""Groups with members on this node; more are refused."""
MAX_BATCH: Final = 1_000
"""Messages that one request asks for; a member that wants more asks again."""

_MAX_PENDING: Final = 10_000  # messages of a group that members may hold, all nodes together; more wait in the stream
_MAX_WAITING: Final = 10_000  # requests, so members; a member beyond that tries again each second
_BATCH_BYTES: Final = 8 * 1024 * 1024  # a request ends before it brings more
_REQUEST_SECONDS: Final = 120
_HEARTBEAT_SECONDS: Final = 5
_TICK_SECONDS: Final = 1.0
_SECOND: Final = 1_000_000_000


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
    ) -> None:
        """Take part.

        :param reactor: IReactorTime.
        :param link: the way to the stream.
        :param peers: the way to the other nodes.
        :param stream: the stream that holds the topics.
        :param ack_seconds: how long after the last sign of life of its node a message is given to somebody else.
        :param idle_seconds: how long a group without members is kept, with what is stored for it meanwhile.
        """
        self.reactor = reactor
        self.link = link
        self.stream = stream
        self.ack_seconds = ack_seconds
        self.idle_seconds = idle_seconds
        self.grouper = Grouper()
        self._groups: dict[tuple[Namespace, str, str], _Group] = {}
        self._wants = Wants(reactor, peers)
        self._out: list[bytes] = []  # acknowledgements: at most one or two for each message that a member was given
        self._asking: dict[Membership, None] = {}
        self._turn: IDelayedCall | None = None
        self._ticking: IDelayedCall | None = None
        self._stopped = False
        link.add_listener(self)

    # -- IGroups

    def join(self, namespace: Namespace, group: str, filter_: str, member: IGroupMember) -> Deferred[IMembership]:
        return Deferred.fromCoroutine(self._join(namespace, group, filter_, member))

    async def _join(self, namespace: Namespace, group: str, filter_: str, member: IGroupMember) -> IMembership:
        if not self.link.up or self._stopped:
            raise BusUnavailable()
        key = (namespace, group, filter_)
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) >= MAX_GROUPS:
                raise BusUnavailable("too many groups share subscriptions on this node")
            found = self._groups[key] = _Group(self, namespace, group, filter_)
            self._wants.add((namespace, filter_))
            if self._ticking is None:
                self._ticking = self.reactor.callLater(_TICK_SECONDS, self._tick)
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

    @property
    def any(self) -> bool:
        return bool(self._wants)

    def wants(self, topic: Topic) -> bool:
        return self._wants.match(topic)

    def stop(self) -> None:
        """Tell every member that it is over, and give back what they hold."""
        self._stopped = True
        for group in list(self._groups.values()):
            group.end(BusUnavailable("the gateway is going away"))
        self._flush()
        self._wants.stop()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def forget(self, group: _Group) -> None:
        """Have nothing to do with a group any more, since it has no members here."""
        del self._groups[group.key]
        namespace, _, filter_ = group.key
        self._wants.discard((namespace, filter_))

    # -- what the link tells

    def link_up(self) -> None:
        self._wants.hello()
        for group in list(self._groups.values()):
            group.resume()
        self._flush()  # what was done while the link was down

    def link_down(self) -> None:
        for group in list(self._groups.values()):
            group.pause()

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


class _Group:
    """A group that has members on this node."""

    _log = Logger()

    def __init__(self, groups: LinkGroups, namespace: Namespace, group: str, filter_: str) -> None:
        self.groups = groups
        self.key = (namespace, group, filter_)
        digest = hashlib.blake2b(json.dumps([namespace.user, namespace.app, group, filter_]).encode(), digest_size=20)
        self.consumer = f"fg-group-{digest.hexdigest()}"
        self.members: dict[Membership, None] = {}
        self.standing = False  # the consumer is there, as far as we know
        self._sure = False  # the server has said so over this connection
        self._refusal = ""
        self._making: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    def ready(self) -> Deferred[None]:
        """Wait until the consumer stands.

        :raises BusUnavailable: through the Deferred, if it cannot be made now.
        """
        ready: Deferred[None] = Deferred(
            lambda deferred: self._waiting.remove(deferred) if deferred in self._waiting else None
        )
        if self._sure:
            ready.callback(None)
        else:
            self._waiting.append(ready)
            self._make()
        return ready

    def _make(self) -> None:
        if self._making is None:
            self._making = making = Deferred.fromCoroutine(self._create())
            making.addCallbacks(self._made, self._failed)

    async def _create(self) -> None:
        groups = self.groups
        namespace, group, filter_ = self.key
        config = {
            "name": self.consumer,
            "durable_name": self.consumer,
            "metadata": {"namespace": f"{namespace.user}/{namespace.app}", "group": group, "filter": filter_},
            # Acknowledged and, as far as they are stored, unacknowledged ones; the stream has no other subjects.
            "filter_subject": filter_subject("*", namespace, filter_),
            "deliver_policy": "new",
            "ack_policy": "explicit",
            "ack_wait": int(groups.ack_seconds * _SECOND),
            "max_deliver": -1,
            "max_ack_pending": _MAX_PENDING,
            "max_waiting": _MAX_WAITING,
            "inactive_threshold": int(groups.idle_seconds * _SECOND),
            "replay_policy": "instant",
        }
        body = json.dumps({"stream_name": groups.stream, "config": config, "action": ""}).encode()
        subject = f"$JS.API.CONSUMER.CREATE.{groups.stream}.{self.consumer}"
        answer = decode_json(await groups.link.request(subject, body))
        if "error" in answer:
            raise api_error(answer["error"])

    def _made(self, _: None) -> None:
        self._making = None
        stood, self.standing, self._sure, self._refusal = self.standing, True, True, ""
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)
        if not stood:
            for membership in list(self.members):
                membership.again()

    def _failed(self, failure: Failure) -> None:
        self._making = None
        error = failure.value
        if not isinstance(error, Refused):
            self._log.failure("a group cannot be made", failure)
        elif self.groups.link.up and str(error) != self._refusal:
            self._refusal = str(error)
            self._log.warn("a group cannot be made: {reason}", reason=self._refusal)
        reason = BusUnavailable(f"the subscription cannot be shared: {error}")
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.errback(reason)
        # Members of before stay: the next look tries again.

    def lost(self) -> None:
        """Somebody removed the consumer: make it again."""
        if self.standing:
            self.standing = self._sure = False
            self._log.info("the consumer of a group is gone and is made again")
            self._make()

    def pause(self) -> None:
        """The link is down."""
        self.standing = self._sure = False
        for membership in self.members:
            membership.pause()

    def resume(self) -> None:
        """The link is up again, and the consumer still there: if not, the first request says so."""
        self.standing = True
        for membership in list(self.members):
            membership.again()

    def look(self) -> None:
        """Once a second: see that everything goes on."""
        if self.standing:
            for membership in list(self.members):
                membership.look()
        else:
            self._make()

    def remove(self, membership: Membership) -> None:
        if membership in self.members:
            del self.members[membership]
            if not self.members:
                self.groups.forget(self)

    def end(self, reason: Refused) -> None:
        for membership in list(self.members):
            membership.end(reason)


@implementer(IMembership)
class Membership:
    """One member's place."""

    _log = Logger()

    def __init__(self, group: _Group, member: IGroupMember) -> None:
        self._group = group
        self._groups = group.groups
        self._member = member
        self._credit = 0  # messages that the member is ready for
        self._open = 0  # messages that the open request may still bring
        self._number = 0  # of the last request
        self._heard = 0.0
        self._held: dict[str, float] = {}  # what is given and not done, with the last sign of life; the oldest first
        self._token = ""
        self._subscription = b""

    def begin(self) -> None:
        """Take part from now on."""
        link = self._groups.link
        self._token = link.token()
        # Beside the inbox: messages come under the subject on which they were published.
        self._subscription = link.subscribe(f"{link.inbox}-.{self._token}.*", self._delivered)

    # -- IMembership

    def ask(self, count: int) -> None:
        if self._token:
            self._credit += count
            if not self._open:
                self._groups.ask(self)

    def done(self, handles: Sequence[str]) -> None:
        for handle in handles:
            if self._held.pop(handle, None) is not None:
                self._groups.say(handle)

    def leave(self) -> None:
        token, self._token = self._token, ""
        if token:
            # First of all, or what is given back could come again.
            self._groups.link.drain(self._subscription)
        held, self._held = self._held, {}
        for handle in held:
            self._groups.say(handle, b"-NAK")
        self._group.remove(self)

    def end(self, reason: Refused) -> None:
        """Leave, and tell the member."""
        begun = bool(self._token)
        self.leave()
        if begun:
            try:
                self._member.lost(reason)
            except Exception:
                self._log.failure("a member of a group failed")

    # -- requests

    def request(self, out: list[bytes]) -> None:
        """Write a request, if the member is ready for messages and none is open."""
        if not self._token or self._open or not self._credit or not self._group.standing:
            return
        groups, link = self._groups, self._groups.link
        self._open = min(self._credit, MAX_BATCH)
        self._number += 1
        self._heard = groups.reactor.seconds()
        size = max(_BATCH_BYTES, 2 * link.info.get("max_payload", 0))
        body = b'{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}' % (
            self._open,
            size,
            _REQUEST_SECONDS * _SECOND,
            _HEARTBEAT_SECONDS * _SECOND,
        )
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{groups.stream}.{self._group.consumer}"
        out.append(wire.publish(subject.encode(), body, f"{link.inbox}-.{self._token}.{self._number}".encode()))

    def again(self) -> None:
        """Make a new request: the one before is void."""
        self._open = 0
        if self._credit:
            self._groups.ask(self)

    def pause(self) -> None:
        """There is no connection: nothing comes by the open request any more."""
        self._open = 0

    def look(self) -> None:
        """Once a second: keep what is held, and see that the request is still there."""
        groups = self._groups
        now = groups.reactor.seconds()
        while self._held:
            handle = next(iter(self._held))
            if now - self._held[handle] < groups.ack_seconds / 3:
                break
            del self._held[handle]
            self._held[handle] = now
            groups.say(handle, b"+WPI")
        if not self._open or now - self._heard > 2.5 * _HEARTBEAT_SECONDS:
            self.again()

    # -- messages

    def _delivered(self, messages: list[Message]) -> None:
        groups = self._groups
        now = self._heard = groups.reactor.seconds()
        data: list[Message] = []
        for message in messages:
            head = message[3]
            status = wire.status(head) if head else 0
            if not status:
                data.append(message)
            elif status != 100:  # a heartbeat
                self._request_ended(status, message)
        self._open = max(0, self._open - len(data))
        taken = min(len(data), self._credit) if self._token else 0
        for message in data[taken:]:
            # It left meanwhile, or a request that was given up for lost was not.
            groups.say(message[2].decode(), b"-NAK")
        self._credit -= taken
        if taken:
            del data[taken:]
            handles = [message[2].decode() for message in data]
            self._held.update(dict.fromkeys(handles, now))
            self._give(data, handles)
            if not self._open and self._credit:
                groups.ask(self)

    def _give(self, data: list[Message], handles: list[str]) -> None:
        try:
            runs = self._groups.grouper.stored(data, consumed_at, delivered_subject)
        except ProtocolViolation as violation:
            # Somebody else writes into our stream; the next member could not read it either.
            self._log.error("messages of a group cannot be read and are dropped: {why}", why=str(violation))
            for handle in handles:
                if self._held.pop(handle, None) is not None:
                    self._groups.say(handle, b"+TERM")
            return
        start = 0
        try:
            for run in runs:
                if not self._token:
                    return  # it left while it was given the run before
                self._member.take(run, handles[start : start + run.count])
                start += run.count
        except Exception:
            # One member's fault must not cost the others their messages.
            self._log.failure("a member of a group failed")
            self.end(BusUnavailable("the member failed"))

    def _request_ended(self, status: int, message: Message) -> None:
        """What the server says instead of messages."""
        if not self._token or message[1].rpartition(b".")[2] != b"%d" % self._number:
            return  # an older request
        self._open = 0
        line = message[3].partition(b"\r\n")[0]
        if status == 503 or b"Consumer Deleted" in line:
            self._group.lost()
        elif status != 409 or b"MaxBytes" in line or b"Batch Completed" in line:
            self.again()  # it came to its end
        else:
            self._log.debug("a request of a group is refused: {line!r}", line=line)  # the next look makes another
