"""What a client does, given what has happened: tokens, connecting and connecting again, and the frames in between.

No input and output, and no clock: whoever drives a :class:`Session` tells it what happened and when, and carries out
what :meth:`Session.take` gives.  Times are seconds of any clock that does not go back.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping
from enum import Enum
from weakref import ref

import orjson

from flowgate.client import refusals
from flowgate.client.actions import Action, Answered, Call, Done, Drop, Exchange, Open, Ping, Send
from flowgate.client.outgoing import Outgoing
from flowgate.client.streams import Stream, Streams
from flowgate.client.values import Closed, Gap, Message, Unreachable
from flowgate.errors import InvalidParameter, ProtocolViolation, Refused

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Bounds of the pause before another attempt, which doubles; a random part of it is waited ("full jitter")."""
REFRESH = 0.8
"""The part of a token's life after which another one is fetched."""
ANSWER_SECONDS = 15.0
"""How long a token, or an open connection, is waited for."""
PING_SECONDS = 20.0
"""After so long without a byte from the gateway it is asked whether it is there; it asks after 25 s itself."""
PONG_SECONDS = 10.0
"""How long it may take to answer."""

_NO_TOKEN = 4401
_FINAL_CLOSES = (4400, 4402, 4403)
_TOO_BIG = 1009


class _Phase(Enum):
    RESTING = "there is no connection; the next attempt has its time"
    EXCHANGING = "a token is awaited"
    OPENING = "a connection is being made"
    OPEN = "frames are exchanged"
    ENDED = "there will be no connection any more"


class Session:
    """One client."""

    def __init__(
        self,
        *,
        key: str | None = None,
        token: str | None = None,
        draw: Callable[[], float],
        name: str,
        patient: bool = False,
        unacknowledged: int = 1000,
    ) -> None:
        """Be ready for :meth:`start`.

        :param key: an API key, exchanged for tokens; or else
        :param token: the one token to use.
        :param draw: gives a random number from 0 to 1.
        :param name: what the idempotency keys begin with, which no other client may have; up to 64 characters.
        :param patient: whether the first connection is tried for again and again as well.
        :param unacknowledged: how many messages may be under way, at least 1.
        :raises ValueError: if there is not just one of ``key`` and ``token``, or no message may be under way.
        """
        if (key is None) == (token is None):
            raise ValueError("give an API key or a token, and not both")
        if unacknowledged < 1:
            raise ValueError("at least one message may be under way")
        self._key = key
        self._token = token
        self._draw = draw
        self._patient = patient
        self._phase = _Phase.RESTING
        self._ever = False
        self._error: Exception | None = None
        self._failures = 0
        self._next = 0.0
        self._come_back: float | None = None
        self._said = ""
        # of the token's exchange while the connection is open
        self._refresh_at: float | None = None
        self._refresh_failures = 0
        self._exchange_until: float | None = None
        # of the open connection
        self._heard = self._spoke = 0.0
        self._pong_until: float | None = None
        self._retry_at: float | None = None
        self._ids = 0
        self._asked: dict[int, Answered] = {}
        self._opened: list[Done] = []
        self._outgoing = Outgoing(self, name, unacknowledged)
        self._streams = Streams(self)
        self._actions: list[Action] = []

    # -- for whoever drives it

    def take(self) -> list[Action]:
        """What is to be done now, in order."""
        actions, self._actions = self._actions, []
        return actions

    @property
    def reading(self) -> bool:
        """Whether the connection is to be read: not while a subscription has no room."""
        return not self._streams.full

    @property
    def due_at(self) -> float | None:
        """When :meth:`due` is to be called; ``None`` for never."""
        if self._phase is _Phase.ENDED:
            return None
        times = [self._outgoing.due_at]
        if self._phase is _Phase.OPEN:
            refresh = self._refresh_at if self._exchange_until is None else self._exchange_until
            times += [self._ping_at if self._pong_until is None else self._pong_until, self._retry_at, refresh]
        else:
            times.append(self._next)
        return min(time for time in times if time is not None)

    @property
    def _ping_at(self) -> float:
        # While we do not listen, what counts is that the gateway hears of us.
        return (self._spoke if self._streams.full else self._heard) + PING_SECONDS

    def start(self, now: float) -> None:
        """Make the first connection."""
        if self._phase is _Phase.RESTING:
            self._attempt(now)

    def when_open(self, done: Done) -> None:
        """Have ``done`` called with ``None`` once there was a connection, or with the exception that ended it."""
        if self._phase is _Phase.ENDED:
            self.tell(done, self._why())
        elif self._ever:
            self.tell(done)
        else:
            self._opened.append(done)

    def due(self, now: float) -> None:
        """Do what has its time now."""
        if self._phase is _Phase.ENDED:
            return
        self._outgoing.give_up(now)
        if self._phase is _Phase.OPEN:
            self._due_when_open(now)
        elif now >= self._next:
            if self._phase is _Phase.RESTING:
                self._attempt(now)
            else:
                self.failed(Unreachable("the gateway does not answer in time"), now)

    def _due_when_open(self, now: float) -> None:
        if self._exchange_until is not None:
            if now >= self._exchange_until:
                self.failed(Unreachable("the gateway gives no token in time"), now)
        elif self._refresh_at is not None and now >= self._refresh_at:
            self._exchange(now)
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._streams.ask()
            self._outgoing.send_due(now)
        if self._pong_until is not None:
            if now >= self._pong_until:
                self.lost(Unreachable("the gateway gives no sign of life"), now)
        elif now >= self._ping_at:
            self._do(Ping())
            self._spoke = now
            if self.reading:
                self._pong_until = now + PONG_SECONDS

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    # -- connecting

    def _attempt(self, now: float) -> None:
        if self._token is None or (self._refresh_at is not None and now >= self._refresh_at):
            self._phase = _Phase.EXCHANGING
            self._exchange(now)
            self._next = now + ANSWER_SECONDS
        else:
            self._open(self._token, now)

    def _open(self, token: str, now: float) -> None:
        self._phase = _Phase.OPENING
        self._next = now + ANSWER_SECONDS
        self._do(Open(token))

    def _exchange(self, now: float) -> None:
        assert self._key is not None
        self._exchange_until = now + ANSWER_SECONDS
        self._do(Exchange(self._key))

    def exchanged(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """The API key was answered.

        :param headers: by lower-case name.
        """
        if status != 200:
            refusal = refusals.answered(status, headers, body)
            if refusals.final(status) or status == 401:
                self.end(refusal)
            else:
                self.failed(refusal, now)
            return
        try:
            answer = orjson.loads(body)
            token, life = answer["token"], float(answer["expires_in"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            token, life = None, 0.0
        if not isinstance(token, str) or not token:
            self.end(ProtocolViolation("what answers is not a Flow-Gate"))
            return
        self._exchange_until = None
        self._refresh_failures = 0
        self._token = token
        self._refresh_at = now + life * REFRESH
        if self._phase is _Phase.EXCHANGING:
            self._open(token, now)
        elif self._phase is _Phase.OPEN:
            self.ask({"action": "auth", "token": token}, self._authenticated)

    def _authenticated(self, frame: Mapping[str, object], refusal: Refused | None, now: float) -> None:
        if refusal is None:
            return
        if refusals.final(refusal.status):
            self.end(refusal)
        else:
            self._token = None
            self.lost(refusal, now)

    def opened(self, now: float) -> None:
        """The handshake is done."""
        self._phase = _Phase.OPEN
        self._ever = True
        self._heard = self._spoke = now
        self._pong_until = None
        self._said = ""
        self.ask({"action": "ping"}, self._alive)
        self._streams.ask()
        self._outgoing.send_due(now, everything=True)
        for done in self._opened:
            self.tell(done)
        self._opened = []

    def _alive(self, frame: Mapping[str, object], refusal: Refused | None, now: float) -> None:
        # Not as soon as a connection is made: one that is closed at once is as good as none.
        self._failures = 0

    def refused(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """The handshake was answered with another status than 101.

        :param headers: by lower-case name.
        """
        refusal = refusals.answered(status, headers, body)
        if status < 400:
            self.end(ProtocolViolation("what answers is not a Flow-Gate"))
        elif refusals.final(status) or (status == 401 and self._key is None):
            self.end(refusal)
        else:
            if status == 401:
                self._token = None
            self.failed(refusal, now)

    def failed(self, reason: Exception, now: float) -> None:
        """No token, or no connection, could be had this time."""
        self._exchange_until = None
        if self._phase is _Phase.OPEN:
            # It is good until its token ends.
            self._refresh_failures += 1
            self._refresh_at = now + self._pause(self._refresh_failures, reason)
        elif self._ever or self._patient:
            self._rest(reason, now)
        else:
            self.end(reason)

    def lost(self, reason: Exception, now: float) -> None:
        """The connection is gone."""
        if self._phase is _Phase.OPEN:
            self._rest(reason, now)
        elif self._phase is _Phase.OPENING:
            self.failed(reason, now)

    def closed(self, code: int, reason: str, now: float) -> None:
        """The gateway has closed the connection."""
        if self._phase is not _Phase.OPEN:
            return
        refusal = refusals.closed(code, reason, self._said)
        if code in _FINAL_CLOSES or (code == _NO_TOKEN and self._key is None):
            self.end(refusal)
            return
        if code == _NO_TOKEN:
            self._token = None
        elif code == _TOO_BIG:
            self._outgoing.fail_largest(now)
        self._rest(refusal, now)

    def _rest(self, reason: Exception, now: float) -> None:
        """Be without a connection for a while."""
        self._phase = _Phase.RESTING
        self._do(Drop(hard=isinstance(reason, Unreachable)))
        self._asked.clear()
        self._exchange_until = self._retry_at = None
        self._streams.disconnected()
        self._failures += 1
        pause, self._come_back = self._come_back, None  # another number for each client already
        self._next = now + (self._pause(self._failures, reason) if pause is None else pause)

    def _pause(self, failures: int, reason: Exception) -> float:
        longest: float = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))
        asked = reason.retry_after if isinstance(reason, Refused) else None
        return (asked or 0) + self._draw() * longest

    def end(self, error: Exception | None) -> None:
        """Be done.

        :param error: why; ``None`` if the caller wants no more.
        """
        if self._phase is _Phase.ENDED:
            return
        self._phase = _Phase.ENDED
        self._error = error
        self._do(Drop())
        self._asked.clear()
        for done in self._opened:
            self.tell(done, self._why())
        self._opened = []
        self._outgoing.end(self._why())
        self._streams.end(error)

    def _why(self) -> Exception:
        return Closed("the client was closed") if self._error is None else self._error

    # -- for its parts

    @property
    def is_open(self) -> bool:
        return self._phase is _Phase.OPEN

    def send(self, data: bytes) -> None:
        self._do(Send(data))

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    def ask(self, frame: dict[str, object], answered: Answered) -> int:
        number = self.next_id()
        self._asked[number] = answered
        self.send(orjson.dumps({**frame, "id": number}))
        return number

    def tell(self, done: Done, result: object = None) -> None:
        self._do(Call(done, result))

    def retry(self, refusal: Refused, now: float) -> None:
        at = now + (refusal.retry_after or FIRST_DELAY) + self._draw() * FIRST_DELAY
        self._retry_at = at if self._retry_at is None else max(at, self._retry_at)

    # -- frames

    def heard(self, now: float) -> None:
        """The gateway has sent something."""
        self._heard = now
        self._pong_until = None

    def received(self, text: bytes, now: float) -> None:
        """A text message has come.

        :raises ProtocolViolation: if it is no frame of the gateway's.
        """
        if self._phase is not _Phase.OPEN:
            return
        try:
            frame = orjson.loads(text)
            action = frame["action"]
            if action == "message":
                self._streams.put(_message(frame))
            elif action in ("ack", "error"):
                self._answer(frame, now)
            elif action == "notice":
                self._notice(frame, now)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, InvalidParameter):
            raise ProtocolViolation("the gateway sent a frame that cannot be read") from None
        self._shed()

    def _answer(self, frame: Mapping[str, object], now: float) -> None:
        refusal = refusals.refusal(frame) if frame["action"] == "error" else None
        id_ = frame.get("id")
        if isinstance(id_, int):
            answered = self._asked.pop(id_, None)
            if not self._outgoing.answered(id_, frame, refusal, now) and answered is not None:
                answered(frame, refusal, now)
        elif refusal is not None:
            if "topic" in frame:
                self._streams.lost(frame["topic"], refusal, now)
            else:
                self.end(refusal)  # it could not even read what we sent

    def _notice(self, frame: Mapping[str, object], now: float) -> None:
        code = frame["code"]
        if code == "gap":
            self._streams.gap(frame["topic"], str(frame["oldest"]))
        elif code == "going_away":
            after = frame.get("retry_after_ms")
            self._come_back = after / 1000 if isinstance(after, int | float) else None
        elif code == "token_expiring":
            if self._key is not None and self._exchange_until is None:
                self._refresh_at = now
        else:
            said = frame.get("detail")
            self._said = said if isinstance(said, str) else ""  # a close follows, with the code alone

    def _shed(self) -> None:
        self._streams.shed(bool(self._outgoing))

    # -- for the caller

    def publish(
        self, topic: str, value: object, key: str | None, done: Done, now: float, *, wait: bool = False
    ) -> None:
        """Publish a message.

        :param value: what orjson can write.
        :param key: the idempotency key, 1 to 128 printable characters; one is made up for ``None``.
        :param done: called with a :class:`~flowgate.client.values.Published`, or with an exception.
        :param wait: if as much is under way as may be, take the message all the same, to be sent in its turn.
        :raises Full: if as much is under way as may be, and ``wait`` is false.
        :raises InvalidJson: if the value, or the topic, cannot be written in JSON.
        :raises InvalidParameter: if the key is none.
        :raises Exception: the one with which the client has ended.
        """
        if self._phase is _Phase.ENDED:
            raise self._why()
        self._outgoing.add(topic, value, key, done, now, wait)
        self._shed()

    def subscribe(self, filter_: str, since: str | None, bound: int, owner: ref[object] | None = None) -> Stream:
        """Subscribe.

        :param since: a cursor, or ``earliest``, to begin with history; ``None`` for what is new.
        :param bound: messages that may wait for their reader, at least 1.
        :param owner: the reader; the subscription ends when that is gone.
        :raises InvalidTopic: if the filter is none.
        :raises InvalidParameter: if ``since`` is no cursor.
        :raises Conflict: if it shares topics with another subscription of this client.
        :raises ValueError: if ``bound`` is none.
        :raises Exception: the one with which the client has ended.
        """
        if bound < 1:
            raise ValueError("at least one message may wait for its reader")
        if self._phase is _Phase.ENDED:
            raise self._why()
        stream = Stream(filter_, since, bound, owner)
        self._streams.add(stream)
        self._shed()
        return stream

    def wait(self, stream: Stream, wake: Callable[[], None]) -> None:
        """Have ``wake`` called once, when there is something to take, or the subscription's state has changed.

        :raises RuntimeError: if somebody waits for that already.
        """
        if stream.wake is not None:
            raise RuntimeError("the subscription is read by somebody else")
        stream.wake = wake
        self._shed()

    def next_of(self, stream: Stream) -> Message | Gap:
        """Take the next item of a subscription that has one."""
        return self._streams.take(stream)

    def unsubscribe(self, stream: Stream) -> None:
        """End a subscription; what it still holds is dropped."""
        self._streams.unsubscribe(stream)


def _message(frame: Mapping[str, object]) -> Message:
    topic, data, id_, ts = frame["topic"], frame["data"], frame.get("id"), frame.get("ts")
    if frame.get("encoding") == "base64":
        data = b64decode(str(data), validate=True)
    return Message(str(topic), data, None if id_ is None else str(id_), None if ts is None else str(ts))
