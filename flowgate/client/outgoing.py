"""Messages that a client publishes: each is kept until it is stored, and sent again under the same key."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import attrs
import orjson

from flowgate.client.actions import Done, Link
from flowgate.client.values import Full, Published, Unconfirmed
from flowgate.errors import InvalidJson, InvalidParameter, MessageTooLarge, Refused

KEY_SECONDS = 240.0
"""How long a message is sent again: its key keeps it from being stored twice for 300 s after it was stored."""
UNACKNOWLEDGED_BYTES = 16 * 1024 * 1024
"""Messages under way are no larger than this together, but for a last one that begins below it."""

_KEY_LENGTH = 128  # as the gateway has it
_COME_AGAIN = frozenset(("bus_unavailable", "rate_limited", "idempotency_in_progress"))


@attrs.define(slots=True, eq=False)
class _Message:
    """A message under way.

    :ivar chosen: whether its key is the caller's.
    :ivar sent: when it was sent first; ``None`` before.
    :ivar due: whether it is to be sent when that is possible.
    """

    topic: str
    frame: bytes = attrs.field(repr=False)
    chosen: bool
    done: Done
    sent: float | None = None
    due: bool = True


class Outgoing:
    """All messages under way, in the order in which they were published; behind them those that wait for room."""

    def __init__(self, link: Link, name: str, bound: int) -> None:
        """Be ready.

        :param name: what the keys begin with that are made up here.
        :param bound: how many messages may be under way.
        """
        self._link = link
        self._name = name
        self._bound = bound
        self._messages: dict[int, _Message] = {}
        self._bytes = 0
        self._waiting: deque[tuple[int, _Message]] = deque()

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def _full(self) -> bool:
        return len(self._messages) >= self._bound or self._bytes >= UNACKNOWLEDGED_BYTES

    @property
    def due_at(self) -> float | None:
        """When the oldest message is to be given up."""
        # In order: what was sent later was published later.
        first = next(iter(self._messages.values()), None)
        return None if first is None or first.sent is None else first.sent + KEY_SECONDS

    def add(self, topic: str, value: object, key: str | None, done: Done, now: float, wait: bool) -> None:
        """Publish a message; see :meth:`flowgate.client.core.Session.publish`."""
        full = self._full or bool(self._waiting)
        if full and not wait:
            raise Full(f"{len(self._messages)} messages are not acknowledged yet")
        if key is not None and (not 1 <= len(key) <= _KEY_LENGTH or not key.isprintable()):
            raise InvalidParameter(f"a key is 1 to {_KEY_LENGTH} printable characters")
        number = self._link.next_id()
        frame = {"action": "publish", "id": number, "topic": topic, "message": value}
        try:
            data = orjson.dumps({**frame, "key": f"{self._name}-{number}" if key is None else key})
        except TypeError as error:  # orjson.JSONEncodeError is one
            raise InvalidJson(f"the message cannot be written in JSON: {error}") from None
        message = _Message(topic, data, key is not None, done)
        if full:
            self._waiting.append((number, message))  # their bound is how many calls wait, which hold the values too
        else:
            self._take(number, message, now)

    def _take(self, number: int, message: _Message, now: float) -> None:
        self._messages[number] = message
        self._bytes += len(message.frame)
        if self._link.is_open:
            self._send(message, now)

    def _send(self, message: _Message, now: float) -> None:
        message.due = False
        if message.sent is None:
            message.sent = now
        self._link.send(message.frame)

    def send_due(self, now: float, everything: bool = False) -> None:
        """Send what was refused for a while, or never sent.

        :param everything: on a new connection; what was sent before has had no answer.
        """
        self.give_up(now)
        for message in self._messages.values():
            if everything or message.due:
                self._send(message, now)

    def answered(self, number: int, frame: Mapping[str, object], refusal: Refused | None, now: float) -> bool:
        """Take an answer; ``False`` if it is not for a message."""
        message = self._messages.get(number)
        if message is None:
            return False
        if refusal is None:
            duplicate = message.chosen and frame.get("duplicate") is True
            self._settle(number, Published(str(frame["cursor"]), message.topic, duplicate), now)
        elif refusal.code in _COME_AGAIN:
            message.due = True
            self._link.retry(refusal, now)
        else:
            self._settle(number, refusal, now)
        return True

    def _settle(self, number: int, result: object, now: float) -> None:
        message = self._messages.pop(number)
        self._bytes -= len(message.frame)
        self._link.tell(message.done, result)
        while self._waiting and not self._full:
            self._take(*self._waiting.popleft(), now)

    def give_up(self, now: float) -> None:
        """Fail what was sent so long ago that to send it again could store it twice."""
        while self._messages:
            number, message = next(iter(self._messages.items()))
            if message.sent is None or now < message.sent + KEY_SECONDS:
                return
            self._settle(number, Unconfirmed("the message may or may not be stored: no answer came in time"), now)

    def fail_largest(self, now: float) -> None:
        """The gateway does not take frames of some size: the largest one that it was sent is to blame."""
        sent = [number for number, message in self._messages.items() if message.sent is not None]
        if sent:
            self._settle(max(sent, key=lambda number: len(self._messages[number].frame)), MessageTooLarge(), now)

    def end(self, why: Exception) -> None:
        """Fail all that is under way, or waits for room."""
        for message in (*self._messages.values(), *(message for _, message in self._waiting)):
            self._link.tell(message.done, why)
        self._messages.clear()
        self._waiting.clear()
        self._bytes = 0
