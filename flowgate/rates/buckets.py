"""Token buckets that can be in debt, and one that several clients share fairly.  Pure: the caller says what time it
is, in seconds of a clock that does not go back."""

from __future__ import annotations

from collections import OrderedDict

ACTIVE_SECONDS = 5.0
"""A client that has asked for nothing for so long has no share."""


class Bucket:
    """A rate with a burst: so much a second in the long run, and so much at once after a pause.

    :ivar left: how much may be taken now; below 0 is what was taken beyond.
    """

    __slots__ = ("burst", "left", "rate", "time")

    def __init__(self, rate: float, burst: float, now: float, left: float | None = None) -> None:
        self.rate = rate
        self.burst = burst
        self.left = burst if left is None else left
        self.time = now

    def refill(self, now: float) -> None:
        """Let the time pass."""
        self.left = min(self.burst, self.left + (now - self.time) * self.rate)
        self.time = now

    def change(self, rate: float, burst: float) -> None:
        """Go on at another rate, from the time of the last :meth:`refill`."""
        self.rate, self.burst = rate, burst
        self.left = min(self.left, burst)

    def wait(self, amount: float = 1.0) -> float:
        """Seconds until so much is there."""
        return max(0.0, (amount - self.left) / self.rate)


class FairBucket:
    """A bucket that the clients of one account share.

    Each active client has its part of the rate for certain.  What the others leave is for whoever comes: more than its
    part can be had as long as the account's bucket is more than half full, so a client that takes all it can get does
    not keep those within their parts from theirs.  Parts are those of the clients that are active now, and a new
    client begins with an empty one: making clients makes no rate.

    :ivar reserve: what is kept of the whole for those who are within their parts.
    """

    __slots__ = ("_clients", "burst", "rate", "reserve", "whole")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.reserve = 0.0
        self.whole = Bucket(rate, burst, now)
        self._clients: OrderedDict[object, Bucket] = OrderedDict()

    def change(self, rate: float, burst: float, now: float) -> None:
        """Go on at another rate."""
        self.whole.refill(now)
        self.rate, self.burst = rate, burst
        self.whole.change(rate, burst)
        self._keep()

    def _keep(self) -> None:
        self.reserve = self.whole.burst / 2 if len(self._clients) > 1 else 0.0

    def client(self, name: object, now: float) -> Bucket:
        """The part of one client, which is active from now on."""
        clients = self._clients
        own = clients.get(name)
        if own is None:
            own = clients[name] = Bucket(self.rate, 1.0, now, 0.0)
        else:
            clients.move_to_end(name)
        while len(clients) > 1:
            first, bucket = next(iter(clients.items()))
            if now - bucket.time <= ACTIVE_SECONDS:
                break
            del clients[first]
        self.whole.refill(now)
        active = len(clients)
        own.refill(now)
        own.change(self.rate / active, max(1.0, self.burst / active))
        self._keep()
        return own

    def room(self, own: Bucket) -> float:
        """How much a client may take now."""
        # Parts that are granted although the whole is in debt add up to its rate; a burst is as far as that goes.
        left = self.whole.left
        if left <= -self.burst:
            return 0.0
        left -= self.reserve
        return own.left if own.left > left else left

    def take(self, own: Bucket, amount: float) -> None:
        """Take ``amount``, whether there is room or not."""
        self.whole.left -= amount
        # As far as the others left it, what it took beyond its part is no debt.
        own.left = max(own.left - amount, min(0.0, self.whole.left - self.reserve))

    def wait(self, own: Bucket, amount: float = 1.0) -> float:
        """Seconds until there is room for ``amount``, or for a full bucket if that is less."""
        part = own.wait(min(amount, own.burst))
        if self.whole.left <= -self.burst:
            part = max(part, self.whole.wait(-self.burst))
        return min(part, self.whole.wait(min(amount, self.whole.burst - self.reserve) + self.reserve))
