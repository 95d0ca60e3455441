"""Wrong passwords: who has given too many waits, longer each time.

Counted are three things: one login from one address, one address for whatever login, and one login from whatever
address.  The last one lets more pass, because it keeps out the owner too: that somebody else can lock a login is the
price of their not being able to guess from many addresses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil

import attrs

from flowgate.errors import RateLimited

PAIR, ADDRESS, LOGIN = 5, 20, 50
"""Failures that are free: of one login from one address, of one address, of one login."""
FIRST_SECONDS, LONGEST_SECONDS = 2, 900
"""The wait after one failure more; it doubles with each."""
FORGOTTEN_SECONDS = 3600
"""After so long without a failure it begins anew."""
REMEMBERED = 30_000
"""What is counted at once; beyond, the oldest is forgotten."""


@attrs.define(slots=True)
class _Failures:
    free: int
    count: int = 0
    last: float = 0.0

    @property
    def until(self) -> float:
        over = self.count - self.free
        return 0.0 if over < 0 else self.last + min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(over, 30))


class Attempts:
    """The failures that this node has seen.

    :param seconds: a clock that does not go back.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    @staticmethod
    def _keys(login: str, address: str) -> dict[tuple[str, str], int]:
        return {(login, address): PAIR, ("", address): ADDRESS, (login, ""): LOGIN}

    def check(self, login: str, address: str) -> None:
        """Check that an attempt may be made now; it counts as a failure until :meth:`succeeded` is called.

        It is counted before the password is looked at, so that many at the same time are counted too.

        :raises RateLimited: if not, with the seconds to wait; this attempt is not counted.
        """
        now = self._seconds()
        keys = self._keys(login, address)
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

    def succeeded(self, login: str, address: str) -> None:
        """The attempt was none: the password was right."""
        self._failures.pop((login, address), None)
        for key in (("", address), (login, "")):
            one = self._failures.get(key)
            if one is not None:
                one.count -= 1  # others that share the address, or try the login, are not forgiven
