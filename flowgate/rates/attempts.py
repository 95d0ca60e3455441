"""How often somebody has failed lately: whoever guesses is made to wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, ip_address
from typing import Final

_REMEMBERED: Final = 10_000


class Attempts:
    """Counts failures; who has had too many of them within the time is to be refused until it is over.

    What is remembered is bounded: beyond that the one who failed longest ago is forgotten.
    """

    def __init__(self, now: Callable[[], float], most: int, seconds: float) -> None:
        """Have at most ``most`` failures in ``seconds``.

        :param now: seconds.
        """
        self._now = now
        self._most = most
        self._seconds = seconds
        self._counts: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def wait(self, who: Hashable) -> float:
        """Seconds for which ``who`` is to be refused; 0 if not at all."""
        until, count = self._counts.get(who, (0.0, 0))
        return max(0.0, until - self._now()) if count >= self._most else 0.0

    def add(self, who: Hashable) -> bool:
        """Count a failure; return whether it is the first one of its time."""
        now = self._now()
        until, count = self._counts.pop(who, (0.0, 0))
        if now >= until:
            until, count = now + self._seconds, 0
        if len(self._counts) >= _REMEMBERED:
            self._counts.popitem(last=False)
        self._counts[who] = (until, count + 1)
        return count == 0


def network_of(address: str) -> str:
    """Who an address belongs to: itself, or for IPv6 its /64, which is one household's or one machine's."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> 64 << 64)) + "/64"
