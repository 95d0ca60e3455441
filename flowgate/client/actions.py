"""What a session wants done, and what its parts ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from flowgate.errors import Refused

Done = Callable[[object], None]
"""Takes a result, or an exception."""

Answered = Callable[[Mapping[str, object], Refused | None, float], None]
"""Takes the answer to a frame, the refusal if it is one, and the time in seconds."""


@attrs.frozen(slots=True)
class Exchange:
    """Exchange the API key for a token; an exchange under way is given up."""

    key: str = attrs.field(repr=False)


@attrs.frozen(slots=True)
class Open:
    """Open a WebSocket with this token."""

    token: str = attrs.field(repr=False)


@attrs.frozen(slots=True)
class Send:
    """Send a text message."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen(slots=True)
class Ping:
    """Send a ping of WebSocket's."""


@attrs.frozen(slots=True)
class Drop:
    """End whatever connection there is, or is being made.

    :ivar hard: whether nobody seems to be at its other end.
    """

    hard: bool = False


@attrs.frozen(slots=True)
class Call:
    """Tell somebody who waits."""

    done: Done
    result: object


Action = Exchange | Open | Send | Ping | Drop | Call


class Link(Protocol):
    """The session, as its parts see it."""

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent."""

    def send(self, data: bytes) -> None:
        """Send a frame."""

    def next_id(self) -> int:
        """An id that no frame has had."""

    def ask(self, frame: dict[str, object], answered: Answered) -> int:
        """Send a frame that is answered on the same connection, or not at all; return its id."""

    def tell(self, done: Done, result: object = None) -> None:
        """Tell somebody who waits, once this event is dealt with."""

    def retry(self, refusal: Refused, now: float) -> None:
        """Ask and send again what was refused, when the gateway can be expected to take it."""
