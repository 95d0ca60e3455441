"""Wrong passwords: who has given too many waits, longer each time.

Counted are three things: one login from one network, one network for whatever login, and one login from whatever
network.  The last one lets more pass, because it could keep out the owner too.  A browser that has signed in to the
login before is counted for itself alone: nobody else's failures keep it out, so that a login cannot be locked from
elsewhere, nor by others behind the same proxy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil

import attrs

from flowgate.errors import RateLimited
from flowgate.rates.attempts import network_of

PAIR, NETWORK, LOGIN = 5, 20, 50
"""Failures that are free: of one login from one network or one known browser, of one network, of one login."""
FIRST_SECONDS, LONGEST_SECONDS = 2, 900
"""The wait after one failure more; it doubles with each."""
FORGOTTEN_SECONDS = 3600
"""After so long without a failure it begins anew."""
REMEMBERED = 30_000
"""What is counted at once; beyond, the oldest is forgotten."""

_Key = tuple[str, str, str]


@attrs.define(slots=True)
class _Failures:
    free: int
    count: int = 0
    last: float = 0.0

    @property
    def until(self) -> float:
        over = self.count - self.free
        return 0.0 if over < 0 else self.last + min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(over, 30))


@attrs.frozen(slots=True)
class Attempt:
    """One that is under way, and counts as a failure unless it is said to be none.

    :ivar own: what is counted of the login here; :ivar others: what is counted of others too.
    """

    _failures: OrderedDict[_Key, _Failures]
    own: _Key
    others: tuple[_Key, ...]

    def succeeded(self) -> None:
        """The password was right: it begins anew here, but what others did is not forgiven."""
        self._failures.pop(self.own, None)
        self._take_back(self.others)

    def not_made(self) -> None:
        """The password was not looked at."""
        self._take_back((self.own, *self.others))

    def _take_back(self, keys: tuple[_Key, ...]) -> None:
        for key in keys:
            one = self._failures.get(key)
            if one is not None:
                one.count -= 1


class Attempts:
    """The failures that this node has seen.

    :param seconds: a clock that does not go back.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._failures: OrderedDict[_Key, _Failures] = OrderedDict()

    @staticmethod
    def _keys(login: str, address: str, device: str) -> dict[_Key, int]:
        if device:
            return {("device", login, device): PAIR}
        network = network_of(address)
        return {("pair", login, network): PAIR, ("network", "", network): NETWORK, ("login", login, ""): LOGIN}

    def begin(self, login: str, address: str, device: str = "") -> Attempt:
        """Begin an attempt, which is counted before the password is looked at: many at the same time are counted too.

        :param device: the browser, if it has signed in to this login before; empty if not.
        :raises RateLimited: if none may be made now, with the seconds to wait; that one is not counted.
        """
        now = self._seconds()
        keys = self._keys(login, address, device)
        found = [self._failures.get(key) for key in keys]
        until = max((one.until for one in found if one is not None), default=0.0)
        if until > now:
            raise RateLimited("too many wrong passwords: wait before the next attempt", retry_after=ceil(until - now))
        for key, free in keys.items():
            one = self._failures.get(key)
            if one is None or one.last + FORGOTTEN_SECONDS < now:
                one = self._failures[key] = _Failures(free)
            one.count += 1
            one.last = now
            self._failures.move_to_end(key)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)
        own, *others = keys
        return Attempt(self._failures, own, tuple(others))
