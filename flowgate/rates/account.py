"""The rates of one account on one node, and of its clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Final

from flowgate.errors import RateLimited
from flowgate.limits import Standing
from flowgate.rates.buckets import Bucket, FairBucket
from flowgate.rates.plan import RateLimits

_ENOUGH = 1e-6
"""What rounding may take from a bucket that is full enough."""

_FRESH_SECONDS = 0.005
"""For so long a client's buckets are not refilled again as long as there is more in them than is asked for."""


class AccountRates:
    """What the clients of one account may publish on this node.

    :ivar wanted: messages that they have wanted to publish, since somebody last asked and set it to 0.
    :ivar tokens: tokens that their keys were exchanged for since then, if there is a bound; by the keys' ids.
    :ivar version: changes with the buckets.
    """

    __slots__ = (
        *("__weakref__", "_bytes", "_keys", "_limits", "_messages", "_now", "_share"),
        *("tokens", "version", "wanted"),
    )

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
        self.tokens: dict[str, int] = {}
        self.version = 0
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
        self.version += 1

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
        self.tokens[key_id] = self.tokens.get(key_id, 0) + 1

    def took_elsewhere(self, tokens: Mapping[str, int]) -> None:
        """Count tokens that another node has given: so all nodes together give what one would.

        :param tokens: how many, by the keys' ids.
        """
        now = self._now()
        for key_id, count in tokens.items():
            bucket = self.key(key_id).tokens
            if bucket is not None:
                bucket.refill(now)
                bucket.left -= count

    def _refresh(self, client: Pace, now: float) -> None:
        """Let the time pass for a client."""
        if self._messages is not None:
            client.messages = self._messages.client(client, now)
        if self._bytes is not None:
            client.bytes = self._bytes.client(client, now)
        if client.key.bucket is not None:
            client.key.bucket.refill(now)
        client.version, client.fresh_until = self.version, now + _FRESH_SECONDS
        client.told = ()

    def take_all(self, client: Pace, count: int, size: int, now: float) -> bool:
        """Take messages if there is plenty of room for all of them; else nothing happens.

        It is :meth:`take` at a lower cost, for clients that are far from any bound.

        :param size: bytes of all of them.
        :param now: the clock's seconds.
        """
        if now >= client.fresh_until or client.version != self.version:
            self._refresh(client, now)
        messages, whole, key = self._messages, self._bytes, client.key.bucket
        if key is not None and key.left < count:
            return False
        if messages is not None:
            left = messages.whole.left - count
            if left < messages.reserve:
                return False
        if whole is not None:
            left_bytes = whole.whole.left - size
            if left_bytes < whole.reserve:
                return False
            # As FairBucket.take does: what is beyond the reserve is anybody's, and leaves no debt.
            whole.whole.left = left_bytes
            own = client.bytes
            own.left = own.left - size if own.left > size else 0.0
        if messages is not None:
            messages.whole.left = left
            own = client.messages
            own.left = own.left - count if own.left > count else 0.0
        if key is not None:
            key.left -= count
        self.wanted += count
        return True

    def take(self, client: Pace, count: int, sizes: Callable[[], Sequence[int]], patient: bool) -> int:
        """Take messages, as many of the first ones as there is room for.

        :param sizes: finds their sizes in bytes, if these matter.
        :param patient: take all of them; the client will read no further for as long as :meth:`wait` says.
        :returns: how many were taken.
        """
        self._refresh(client, self._now())
        self.wanted += count
        messages, whole, key = self._messages, self._bytes, client.key.bucket
        if messages is not None and not patient:
            count = min(count, int(messages.room(client.messages) + _ENOUGH))
        if key is not None and not patient:
            count = min(count, int(key.left + _ENOUGH))
        count = max(count, 0)
        if whole is not None:
            found = sizes()
            if not patient:
                count = _fitting(whole, client.bytes, found[:count])
            whole.take(client.bytes, sum(found[:count]))
        if messages is not None:
            messages.take(client.messages, count)
        if key is not None:
            key.left -= count
        return count

    def wait(self, client: Pace) -> float:
        """Seconds until the client may publish one message more."""
        return max((wait for _, wait in self._waits(client)), default=0.0)

    def _waits(self, client: Pace) -> list[tuple[str, float]]:
        self._refresh(client, self._now())
        found = []
        if self._messages is not None:
            found.append(("publish", self._messages.wait(client.messages)))
        if client.key.bucket is not None:
            found.append(("key-publish", client.key.bucket.wait()))
        if self._bytes is not None:
            found.append(("bytes", self._bytes.wait(client.bytes)))
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
        """Where a client stands; what is left may be a little more or less, by a thousandth at the most."""
        now = self._now()
        if now >= client.fresh_until or client.version != self.version:
            self._refresh(client, now)
        messages, whole, key = self._messages, self._bytes, client.key.bucket
        if client.told:
            least, least_bytes, least_key = client.least
            if (
                (messages is None or messages.whole.left >= least)
                and (whole is None or whole.whole.left >= least_bytes)
                and (key is None or key.left >= least_key)
            ):
                return client.told
        limits = self._limits
        found: list[Standing] = []
        least = least_bytes = least_key = 0.0
        if messages is not None:
            room = messages.room(client.messages)
            least = messages.whole.left - room / 1000
            found.append(_standing("publish", limits.publish_rate, room, messages.wait(client.messages)))
        if whole is not None:
            room = whole.room(client.bytes)
            least_bytes = whole.whole.left - room / 1000
            found.append(_standing("bytes", limits.bytes_rate, room, whole.wait(client.bytes)))
        if key is not None:
            least_key = key.left - key.left / 1000
            found.append(_standing("key-publish", limits.key_publish_rate, key.left, key.wait()))
        client.least = least, least_bytes, least_key
        client.told = tuple(found)
        return client.told


def _standing(policy: str, quota: int | None, room: float, wait: float) -> Standing:
    left = max(0, int(room + _ENOUGH))
    return Standing(policy, quota or 0, 1, left, 0 if left else ceil(wait))


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


_NOTHING: Final = Bucket(1.0, 0.0, 0.0)


class Pace:
    """How fast one client may publish: whoever has one token.

    :ivar messages: its parts of the account's buckets, if there are such, as
    :ivar bytes: :attr:`fresh_until` and in this :attr:`version` of the account.
    :ivar told: where it stood when somebody asked; empty if nobody has since the last refresh.
    :ivar least: that holds as long as there is no less than this in the buckets of messages, bytes and the key.
    """

    __slots__ = (
        *("__weakref__", "account", "bytes", "fresh_until", "key", "least", "messages", "told"),
        "version",
    )

    def __init__(self, account: AccountRates, key_id: str) -> None:
        self.account = account
        self.key = account.key(key_id)
        self.messages = self.bytes = _NOTHING
        self.fresh_until = 0.0
        self.told: tuple[Standing, ...] = ()
        self.least = (0.0, 0.0, 0.0)
        self.version = -1

    @property
    def bounded(self) -> bool:
        """Whether there is any bound."""
        return self.account.limits.paced

    def take_all(self, count: int, size: int, now: float) -> bool:
        """See :meth:`AccountRates.take_all`."""
        return self.account.take_all(self, count, size, now)

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
