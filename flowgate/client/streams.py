"""The subscriptions of one client: what they have seen, what waits in them for its reader, and when they are asked for.

A buffer that is full stops the reading of the connection.  Answers and messages of other subscriptions stand behind
what is not read then; so if one of those is awaited, the full subscription is given up instead, and asked for again,
behind what it has, once its reader has made room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from weakref import ref

from flowgate.client.actions import Link
from flowgate.client.refusals import final
from flowgate.client.values import Gap, Message
from flowgate.errors import Conflict, Refused
from flowgate.message import Cursor
from flowgate.topics import check_filter, matches


class State(Enum):
    """Where a subscription stands with the gateway."""

    WANTED = "it is to be asked for"
    ASKED = "it was asked for on this connection"
    HELD = "the gateway has acknowledged it"
    SHED = "it was given up until there is room again"
    ENDED = "no more comes"


class Stream:
    """One subscription.

    :ivar filter: as it was asked for.
    :ivar since: the cursor behind which it goes on; ``None`` to begin with what is new.
    :ivar bound: how many items may wait, but for the rest of what was read at once.
    :ivar items: what its reader has not taken yet, in order.
    :ivar error: why it ended; ``None`` if its reader has ended it, or the client was closed.
    :ivar wake: called once there is something to take, or its state has changed.
    """

    def __init__(self, filter_: str, since: str | None, bound: int, owner: ref[object] | None = None) -> None:
        self.filter = filter_
        self.since = since
        self.bound = bound
        self.items: deque[Message | Gap] = deque()
        self.state = State.WANTED
        self.error: Exception | None = None
        self.wake: Callable[[], None] | None = None
        self._owner = owner

    @property
    def full(self) -> bool:
        return len(self.items) >= self.bound

    @property
    def roomy(self) -> bool:
        return len(self.items) <= self.bound // 2

    @property
    def abandoned(self) -> bool:
        """Whether whoever would read it is gone."""
        return self._owner is not None and self._owner() is None

    def advance(self, cursor: str) -> bool:
        """Go on behind ``cursor``; ``False`` if that place was passed before.

        :raises InvalidParameter: if it is no cursor.
        """
        place = Cursor.parse(cursor)
        if self.since is not None and self.since != "earliest":
            last = Cursor.parse(self.since)
            if last.epoch == place.epoch and place.sequence <= last.sequence:
                return False
        self.since = cursor
        return True


class Streams:
    """All of them; no two can be given the same message, since a message does not say which one it is for."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._exact: dict[str, Stream] = {}
        self._wild: dict[str, Stream] = {}
        self._full: set[Stream] = set()
        self._leaving: dict[int, str] = {}

    def __iter__(self) -> Iterator[Stream]:
        yield from [*self._exact.values(), *self._wild.values()]

    @property
    def full(self) -> bool:
        """Whether the connection is not to be read, since a subscription has no room."""
        return bool(self._full)

    def add(self, stream: Stream) -> None:
        """Begin a subscription.

        :raises InvalidTopic: if its filter is none.
        :raises InvalidParameter: if what it begins behind is no cursor.
        :raises Conflict: if it shares topics with another one.
        """
        check_filter(stream.filter)
        if stream.since is not None and stream.since != "earliest":
            Cursor.parse(stream.since)
        for other in self:
            if other.abandoned:
                self.unsubscribe(other)
            elif overlap(other.filter, stream.filter):
                raise Conflict(
                    f"{stream.filter!r} has topics in common with {other.filter!r}, to which this client is subscribed:"
                    " use another client for one of them"
                )
        self._of(stream)[stream.filter] = stream
        self._ask_for(stream)

    def _of(self, stream: Stream) -> dict[str, Stream]:
        return self._wild if "+" in stream.filter or "#" in stream.filter else self._exact

    def _named(self, filter_: object) -> Stream | None:
        return (self._exact.get(filter_) or self._wild.get(filter_)) if isinstance(filter_, str) else None

    def _match(self, topic: str) -> Stream | None:
        found = self._exact.get(topic)
        if found is not None:
            return found
        return next((stream for stream in self._wild.values() if matches(stream.filter, topic)), None)

    # -- asking

    def ask(self) -> None:
        """Ask for all that is wanted."""
        for stream in self:
            if stream.state is State.WANTED:
                self._ask_for(stream)

    def _ask_for(self, stream: Stream) -> None:
        # Messages of a subscription that is not ended yet could be taken for those of this one.
        if not self._link.is_open or any(overlap(stream.filter, filter_) for filter_ in self._leaving.values()):
            return
        frame: dict[str, object] = {"action": "subscribe", "topic": stream.filter, "meta": True}
        if stream.since is not None:
            frame["since"] = stream.since
        stream.state = State.ASKED

        def answered(frame: Mapping[str, object], refusal: Refused | None, now: float) -> None:
            if stream.state is not State.ASKED:
                return
            if refusal is not None:
                self._not_held(stream, refusal, now)
                return
            stream.state = State.HELD
            if "cursor" in frame:
                stream.advance(str(frame["cursor"]))
            self._woken(stream)

        self._link.ask(frame, answered)

    def _not_held(self, stream: Stream, refusal: Refused, now: float) -> None:
        if final(refusal.status):
            self._end(stream, refusal)
        else:
            self._full.discard(stream)
            stream.state = State.SHED if stream.full else State.WANTED
            self._link.retry(refusal, now)

    def lost(self, filter_: object, refusal: Refused, now: float) -> None:
        """A subscription has ended by itself."""
        stream = self._named(filter_)
        if stream is not None and stream.state in (State.ASKED, State.HELD):
            self._not_held(stream, refusal, now)

    def disconnected(self) -> None:
        """There is no connection any more: all have to be asked for again."""
        self._full.clear()
        self._leaving.clear()
        for stream in self:
            stream.state = State.SHED if stream.full else State.WANTED

    # -- ending

    def unsubscribe(self, stream: Stream) -> None:
        """End a subscription; what it still holds is dropped."""
        if stream.state is not State.ENDED:
            if stream.state in (State.ASKED, State.HELD):
                self._leave(stream)
            stream.items.clear()
            self._end(stream, None)

    def _leave(self, stream: Stream) -> None:
        def left(frame: Mapping[str, object], refusal: Refused | None, now: float) -> None:
            del self._leaving[number]
            self.ask()

        number = self._link.ask({"action": "unsubscribe", "topic": stream.filter}, left)
        self._leaving[number] = stream.filter

    def _end(self, stream: Stream, error: Exception | None) -> None:
        stream.state = State.ENDED
        stream.error = error
        self._full.discard(stream)
        if self._of(stream).get(stream.filter) is stream:
            del self._of(stream)[stream.filter]
        self._woken(stream)

    def end(self, error: Exception | None) -> None:
        """End all; their readers take first what is there."""
        for stream in self:
            self._end(stream, error)

    def _woken(self, stream: Stream) -> None:
        wake, stream.wake = stream.wake, None
        if wake is not None:
            self._link.tell(lambda _: wake())

    # -- messages

    def put(self, message: Message) -> None:
        """Take a message from the gateway."""
        stream = self._match(message.topic)
        if stream is None or stream.state not in (State.ASKED, State.HELD):
            return  # it was under way when the subscription was given up
        if stream.abandoned:
            self.unsubscribe(stream)
        elif message.id is None or stream.advance(message.id):
            self._append(stream, message)

    def gap(self, filter_: object, oldest: str) -> None:
        """History is whole only from ``oldest`` on, which may lie before what was seen."""
        stream = self._named(filter_)
        if stream is not None and stream.state in (State.ASKED, State.HELD):
            stream.since = str(Cursor.parse(oldest))
            self._append(stream, Gap(stream.filter, oldest))

    def _append(self, stream: Stream, item: Message | Gap) -> None:
        stream.items.append(item)
        if stream.full:
            self._full.add(stream)
        self._woken(stream)

    def take(self, stream: Stream) -> Message | Gap:
        """The next item of a subscription that has one."""
        item = stream.items.popleft()
        if stream.roomy:
            self._full.discard(stream)
            if stream.state is State.SHED:
                stream.state = State.WANTED
                self._ask_for(stream)
        return item

    def shed(self, awaited: bool) -> None:
        """Give up what is full, if something else is awaited.

        :param awaited: whether something is that is no subscription's.
        """
        if self._full and self._link.is_open:
            others = (stream for stream in self if not stream.full)
            if awaited or any(stream.wake is not None or stream.state is State.ASKED for stream in others):
                for stream in self._full:
                    if stream.state in (State.ASKED, State.HELD):
                        stream.state = State.SHED
                        self._leave(stream)
                self._full.clear()


def overlap(one: str, other: str) -> bool:
    """Whether a topic can match both filters; one that begins with ``$`` is treated like any other."""
    first, second = one.split("/"), other.split("/")
    for index in range(max(len(first), len(second))):
        here = first[index] if index < len(first) else None
        there = second[index] if index < len(second) else None
        if here == "#" or there == "#":
            return True  # "#" takes in its parent as well, where the other one may have ended
        if here is None or there is None:
            return False
        if here != there and "+" not in (here, there):
            return False
    return True
