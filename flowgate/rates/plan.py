"""What a plan says about rates."""

from __future__ import annotations

import attrs


@attrs.frozen(slots=True)
class RateLimits:
    """The rates and counts of one account, on all nodes together; ``None`` for no bound.

    A rate is what goes in the long run; its burst is what goes at once after a pause, one second's worth if nothing
    else is said.
    """

    publish_rate: int | None = attrs.field(default=None, metadata={"least": 1})
    """Messages a second, on all protocols, those sent to queues too."""
    publish_burst: int | None = attrs.field(default=None, metadata={"least": 1})
    key_publish_rate: int | None = attrs.field(default=None, metadata={"least": 1})
    """The same of each API key; its burst is one second's worth."""
    bytes_rate: int | None = attrs.field(default=None, metadata={"least": 1})
    """Bytes of payload a second."""
    bytes_burst: int | None = attrs.field(default=None, metadata={"least": 1})
    token_rate: int | None = attrs.field(default=None, metadata={"least": 1})
    """Tokens a minute that each API key may be exchanged for; all of them at once, if need be."""
    connections: int | None = attrs.field(default=None, metadata={"least": 1})
    """Open connections of all protocols."""
    subscriptions: int | None = attrs.field(default=None, metadata={"least": 1})
    """Subscriptions of all these connections."""

    @property
    def paced(self) -> bool:
        """Whether there is any bound to publishing."""
        return any(rate is not None for rate in (self.publish_rate, self.key_publish_rate, self.bytes_rate))


UNBOUNDED = RateLimits()
