"""Rates, sizes and counts: every bound of the gateway, in one place."""

from __future__ import annotations

from typing import NamedTuple

import attrs

from flowgate.topics import check_filter, matches


@attrs.frozen(slots=True)
class Limits:
    """The bounds that one gateway works within.  All sizes are in bytes, all times in seconds."""

    message_bytes: int = attrs.field(default=256 * 1024, metadata={"least": 1, "most": 1024 * 1024})
    """Largest payload of one message."""
    batch_messages: int = attrs.field(default=1000, metadata={"least": 1, "most": 1000})
    """Messages in one HTTP batch publish."""
    subscriber_buffer_bytes: int = attrs.field(default=1024 * 1024, metadata={"least": 65536})
    """Bytes kept for one slow subscriber before it loses QoS 0 messages or is cut off."""
    unacknowledged_messages: int = attrs.field(default=4096, metadata={"least": 1})
    """Acknowledged publishes of one connection under way before the connection is read no further."""
    inflight_messages: int = attrs.field(default=1000, metadata={"least": 1, "most": 16384})
    """QoS 1 and 2 deliveries to one MQTT client that it has not acknowledged yet."""
    queued_messages: int = attrs.field(default=10_000, metadata={"least": 0})
    """QoS 1 and 2 deliveries to one MQTT client that wait for a place among those in flight, or for the client."""
    queued_bytes: int = attrs.field(default=16 * 1024 * 1024, metadata={"least": 65536})
    """Bytes of payload of these deliveries, in flight and waiting."""
    sessions: int = attrs.field(default=100_000, metadata={"least": 0})
    """MQTT sessions that outlive their connections, connected or not, in the whole gateway."""
    app_sessions: int = attrs.field(default=20_000, metadata={"least": 0})
    """The same, of one application."""
    session_seconds: int = attrs.field(default=7 * 24 * 3600, metadata={"least": 1})
    """How long such a session is kept for a client that is away."""
    connections: int = attrs.field(default=100_000, metadata={"least": 1})
    """Open connections of all protocols together."""
    subscriptions: int = attrs.field(default=1000, metadata={"least": 1})
    """Subscriptions of one connection."""
    connect_seconds: int = attrs.field(default=10, metadata={"least": 1})
    """How long an MQTT client may take until its CONNECT is whole, and an HTTP client for its request."""
    requests_head_bytes: int = attrs.field(default=32 * 1024, metadata={"least": 1024})
    """Largest request line and headers together."""
    frames_per_second: int = attrs.field(default=0, metadata={"least": 0})
    """Frames that a WebSocket client may send in the long run, twice as many at once; 0 for no bound."""


class TokenBucket:
    """A rate with a burst: so much at once, and so much a second in the long run.

    The caller says what time it is, in seconds of a clock that does not go back.
    """

    __slots__ = ("_burst", "_left", "_rate", "_time")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._time = now

    def refill(self, now: float) -> None:
        """Let the time pass; for many calls of :meth:`take` at one time this is needed once."""
        self._left = min(self._burst, self._left + (now - self._time) * self._rate)
        self._time = now

    def take(self, amount: float = 1) -> bool:
        """Take ``amount``, if there is so much."""
        if self._left < amount:
            return False
        self._left -= amount
        return True

    def wait(self, amount: float = 1) -> float:
        """Seconds until there is so much."""
        return max(0.0, (amount - self._left) / self._rate)


class Standing(NamedTuple):
    """Where a client stands with one rate (draft-ietf-httpapi-ratelimit-headers-10).

    :ivar policy: the name of the rate.
    :ivar quota: how much goes in ``window`` seconds.
    :ivar remaining: how much is left now.
    :ivar reset: seconds until something is, 0 if it is.
    """

    policy: str
    quota: int
    window: int
    remaining: int
    reset: int


@attrs.frozen(slots=True)
class TopicPolicy:
    """What is kept of topics that match ``filter``.

    :ivar history: whether unacknowledged messages are kept in history too; acknowledged ones always are.
    :ivar age: seconds that history keeps a message, or ``None`` for the stream's own age.
    """

    filter: str = attrs.field(validator=lambda _self, _attribute, value: check_filter(value))
    history: bool = True
    age: int | None = None


class Policies:
    """The configured topic policies: the first whose filter matches wins."""

    _DEFAULT = TopicPolicy("#")

    def __init__(self, policies: tuple[TopicPolicy, ...] = ()) -> None:
        self._policies = policies

    def find(self, name: str) -> TopicPolicy:
        """The policy for the topic ``name`` (short: policies hold in every namespace)."""
        for policy in self._policies:
            if matches(policy.filter, name):
                return policy
        return self._DEFAULT
