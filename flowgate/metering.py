"""Counts of what the gateway did, since it started."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowgate.topics import Namespace


class Count:
    """One counter; whoever counts often keeps it and adds to ``value``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


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
    """Named counters, where a label is part of the name, and the counters of accounts."""

    __slots__ = ("_accounts", "_counts", "_gauges")

    def __init__(self) -> None:
        self._gauges: dict[str, Callable[[], int]] = {}
        self._counts: dict[tuple[str, str], Count] = {}
        self._accounts: dict[Namespace, Account] = {}

    def gauge(self, name: str, read: Callable[[], int]) -> None:
        """Have ``read`` called for the value of now whenever somebody asks for :meth:`gauges`."""
        self._gauges[name] = read

    def gauges(self) -> dict[str, int]:
        """The values of now of all gauges."""
        return {name: read() for name, read in self._gauges.items()}

    def counter(self, name: str, label: str = "") -> Count:
        """The counter of ``name`` for ``label`` (a protocol, a reason …)."""
        return self._counts.setdefault((name, label), Count())

    def add(self, name: str, label: str = "", amount: int = 1) -> None:
        """Count ``amount`` more of ``name`` for ``label``."""
        self.counter(name, label).value += amount

    def count(self, name: str, label: str = "") -> int:
        """How many of ``name`` for ``label`` there were."""
        found = self._counts.get((name, label))
        return 0 if found is None else found.value

    def counts(self) -> dict[tuple[str, str], int]:
        """All counters, by name and label."""
        return {key: count.value for key, count in self._counts.items()}

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
