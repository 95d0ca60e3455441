"""Messages and groups as a queue's state machine holds them, and what it says of them.

Messages have *places*: the sequence of their entry, and which of its messages they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import attrs


class State(IntEnum):
    """Where a message is."""

    VISIBLE = 0
    DELAYED = 1
    FLIGHT = 2
    MOVING = 3
    """Received too often: on its way to the dead-letter queue."""


HIDDEN: Final = (State.DELAYED, State.FLIGHT)
"""The states of messages that become visible by themselves."""


class Message:
    """A message in a queue; its body is in the log, at its place.

    :ivar sent: when it was stored; all times are nanoseconds since 1970 UTC.
    :ivar turn: since when it is visible, or from when on it will be.
    :ivar receives: how often it was handed out.
    :ivar first: when it was first received; 0 for never.
    :ivar taken: when it was received last; 0 for never.
    :ivar size: of body and attributes, in bytes.
    """

    __slots__ = ("first", "group", "place", "receives", "sent", "size", "state", "taken", "turn")

    def __init__(self, place: int, sent: int, turn: int, size: int, group: Group) -> None:
        self.place = place
        self.sent = sent
        self.turn = turn
        self.size = size
        self.group = group
        self.receives = 0
        self.first = 0
        self.taken = 0
        self.state = State.VISIBLE


class Group:
    """The messages of one group of a queue; those without a group are one too.

    :ivar served: when the group was last served, or where it began: the one that waits for the longest comes first.
        In the measure of places, so that a group that was never served needs no record of its own.
    :ivar began: the place of the message with which it began.
    :ivar line: its visible messages, as a heap.
    """

    __slots__ = ("began", "count", "in_flight", "key", "line", "served", "visible", "waiting")

    def __init__(self, key: str, began: int) -> None:
        self.key = key
        self.began = self.served = began
        self.line: list[tuple[int, int]] = []
        self.count = 0
        self.visible = 0
        self.in_flight = 0
        self.waiting = False


@attrs.frozen(slots=True)
class Grant:
    """A message that a receive was given.

    :ivar number: which receive of the message this is, from 1.
    """

    place: int
    number: int
    sent: int
    first: int
    group: str


@attrs.frozen(slots=True)
class Accepted:
    """What became of a send: its place, or that of the message which it repeats.

    :ivar id: the id of the message that it repeats.
    """

    place: int
    id: str | None = None


@attrs.frozen(slots=True)
class Handout:
    """What a receive brought.

    :ivar moving: messages that were received too often: they have to be moved to the dead-letter queue.
    :ivar full: whether as many messages are in flight as may be.
    """

    grants: Sequence[Grant] = ()
    moving: Sequence[Grant] = ()
    full: bool = False


class UnknownCommands(Exception):
    """Some commands of an entry were not carried out, because this version does not know them; the others were."""


class Done(IntEnum):
    """What became of a wish that concerns one message."""

    DONE = 0
    GONE = 1
    """The message is not there any more."""
    EXPIRED = 2
    """FIFO: the receive that it refers to is over."""


def place_of(sequence: int, index: int) -> int:
    """The place of a message."""
    return sequence << 10 | index


def entry_of(place: int) -> tuple[int, int]:
    """The entry's sequence and the message's index in it."""
    return place >> 10, place & 1023
