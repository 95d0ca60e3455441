"""What a client is given: messages, the word that one is stored, and what can go wrong on its own side."""

from __future__ import annotations

import attrs


@attrs.frozen(slots=True)
class Message:
    """One message of a subscription.

    :ivar topic: where it was published, in the form (short or full) of the subscription's filter.
    :ivar data: the JSON value; ``bytes`` if the payload is not UTF-8.
    :ivar id: its cursor, to come back with as ``since``; ``None`` if history does not hold it.
    :ivar ts: when it was stored, in RFC 3339 and UTC; ``None`` if history does not hold it.
    """

    topic: str
    data: object
    id: str | None = None
    ts: str | None = None


@attrs.frozen(slots=True)
class Published:
    """The gateway's word that a message is stored.

    :ivar id: its cursor.
    :ivar topic: as it was given.
    :ivar duplicate: whether the caller's ``key`` had been used for it before; an attempt of this call whose answer was
        lost counts too.
    """

    id: str
    topic: str
    duplicate: bool = False


class Gap(Exception):
    """History does not hold all that the subscription has missed.

    The subscription goes on: what is read next is what history still holds.

    :ivar filter: of the subscription.
    :ivar oldest: the cursor from which on nothing is missing.
    """

    def __init__(self, filter_: str, oldest: str) -> None:
        super().__init__(f"messages on {filter_!r} before {oldest} may be missing")
        self.filter = filter_
        self.oldest = oldest


class Unreachable(ConnectionError):
    """No gateway answers; the text says where and why."""


class Closed(Exception):
    """The client was closed before the answer came; a message under way may or may not be stored."""


class Full(Exception):
    """As many messages as may be under way are not acknowledged yet."""


class Unconfirmed(Exception):
    """A message may or may not be stored: its answer did not come while its key still kept it from being repeated."""
