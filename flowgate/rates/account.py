"""The rates of one account on one node, and of its clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from flowgate.errors import RateLimited
from flowgate.limits import Standing
from flowgate.rates.buckets import Bucket, FairBucket
from flowgate.rates.plan import RateLimits

_ENOUGH = 1e-6
"""What rounding may take from a bucket that is full enough."""


class AccountRates:
    """What the clients of one account may publish on this node.

    :ivar wanted: messages that they have wanted to publish, since somebody last asked and set it to 0.
    """

    __slots__ = ("__weakref__", "_bytes", "_keys", "_limits", "_messages", "_now", "_share", "wanted")

    def __init__(self, limits: RateLimits, now: Callable[[], float]) -> None:
        """Begin with full buckets.

        :param now: seconds of a clock that does not go back.
        """
        self._now = now
        self._share = 1.0
        self._messages: FairBucket | None = None
        self._bytes: FairBucket | None = None
        self._keys: dict[str, KeyBucket] = {}
        self.wanted = 0
        self.change(limits)

    @property
    def limits(self) -> RateLimits:
        """What the account's plan says."""
        return self._limits

    def change(self, limits: RateLimits) -> None:
        """Go on within other limits."""
        self._limits = limits
        self._apply()

    def share(self, share: float) -> None:
        """Take a part of the rates, from 0 to 1: the other nodes have the rest."""
        if share != self._share:
            self._share = share
            self._apply()

    def _apply(self) -> None:
        limits = self._limits
        self._messages = self._fair(self._messages, limits.publish_rate, limits.publish_burst)
        self._bytes = self._fair(self._bytes, limits.bytes_rate, limits.bytes_burst)
        for bucket in self._keys.values():
            self._set_key(bucket)

    def _fair(self, bucket: FairBucket | None, rate: int | None, burst: int | None) -> FairBucket | None:
        if rate is None:
            return None
        now = self._now()
        at, most = rate * self._share, max(1.0, (rate if burst is None else burst) * self._share)
        if bucket is None:
            return FairBucket(at, most, now)
        bucket.change(at, most, now)
        return bucket

    def key(self, key_id: str) -> KeyBucket:
        """The buckets of one API key."""
        found = self._keys.get(key_id)
        if found is None:
            found = self._keys[key_id] = KeyBucket()
            self._set_key(found)
        return found

    def _set_key(self, key: KeyBucket) -> None:
        limits, share, now = self._limits, self._share, self._now()
        key.bucket = _changed(key.bucket, limits.key_publish_rate, share, 1.0, now)
        key.tokens = _changed(key.tokens, limits.token_rate, 1.0, 60.0, now)

    def take_token(self, key_id: str) -> None:
        """Count a token that a key is exchanged for.

        :raises RateLimited: if there were too many.
        """
        tokens, now = self.key(key_id).tokens, self._now()
        if tokens is None:
            return
        tokens.refill(now)
        if tokens.left + _ENOUGH < 1:
            quota, reset = self._limits.token_rate or 0, ceil(tokens.wait())
            raise RateLimited(
                "the API key was exchanged for too many tokens: one lasts for minutes, keep it",
                retry_after=max(1, reset),
                standings=(Standing("token", quota, 60, 0, reset),),
                **{"violated-policies": ["token"]},
            )
        tokens.left -= 1

    def take(self, client: Pace, count: int, sizes: Callable[[], Sequence[int]], patient: bool) -> int:
        """Take messages, as many of the first ones as there is room for.

        :param sizes: finds their sizes in bytes, if these matter.
        :param patient: take all of them; the client will read no further for as long as :meth:`wait` says.
        :returns: how many were taken.
        """
        now = self._now()
        self.wanted += count
        messages, whole, key = self._messages, self._bytes, client.key.bucket
        own = size_own = None
        if messages is not None:
            own = messages.client(client, now)
            if not patient:
                count = min(count, int(messages.room(own) + _ENOUGH))
        if key is not None:
            key.refill(now)
            if not patient:
                count = min(count, int(key.left + _ENOUGH))
        count = max(count, 0)
        if whole is not None:
            size_own = whole.client(client, now)
            found = sizes()
            if not patient:
                count = _fitting(whole, size_own, found[:count])
            whole.take(size_own, sum(found[:count]))
        if messages is not None and own is not None:
            messages.take(own, count)
        if key is not None:
            key.left -= count
        return count

    def wait(self, client: Pace) -> float:
        """Seconds until the client may publish one message more."""
        return max((wait for _, wait in self._waits(client)), default=0.0)

    def _waits(self, client: Pace) -> list[tuple[str, float]]:
        now = self._now()
        found = []
        if self._messages is not None:
            found.append(("publish", self._messages.wait(self._messages.client(client, now))))
        if client.key.bucket is not None:
            client.key.bucket.refill(now)
            found.append(("key-publish", client.key.bucket.wait()))
        if self._bytes is not None:
            found.append(("bytes", self._bytes.wait(self._bytes.client(client, now))))
        return found

    def refusal(self, client: Pace) -> RateLimited:
        """Why a client may not publish now."""
        waits = self._waits(client)
        longest = max((wait for _, wait in waits), default=0.0)
        violated = [name for name, wait in waits if wait > 0] or [name for name, _ in waits]
        return RateLimited(
            f"the account's rate is exceeded: {', '.join(violated)}",
            retry_after=max(1, ceil(longest)),
            standings=self.standings(client),
            **{"violated-policies": violated},
        )

    def standings(self, client: Pace) -> tuple[Standing, ...]:
        """Where a client stands."""
        limits, now = self._limits, self._now()
        found = []
        for name, fair, rate in (
            ("publish", self._messages, limits.publish_rate),
            ("bytes", self._bytes, limits.bytes_rate),
        ):
            if fair is not None and rate is not None:
                own = fair.client(client, now)
                found.append(Standing(name, rate, 1, max(0, int(fair.room(own) + _ENOUGH)), ceil(fair.wait(own))))
        bucket = client.key.bucket
        if bucket is not None and limits.key_publish_rate is not None:
            bucket.refill(now)
            left, reset = max(0, int(bucket.left + _ENOUGH)), ceil(bucket.wait())
            found.append(Standing("key-publish", limits.key_publish_rate, 1, left, reset))
        return tuple(found)


def _fitting(whole: FairBucket, own: Bucket, sizes: Sequence[int]) -> int:
    """How many of the first messages there is room for in bytes; one larger than a full bucket fits into a full one."""
    room = whole.room(own)
    if sum(sizes) <= room:
        return len(sizes)
    most = max(own.burst, whole.whole.burst / 2)
    fitting = 0
    for size in sizes:
        if room + _ENOUGH < min(size, most):
            break
        room -= size
        fitting += 1
    return fitting


def _changed(bucket: Bucket | None, rate: int | None, share: float, seconds: float, now: float) -> Bucket | None:
    """A bucket of so much in so many seconds, all of it at once if need be."""
    if rate is None:
        return None
    at, most = rate * share / seconds, max(1.0, rate * share)
    if bucket is None:
        return Bucket(at, most, now)
    bucket.refill(now)
    bucket.change(at, most)
    return bucket


class KeyBucket:
    """The buckets of one API key, as far as its account's plan has such rates: of messages, and of tokens."""

    __slots__ = ("bucket", "tokens")

    def __init__(self) -> None:
        self.bucket: Bucket | None = None
        self.tokens: Bucket | None = None


class Pace:
    """How fast one client may publish: whoever has one token."""

    __slots__ = ("__weakref__", "account", "key")

    def __init__(self, account: AccountRates, key_id: str) -> None:
        self.account = account
        self.key = account.key(key_id)

    @property
    def bounded(self) -> bool:
        """Whether there is any bound."""
        return self.account.limits.paced

    def take(self, count: int, sizes: Callable[[], Sequence[int]], patient: bool = False) -> int:
        """See :meth:`AccountRates.take`."""
        return self.account.take(self, count, sizes, patient)

    def wait(self) -> float:
        """See :meth:`AccountRates.wait`."""
        return self.account.wait(self)

    def refusal(self) -> RateLimited:
        """See :meth:`AccountRates.refusal`."""
        return self.account.refusal(self)

    def standings(self) -> tuple[Standing, ...]:
        """See :meth:`AccountRates.standings`."""
        return self.account.standings(self)
