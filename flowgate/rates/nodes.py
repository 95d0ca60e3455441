"""Which part of an account's rates each node has, so that they add up.

Every second a node tells the others what was wanted of it for each account that has bounds, how many connections
and subscriptions it holds for it, and how many tokens its keys were exchanged for.  Each node takes the part of the
rates that belongs to its part of what was wanted; as all hear the same, the parts make one.  A node that nothing is
wanted of keeps a little, to begin with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flowgate.auth.keys import ApiKey
from flowgate.auth.permissions import Principal
from flowgate.connections import Connections
from flowgate.errors import TooManyConnections, TooManySubscriptions
from flowgate.interfaces import IPeers
from flowgate.rates.account import AccountRates, Pace
from flowgate.rates.plan import RateLimits
from flowgate.reports import Telling, in_parts

_log = Logger()

TELL_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 3.5
"""A node that is not heard for so long has no part any more."""
KEPT_SECONDS: Final = 60.0
"""How long an account's buckets are kept while nobody of it is here; by then they are full."""
_BEGINNING: Final = 0.05
"""What a node of which nothing was wanted has, as a part of an even one."""
_REPORTED_AT_ONCE: Final = 500
_VERB: Final = "rates"

MAX_ACCOUNTS: Final = 100_000
"""Accounts of one other node that are remembered; of those beyond, it is taken to want nothing."""


@attrs.frozen(slots=True)
class Load:
    """What one node has to do for one account.

    :ivar wanted: messages a second.
    :ivar tokens: tokens that keys were exchanged for since the last telling, by the keys' ids.
    """

    wanted: float
    connections: int
    subscriptions: int
    tokens: Mapping[str, int] = attrs.field(factory=dict)


class _Node:
    """What another node has told: of this second, and what it is telling of the next."""

    __slots__ = ("coming", "heard", "loads")

    def __init__(self) -> None:
        self.heard = 0.0
        self.loads: dict[str, Load] = {}
        self.coming: dict[str, Load] = {}


class Rates:
    """The rates of all accounts on this node."""

    def __init__(
        self,
        limits: Callable[[str], RateLimits],
        connections: Connections,
        peers: IPeers,
        clock: IReactorTime,
    ) -> None:
        """Prepare; other nodes are told nothing before :meth:`start`.

        :param limits: finds what an account's plan says now.
        :param clock: the reactor.
        """
        self._limits = limits
        self._connections = connections
        self._peers = peers
        self._clock = clock
        self._accounts: WeakValueDictionary[str, AccountRates] = WeakValueDictionary()
        self._kept: dict[str, tuple[AccountRates, float]] = {}
        self._paces: WeakValueDictionary[tuple[str, str], Pace] = WeakValueDictionary()
        self._wanted: dict[str, float] = {}
        self._nodes: dict[str, _Node] = {}
        self._telling = Telling(peers, clock, _VERB, TELL_SECONDS, self._tick, self._heard)
        connections.admit = self._admit_connection
        connections.admit_subscriptions = self._admit_subscriptions

    def start(self) -> None:
        """Tell the others from now on, and listen to them."""
        self._telling.start()

    def stop(self) -> None:
        """Tell no more."""
        self._telling.stop(lambda: self._report((), True, gone=True))

    # -- what is asked

    def pace(self, principal: Principal) -> Pace:
        """The pace of whoever has a token: one object for as long as somebody keeps it."""
        who = (principal.key_id, principal.token_id)
        found = self._paces.get(who)
        if found is None:
            found = self._paces[who] = Pace(self.account(principal.user), principal.key_id)
        return found

    def account(self, user: str) -> AccountRates:
        """The rates of an account."""
        found = self._accounts.get(user)
        if found is None:
            found = self._accounts[user] = AccountRates(self._limits(user), self._clock.seconds)
            found.share(self._share(user))
        self._kept[user] = (found, self._clock.seconds())
        return found

    def take_token(self, key: ApiKey) -> None:
        """Count a token that a key is exchanged for.

        :raises RateLimited: if that is one too many.
        """
        self.account(key.user).take_token(key.id)

    def _admit_connection(self, user: str, count: int) -> None:
        """:raises TooManyConnections: if ``count`` connections here are more than the account may have, with those
        on other nodes."""
        most = self._limits(user).connections
        if most is None:
            return
        self.account(user)  # the other nodes are told of those that are known
        if count + sum(load.connections for load in self._elsewhere(user)) > most:
            raise TooManyConnections(f"the account may have {most} connections at a time")

    def _admit_subscriptions(self, user: str, count: int) -> None:
        """:raises TooManySubscriptions: as for connections."""
        most = self._limits(user).subscriptions
        if most is None:
            return
        self.account(user)
        if count + sum(load.subscriptions for load in self._elsewhere(user)) > most:
            raise TooManySubscriptions(f"the account may have {most} subscriptions at a time")

    # -- the other nodes

    def _elsewhere(self, user: str) -> Iterator[Load]:
        for node in self._nodes.values():
            load = node.loads.get(user)
            if load is not None:
                yield load

    def _share(self, user: str) -> float:
        count = len(self._nodes) + 1
        if count == 1:
            return 1.0
        own = self._wanted.get(user, 0.0)
        total = own + sum(load.wanted for load in self._elsewhere(user))
        least = max(total, 1.0) / count * _BEGINNING
        return (own + least) / (total + count * least)

    def _tick(self) -> None:
        now = self._clock.seconds()
        self._nodes = {name: node for name, node in self._nodes.items() if node.heard > now - SILENT_SECONDS}
        loads = self._loads(now)
        for user, account in list(self._accounts.items()):
            limits = self._limits(user)
            if limits != account.limits:  # the account has another plan
                account.change(limits)
            account.share(self._share(user))
        if not self._peers.alone:
            self._tell(loads)

    def _loads(self, now: float) -> dict[str, Load]:
        """What there is to do here, for accounts that have bounds."""
        loads: dict[str, Load] = {}
        wanted: dict[str, float] = {}
        for user, account in list(self._accounts.items()):
            # Half of it from before: a single second says little.
            demand = (self._wanted.get(user, 0.0) + account.wanted / TELL_SECONDS) / 2
            account.wanted = 0
            tokens, account.tokens = account.tokens, {}
            if demand >= 0.1:
                wanted[user] = demand
            held = self._connections.of_user(user), self._connections.subscriptions_of_user(user)
            limits = account.limits
            counted = (limits.connections and held[0]) or (limits.subscriptions and held[1])
            if counted or tokens or (limits.paced and demand >= 0.1):
                loads[user] = Load(round(demand, 1), *held, tokens)
            if any(held) or demand >= 0.1:
                self._kept[user] = (account, now)
        self._wanted = wanted
        for user in [user for user, (_, used) in self._kept.items() if used < now - KEPT_SECONDS]:
            del self._kept[user]
        return loads

    def _tell(self, loads: dict[str, Load]) -> None:
        parts = list(in_parts(loads.items(), _REPORTED_AT_ONCE))
        for number, part in enumerate(parts, 1):
            self._peers.tell(_VERB, self._report(part, number == len(parts)))

    def _report(self, loads: Iterable[tuple[str, Load]], whole: bool, gone: bool = False) -> bytes:
        report = {
            "node": self._peers.node,
            "loads": {user: attrs.astuple(load) for user, load in loads},
            "whole": whole,
            "gone": gone,
        }
        return json.dumps(report, separators=(",", ":")).encode()

    def _heard(self, payload: bytes) -> None:
        try:
            name, loads, whole, gone = _read(payload)
        except ValueError as error:
            _log.error("rates of another node cannot be read: {error}", error=error)
            return
        if gone:
            self._nodes.pop(name, None)
            return
        node = self._nodes.setdefault(name, _Node())
        node.heard = self._clock.seconds()
        node.coming.update(loads)
        for user, load in loads.items():
            if load.tokens:
                self.account(user).took_elsewhere(load.tokens)
        if whole or len(node.coming) >= MAX_ACCOUNTS:
            node.loads, node.coming = node.coming, {}


def _read_load(wanted: Any, connections: Any, subscriptions: Any, tokens: Any = None, *_more: object) -> Load:
    # Nodes of another version say less, or more.
    read = {str(key_id): int(count) for key_id, count in (tokens or {}).items()}
    return Load(float(wanted), int(connections), int(subscriptions), read)


def _read(payload: bytes) -> tuple[str, dict[str, Load], bool, bool]:
    """Read a report.

    :raises ValueError: if it is something else.
    """
    found: Any = json.loads(payload)
    try:
        loads = {str(user): _read_load(*one) for user, one in found["loads"].items()}
        return str(found["node"]), loads, bool(found["whole"]), bool(found["gone"])
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"not a report of rates: {error!r}") from None
