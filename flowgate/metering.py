"""Counts of what the gateway did, since it started."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from flowgate.topics import Namespace

Labels = str | tuple[str, ...]
"""The values of a counter's labels; a text for a single one, an empty one for none."""

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The bounds of histograms of times."""


class Count:
    """One counter; whoever counts often keeps it and adds to ``value``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Histogram:
    """How many values there were up to each of some bounds, and their sum.

    It costs a search among the bounds: measure what a read or a batch took, not each of its messages.

    :ivar bounds: ascending; a value that is equal to one is counted below it.
    :ivar counts: of the values up to each bound and above the one before it; the last one of those above all bounds.
    :ivar sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count ``value``, ``count`` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count


class Account:
    """What the clients at home in one namespace did; whoever counts often keeps it and adds to its numbers.

    :ivar received: messages that they published.
    :ivar sent: messages that were sent to them.
    :ivar dropped: messages that they were not sent, or that were not taken from them.
    :ivar told: what other nodes know of the account.
    """

    __slots__ = ("dropped", "received", "seen", "sent", "told")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.dropped = 0
        self.told: tuple[int, ...] = ()
        self.seen = -1


class Meter:
    """Named counters, histograms and gauges, each by the values of its labels, and the counters of accounts.

    What the names mean and what their labels are called is written in :mod:`flowgate.metrics.families`.
    """

    __slots__ = ("_accounts", "_counts", "_gauges", "_histograms")

    def __init__(self) -> None:
        self._gauges: dict[str, Callable[[], float]] = {}
        self._counts: dict[tuple[str, Labels], Count] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}
        self._accounts: dict[Namespace, Account] = {}

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Have ``read`` called for the value of now whenever somebody asks for :meth:`gauges`."""
        self._gauges[name] = read

    def gauges(self) -> dict[str, float]:
        """The values of now of all gauges."""
        return {name: read() for name, read in self._gauges.items()}

    def counter(self, name: str, labels: Labels = "") -> Count:
        """The counter of ``name`` for ``labels`` (a protocol, a protocol and a reason …)."""
        found = self._counts.get((name, labels))
        if found is None:
            found = self._counts[name, labels] = Count()
        return found

    def add(self, name: str, labels: Labels = "", amount: int = 1) -> None:
        """Count ``amount`` more of ``name`` for ``labels``."""
        self.counter(name, labels).value += amount

    def count(self, name: str, labels: Labels = "") -> int:
        """How many of ``name`` for ``labels`` there were."""
        found = self._counts.get((name, labels))
        return 0 if found is None else found.value

    def counts(self) -> dict[tuple[str, Labels], int]:
        """All counters, by name and labels."""
        return {key: count.value for key, count in self._counts.items()}

    def histogram(self, name: str, labels: Labels = "", bounds: Sequence[float] = SECONDS) -> Histogram:
        """The histogram of ``name`` for ``labels``; it has the bounds that were given first."""
        found = self._histograms.get((name, labels))
        if found is None:
            found = self._histograms[name, labels] = Histogram(bounds)
        return found

    def histograms(self) -> Mapping[tuple[str, Labels], Histogram]:
        """All histograms, by name and labels."""
        return self._histograms

    def account(self, namespace: Namespace) -> Account:
        """The counters of the clients at home in ``namespace``; to be kept only as long as one of them is connected."""
        account = self._accounts.get(namespace)
        if account is None:
            account = self._accounts[namespace] = Account()
        return account

    def accounts(self) -> Mapping[Namespace, Account]:
        """The counters of all accounts that are counted for."""
        return self._accounts

    def forget_idle(self, in_use: Callable[[Namespace], object]) -> list[Namespace]:
        """Let go of the accounts that are not ``in_use`` and for which nothing was counted since the last call.

        An account that comes back is counted from 0.

        :returns: the accounts that are forgotten.
        """
        idle: list[Namespace] = []
        for namespace, account in self._accounts.items():
            total = account.received + account.sent + account.dropped
            if total == account.seen and not in_use(namespace):
                idle.append(namespace)
            account.seen = total
        for namespace in idle:
            del self._accounts[namespace]
        return idle
