"""Writing retained messages: on every topic the last one wins, whichever node it came through.

What is last is decided by history: each write carries the *place* that its message has there, and names the sequence
of the write that it replaces.  If another node has written meanwhile the server refuses; then the topic is looked up,
and the message is written once more or, if what is there now is later in history, not at all.  So a repetition of an
old message, or the slower one of two nodes, undoes nothing.  A message without a place (QoS 0) replaces whatever is
there, and takes over its place.

Of one topic only the newest message that waits is written: the others would be replaced at once.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import deque
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.bus import wire
from flowgate.bus.link import Link, decode_json
from flowgate.bus.stream import StreamSettings, ensure_stream
from flowgate.bus.warnings import Warnings
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, InvalidParameter, MessageTooLarge, ProtocolViolation, Refused, StartError
from flowgate.gate import Gate
from flowgate.message import Cursor

PUTS_AT_ONCE = 1024
"""Topics that are written at the same time."""
MAX_PUTS = 65_536
"""Puts that may wait for their answer; more are refused."""
MAX_BYTES = 32 * 1024 * 1024
"""Bytes of payload that may wait; more are refused."""

REMOVED_SECONDS = 600
"""How long a removal is remembered: longer than a message can be repeated under the same id."""

PLACE: Final = b"Flowgate-Place"
QOS: Final = b"Flowgate-QoS"

_REMEMBERED = 32_768  # topics whose last write is known; the oldest one is forgotten first
_ANSWER_SECONDS = 5.0
_HEADER_ROOM = 1024  # what the headers of one message may take of the server's max_payload
_WRONG_LAST = (10071, 10164)  # not replaced: somebody else has written, or is writing
_NO_MESSAGE = 10037
_NO_STREAM = 10059


def place_of(head: bytes) -> Cursor | None:
    """The place that the headers of a retained message tell."""
    text = wire.header(head, PLACE)
    try:
        return Cursor.parse(text.decode()) if text else None
    except (InvalidParameter, UnicodeDecodeError):
        return None  # written by somebody else


def _later(place: Cursor, than: Cursor | None) -> bool:
    """Whether a place is later than another one; what the stream held before it was made anew is earlier."""
    return than is None or place.epoch != than.epoch or place.sequence > than.sequence


class Presence:
    """The stream, made when it is needed first, and again whenever it is missed.

    :ivar there: whether it was there when it was last heard of.
    """

    _log = Logger()

    def __init__(self, link: Link, settings: StreamSettings) -> None:
        self._link = link
        self._settings = settings
        self._making = Gate()
        self.there = False

    async def ensure(self) -> None:
        """Make the stream if that was not done yet.

        :raises BusUnavailable: if it cannot be made now.
        """
        if not self.there:
            await self._making.run(lambda: Deferred.fromCoroutine(self._make()))

    async def _make(self) -> None:
        if self.there:
            return  # somebody before did it
        try:
            await ensure_stream(self._link, self._settings)
        except StartError as error:
            self._log.error("{error}", error=error)
            raise BusUnavailable(str(error)) from None
        self.there = True


@attrs.define(slots=True, eq=False)
class _Wish:
    """What is to be kept of a topic.

    :ivar place: where history has it, or, if it has no place of its own, a place that it is later than.
    :ivar own: whether the place is its own.
    :ivar waiting: whom to tell.
    """

    payload: bytes = attrs.field(repr=False)
    qos: int
    ttl: int | None
    place: Cursor | None
    own: bool
    waiting: list[Deferred[None]]

    def followed_by(self, other: _Wish) -> _Wish:
        """The one of two wishes that is left if the other one comes behind this one."""
        if other.own and other.place is not None and not _later(other.place, self.place):
            self.waiting += other.waiting
            return self
        if other.place is None:
            other.place = self.place
        other.waiting = self.waiting + other.waiting
        return other

    @property
    def head(self) -> list[tuple[str, str]]:
        headers = [] if not self.qos else [(QOS.decode(), str(self.qos))]
        if not self.payload:
            headers.append(("Nats-TTL", str(REMOVED_SECONDS)))
        elif self.ttl is not None:
            headers.append(("Nats-TTL", str(self.ttl)))
        return headers


@attrs.define(slots=True, eq=False)
class _Topic:
    """A topic that is being written.

    :ivar wish: what is written now, or as soon as there is room.
    :ivar next: what is written after that.
    :ivar taken: whether ``wish`` cannot be exchanged for another one any more.
    :ivar deadline: when ``wish`` has taken too long, in the reactor's seconds.
    :ivar place: what the write under way says of the message's place.
    :ivar missed: whether the stream was not there once already.
    """

    subject: bytes
    wish: _Wish
    next: _Wish | None = None
    taken: bool = False
    deadline: float = 0.0
    place: Cursor | None = None
    missed: bool = False


class Keeper:
    """Writes retained messages."""

    _log = Logger()

    def __init__(self, reactor: Any, link: Link, stream: str, presence: Presence) -> None:
        """Be ready to write.

        :param reactor: IReactorTime.
        :param stream: the name of the stream.
        """
        self._reactor = reactor
        self._link = link
        self._stream = stream
        self._presence = presence
        self._topics: dict[bytes, _Topic] = {}
        self._queue: deque[_Topic] = deque()
        self._under_way: dict[bytes, _Topic] = {}
        self._looking = 0
        self._known: dict[bytes, tuple[int, Cursor | None]] = {}
        self._puts = 0
        self._bytes = 0
        self._number = 0
        self._inbox = ""
        self._opening = False
        self._turn: IDelayedCall | None = None
        self._watch: IDelayedCall | None = None
        self._warnings = Warnings(self._log, reactor)

    # -- taking

    def put(self, subject: bytes, payload: bytes, qos: int, ttl: int | None, place: Cursor | None) -> Deferred[None]:
        """Keep a message; see :meth:`IRetained.put`."""
        refusal = self._refusal(len(payload))
        if refusal is not None:
            return fail(refusal)
        if not self._inbox:
            self._inbox = self._link.token()
            self._link.open_inbox(self._inbox, self._answered, self._lost)
        kept: Deferred[None] = Deferred()
        wish = _Wish(payload, qos, ttl, place, place is not None, [kept])
        self._puts += 1
        self._bytes += len(payload)
        topic = self._topics.get(subject)
        if topic is None:
            topic = self._topics[subject] = _Topic(subject, wish)
            self._queue.append(topic)
        elif not topic.taken:
            topic.wish = self._merged(topic.wish, wish)
        elif topic.next is None:
            topic.next = wish
        else:
            topic.next = self._merged(topic.next, wish)
        if self._turn is None and not self._opening:
            if self._under_way or self._looking:
                # While anything is under way, what a turn brings goes together.
                self._turn = self._reactor.callLater(0, self._turn_ended)
            else:
                self._send()
        return kept

    def _refusal(self, size: int) -> Refused | None:
        if not self._link.up:
            return BusUnavailable()
        most = int(self._link.info.get("max_payload", 1024 * 1024)) - _HEADER_ROOM
        if size > most:
            return MessageTooLarge(f"the message bus takes at most {most} bytes")
        if self._puts >= MAX_PUTS or self._bytes >= MAX_BYTES:
            return BusUnavailable("too many retained messages wait for the message bus")
        return None

    def _merged(self, wish: _Wish, other: _Wish) -> _Wish:
        left = wish.followed_by(other)
        self._bytes -= len((wish if left is other else other).payload)
        return left

    # -- writing

    def _turn_ended(self) -> None:
        self._turn = None
        self._send()
        self._link.settled()

    def _send(self) -> None:
        """Write as much as there is room for."""
        if not self._queue or self._opening or not self._link.up:
            return  # without a link, what is queued is about to be told so
        if not self._presence.there:
            self._opening = True
            opened = Deferred.fromCoroutine(self._presence.ensure())
            opened.addCallbacks(self._opened, self._not_opened)
            return
        parts: list[bytes] = []
        outdone: list[_Topic] = []
        while self._queue and len(self._under_way) + self._looking < PUTS_AT_ONCE:
            topic = self._queue.popleft()
            sequence, place = self._known.get(topic.subject, (0, None))
            wish = topic.wish
            topic.taken = True
            if wish.own and wish.place is not None and not _later(wish.place, place):
                outdone.append(topic)
            else:
                parts.append(self._write(topic, wish, sequence, place))
        if parts:
            if self._watch is None:
                self._watch = self._reactor.callLater(1.0, self._look)
            self._link.write(b"".join(parts))
        for topic in outdone:
            self._settle(topic)

    def _write(self, topic: _Topic, wish: _Wish, sequence: int, place: Cursor | None) -> bytes:
        """One write that replaces the one with ``sequence``, or nothing if that is 0."""
        if not topic.deadline:
            topic.deadline = self._reactor.seconds() + _ANSWER_SECONDS
        topic.place = place if wish.place is None or (not wish.own and not _later(wish.place, place)) else wish.place
        head = [*wish.head, ("Nats-Expected-Last-Subject-Sequence", str(sequence))]
        if topic.place is not None:
            head.append((PLACE.decode(), str(topic.place)))
        self._number += 1
        number = b"%d" % self._number
        self._under_way[number] = topic
        reply = f"{self._link.inbox}.{self._inbox}.{self._number}".encode()
        return wire.publish(topic.subject, wish.payload, reply, wire.headers(head))

    def _again(self, topic: _Topic) -> None:
        """Write a topic once more, unless its time is over."""
        if self._reactor.seconds() < topic.deadline:
            self._queue.appendleft(topic)
        else:
            self._settle(topic, BusUnavailable("a retained message could not be stored in time"))

    def _missed(self, topic: _Topic) -> None:
        """The stream is not there: make it and write once more, but not for ever."""
        self._presence.there = False
        if topic.missed:
            self._settle(topic, BusUnavailable("the stream of retained messages is not available"))
        else:
            topic.missed = True
            self._again(topic)

    def _opened(self, _: None) -> None:
        self._opening = False
        self._send()

    def _not_opened(self, failure: Failure) -> None:
        self._opening = False
        reason = failure.value
        if not isinstance(reason, BusUnavailable):
            self._log.failure("the stream of retained messages cannot be made", failure)
            reason = BusUnavailable()
        queue, self._queue = self._queue, deque()
        for topic in queue:
            self._end(topic, reason)

    # -- answers

    def _answered(self, messages: list[Message]) -> None:
        for message in messages:
            topic = self._under_way.pop(message[1].rpartition(b".")[2], None)
            if topic is not None:  # else it took too long
                self._answer(topic, message)
        self._send()

    def _answer(self, topic: _Topic, message: Message) -> None:
        if wire.status(message[3]) == 503:
            self._missed(topic)
            return
        answer = json.loads(message[4])
        error = answer.get("error")
        if error is None:
            self._remember(topic.subject, int(answer["seq"]), topic.place)
            self._settle(topic)
        elif error.get("err_code") in _WRONG_LAST:
            self._looking += 1
            Deferred.fromCoroutine(self._look_up(topic)).addErrback(self._broken, topic)
        else:
            self._warnings.warn("a retained message was not stored: {detail}", str(error.get("description")))
            self._settle(topic, BusUnavailable())

    async def _look_up(self, topic: _Topic) -> None:
        """Find out what is there, and try again."""
        body = json.dumps({"last_by_subj": topic.subject.decode()}).encode()
        try:
            answer = decode_json(await self._link.request(f"$JS.API.STREAM.MSG.GET.{self._stream}", body))
        finally:
            self._looking -= 1
        found = answer.get("message")
        if found is not None:
            self._remember(topic.subject, int(found["seq"]), place_of(base64.b64decode(found.get("hdrs", ""))))
        else:
            error = answer.get("error", {}).get("err_code")
            if error not in (_NO_MESSAGE, _NO_STREAM):
                raise BusUnavailable("a retained message cannot be looked up")
            # It has gone by its age, and what came before it in history stays gone.
            self._remember(topic.subject, 0, self._known.get(topic.subject, (0, None))[1])
        self._again(topic)
        self._send()

    def _broken(self, failure: Failure, topic: _Topic) -> None:
        """A look-up failed."""
        reason = failure.value
        if not isinstance(reason, BusUnavailable):
            if not isinstance(reason, ProtocolViolation | binascii.Error):
                self._log.failure("looking up a retained message failed", failure)
            reason = BusUnavailable("a retained message cannot be looked up")
        self._settle(topic, reason)
        self._send()

    def _remember(self, subject: bytes, sequence: int, place: Cursor | None) -> None:
        self._known.pop(subject, None)
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[subject] = sequence, place

    def _settle(self, topic: _Topic, refusal: Refused | None = None) -> None:
        """A topic's wish has come true, or will not; go on with the next one."""
        wish = topic.wish
        if topic.next is None:
            del self._topics[topic.subject]
        else:
            topic.wish, topic.next = topic.next, None
            topic.taken, topic.deadline, topic.missed = False, 0.0, False
            self._queue.append(topic)
        self._tell(wish, refusal)

    def _tell(self, wish: _Wish, refusal: Refused | None) -> None:
        self._puts -= len(wish.waiting)
        self._bytes -= len(wish.payload)
        for kept in wish.waiting:
            if refusal is None:
                kept.callback(None)
            else:
                kept.errback(refusal)

    def _end(self, topic: _Topic, refusal: Refused) -> None:
        """Nothing that is wished for a topic will come true."""
        del self._topics[topic.subject]
        self._tell(topic.wish, refusal)
        if topic.next is not None:
            self._tell(topic.next, refusal)

    def _lost(self) -> None:
        """The link is down: whatever has no answer yet gets none."""
        self._link.close_inbox(self._inbox)
        self._inbox = ""
        for call in (self._turn, self._watch):
            if call is not None and call.active():
                call.cancel()
        self._turn = self._watch = None
        ended = [*self._under_way.values(), *self._queue]  # what is being looked up has its own request
        self._under_way.clear()
        self._queue.clear()
        away = BusUnavailable()
        for topic in ended:
            self._end(topic, away)
        self._link.settled()

    def _look(self) -> None:
        """Once a second while anything is under way: end what has waited too long."""
        self._watch = None
        now = self._reactor.seconds()
        late = [number for number, topic in self._under_way.items() if topic.deadline <= now]
        for number in late:
            topic = self._under_way.pop(number, None)
            if topic is not None:
                self._settle(topic, BusUnavailable("the message bus does not answer in time"))
        self._send()
        if late:
            self._link.settled()
        if self._watch is None and self._under_way:
            self._watch = self._reactor.callLater(1.0, self._look)
