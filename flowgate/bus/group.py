"""A group that shares a subscription, as one node sees it, and the places of its members."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.bus import wire
from flowgate.bus.grouping import consumed_at, delivered_subject
from flowgate.bus.holding import Held, Progress
from flowgate.bus.names import filter_subject
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, NotFound, ProtocolViolation, Refused
from flowgate.interfaces import IGroupMember, IMembership
from flowgate.topics import Namespace

if TYPE_CHECKING:
    from flowgate.bus.groups import LinkGroups

MAX_BATCH: Final = 1_000
"""Messages that one request asks for; a member that wants more asks again."""

_MAX_PENDING: Final = 10_000  # messages of a group that members may hold, all nodes together; more wait in the stream
_DURABLE_PENDING: Final = 5_000  # of a durable group
_MAX_WAITING: Final = 10_000  # requests, so members; a member beyond that tries again each second
_BATCH_BYTES: Final = 8 * 1024 * 1024  # a request ends before it brings more
_REQUEST_SECONDS: Final = 120
_HEARTBEAT_SECONDS: Final = 5
_DURABLE_ACK_SECONDS: Final = 5.0  # at most: the longer it takes, the more of history may be gone by then
_DURABLE_IDLE_SECONDS: Final = 365 * 24 * 3600.0  # what nobody has removed, since all died, ends at last
_SECOND: Final = 1_000_000_000

Key: TypeAlias = tuple[Namespace, str, str, bool]
"""Namespace, name, filter, and whether the group is durable."""


def consumer_name(key: Key) -> str:
    """The name of a group's consumer: the kinds are apart, so that no client joins what is not for clients."""
    namespace, group, filter_, durable = key
    digest = hashlib.blake2b(json.dumps([namespace.user, namespace.app, group, filter_]).encode(), digest_size=20)
    return f"fg-{'durable' if durable else 'group'}-{digest.hexdigest()}"


class Group:
    """A group that has members on this node."""

    _log = Logger()

    def __init__(self, groups: LinkGroups, key: Key, ordered: bool) -> None:
        self.groups = groups
        self.key = key
        self.consumer = consumer_name(key)
        self.durable = key[3]
        self.ack_seconds = min(groups.ack_seconds, _DURABLE_ACK_SECONDS) if self.durable else groups.ack_seconds
        self._ordered = ordered
        self.held: Held | None = None
        self.members: dict[Membership, None] = {}
        self.standing = False  # the consumer is there, as far as we know
        self.created = ""  # when the server says that it was made
        self.over = False  # it is being removed, by us
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

    def made(self) -> Deferred[None]:
        """Wait until the making that is under way is over, whatever becomes of it."""
        if self._making is None:
            return succeed(None)
        over: Deferred[None] = Deferred(lambda one: self._waiting.remove(one) if one in self._waiting else None)
        self._waiting.append(over)
        return over.addErrback(lambda _: None)

    def _make(self) -> None:
        if self._making is None and not self.over:
            self._making = making = Deferred.fromCoroutine(self._create())
            making.addCallbacks(self._made, self._failed)

    async def _create(self) -> None:
        groups = self.groups
        namespace, group, filter_, durable = self.key
        idle_seconds = _DURABLE_IDLE_SECONDS if durable else groups.idle_seconds
        config = {
            "name": self.consumer,
            "durable_name": self.consumer,
            "metadata": {"namespace": f"{namespace.user}/{namespace.app}", "group": group, "filter": filter_},
            # Acknowledged and, as far as they are stored, unacknowledged ones; the stream has no other subjects.
            "filter_subject": filter_subject("*", namespace, filter_),
            "deliver_policy": "new",
            "ack_policy": "explicit",
            "ack_wait": int(self.ack_seconds * _SECOND),
            "max_deliver": -1,
            "max_ack_pending": 1 if self._ordered else _DURABLE_PENDING if durable else _MAX_PENDING,
            "max_waiting": _MAX_WAITING,
            "inactive_threshold": int(idle_seconds * _SECOND),
            "replay_policy": "instant",
        }
        body = json.dumps({"stream_name": groups.stream, "config": config, "action": ""}).encode()
        answer = await groups.api(f"CREATE.{groups.stream}.{self.consumer}", body)
        self.created = str(answer.get("created", ""))

    def progress(self) -> Deferred[Progress]:
        """How far the group is, on all nodes together."""
        return Deferred.fromCoroutine(self._progress())

    async def _progress(self) -> Progress:
        info = await self.groups.api(f"INFO.{self.groups.stream}.{self.consumer}")
        if not info:
            raise NotFound("the consumer is gone")
        done = int(info["ack_floor"]["consumer_seq"])
        return Progress(int(info["num_pending"]) + int(info["delivered"]["consumer_seq"]) - done, done)

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
        """Somebody removed the consumer: make it again.

        A durable one is removed on purpose, as a rule, and then the members here leave in a moment: so later.
        """
        if self.standing:
            self.standing = self._sure = False
            if not self.durable:
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
                self.groups.left(self)

    def end(self, reason: Refused) -> None:
        for membership in list(self.members):
            membership.end(reason)


@implementer(IMembership)
class Membership:
    """One member's place."""

    _log = Logger()

    def __init__(self, group: Group, member: IGroupMember) -> None:
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
            if now - self._held[handle] < self._group.ack_seconds / 3:
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
