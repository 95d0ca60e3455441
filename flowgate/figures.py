"""What an account is told about itself, on topics below ``$SYS`` in its own namespace.

**Of all nodes together.**  Every 10 s a node tells the others what has changed for the accounts that it knows, and an
empty report if nothing has.  Reports are numbered; each names the first one of the telling that left nothing out, its
*base*.  A node that has heard everything since the base knows all there is; one that has not, because it is new or
because a report was lost, says so in its own reports, and the other one then begins anew.

**Kept in memory only.**  Figures count from the start of each node.  What a node that has gone had counted is missing
from then on, and an account that nobody used for a while is forgotten: its figures begin with 0 again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flowgate.gateway import Gateway, Interest
from flowgate.interfaces import IPeers
from flowgate.limits import Limits
from flowgate.message import RetainedPage, Run
from flowgate.reports import Heard, Telling, in_parts
from flowgate.router import Router
from flowgate.topics import RESERVED, Namespace, Topic, matches

_log = Logger()

TELL_SECONDS = 10.0
"""How often subscribers and the other nodes are told."""
SILENT_SECONDS = 35.0
"""A node that is not heard for so long is forgotten."""
FORGET_TICKS = 60
"""Every so many times of telling the accounts are forgotten that had neither connection nor message since the last
time: after 10 to 20 minutes."""
MAX_ACCOUNTS = 100_000
"""Accounts of one other node that are remembered; of those beyond that its part is missing in the figures."""

_REPORTED_AT_ONCE = 200
"""Accounts in one report: that makes 32 KiB, if their names and numbers are the longest."""
_VERB = "figures"

_FIGURES = ("clients/connected", "messages/received", "messages/sent", "messages/dropped")
_QUOTA = "quota"
_LIMITS = ("message_bytes", "subscriptions", "inflight_messages", "queued_messages", "queued_bytes", "session_seconds")

Tally = tuple[int, ...]
"""The numbers of one account on one node, in the order of the topics that show them."""

_NOTHING: Tally = (0,) * len(_FIGURES)


def quota(limits: Limits) -> dict[str, int]:
    """The limits that hold for an account."""
    return {name: getattr(limits, name) for name in _LIMITS}


@attrs.frozen(slots=True)
class Report:
    """What one node tells the others.

    :ivar number: grows by one with every report; 0 for the last one of a node that stops.
    :ivar base: the number of the report that began to tell everything.
    :ivar again: nodes of which the teller has missed something.
    :ivar accounts: what has changed, by the prefix of the namespace; ``None`` for an account that is forgotten.
    """

    node: str
    number: int
    base: int
    again: Sequence[str]
    accounts: Mapping[str, Tally | None]

    def encode(self) -> bytes:
        return json.dumps(attrs.asdict(self, recurse=False), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Report:
        """Read what :meth:`encode` wrote.

        :raises ValueError: if it is something else.
        """
        found = json.loads(payload)
        try:
            accounts = {
                str(prefix): None if numbers is None else _tally(numbers)
                for prefix, numbers in found["accounts"].items()
            }
            number, base = _numbers((found["number"], found["base"]))
            return cls(str(found["node"]), number, base, list(found["again"]), accounts)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a report of figures: {error!r}") from None


def _tally(numbers: Any) -> Tally:
    if len(numbers) != len(_FIGURES):
        raise ValueError("not as many figures as are expected")
    return _numbers(numbers)


def _numbers(numbers: Iterable[Any]) -> tuple[int, ...]:
    found = tuple(numbers)
    if not all(type(number) is int for number in found):
        raise ValueError("a figure is not a whole number")
    return found


class _Node(Heard):
    """What another node has told."""

    __slots__ = ("accounts",)

    def __init__(self) -> None:
        super().__init__()
        self.accounts: dict[str, Tally] = {}

    def take(self, report: Report, now: float) -> None:
        if self.note(report.number, report.base, now):
            self.accounts.clear()
        for prefix, tally in report.accounts.items():
            if tally is None:
                self.accounts.pop(prefix, None)
            elif prefix in self.accounts or len(self.accounts) < MAX_ACCOUNTS:
                self.accounts[prefix] = tally


class Figures:
    """Publishes the figures of accounts to the subscribers of this node."""

    def __init__(self, gateway: Gateway, router: Router, peers: IPeers, clock: IReactorTime) -> None:
        """Prepare; nothing happens before :meth:`start`.

        :param router: of the subscribers of this node.
        :param clock: in the reactor's seconds.
        """
        self._gateway = gateway
        self._router = router
        self._peers = peers
        self._clock = clock
        self._quota = json.dumps(quota(gateway.limits)).encode()
        self._nodes: dict[str, _Node] = {}
        self._gone: list[Namespace] = []
        self._number = 0
        self._base = 0
        self._anew = True
        self._ticks = 0
        self._telling = Telling(peers, clock, _VERB, TELL_SECONDS, self._tick, self._heard)

    def start(self) -> None:
        """Tell from now on, and answer new subscribers."""
        self._gateway.figures = self.page
        self._telling.start()

    def stop(self) -> None:
        """Tell no more; the other nodes need not wait for this one's silence."""
        self._telling.stop(lambda: Report(self._peers.node, 0, 0, (), {}).encode())

    def _tick(self) -> None:
        self._forget()
        for namespace in self._router.reserved():
            for topic, payload in self.shown(namespace).items():
                # As retained: who reads the retained ones at the same time does not show an older one after it.
                self._router.deliver(Run(topic, [payload], retain=True))
        self._gateway.turn.flush()
        if not self._peers.alone:
            self._tell()

    # -- what is shown

    def total(self, namespace: Namespace) -> Tally:
        """The figures of an account on all nodes."""
        prefix = namespace.prefix
        tallies = [self._own(namespace), *(node.accounts.get(prefix, _NOTHING) for node in self._nodes.values())]
        return tuple(map(sum, zip(*tallies, strict=True)))

    def shown(self, namespace: Namespace) -> dict[Topic, bytes]:
        """What the topics of a namespace show now."""
        figures = zip(_FIGURES, self.total(namespace), strict=True)
        payloads = {name: b"%d" % number for name, number in figures} | {_QUOTA: self._quota}
        return {Topic(namespace, f"{RESERVED}/{name}"): payload for name, payload in payloads.items()}

    def page(self, interest: Interest, after: int, limit: int) -> RetainedPage:
        """What new subscribers are shown, as if it were retained; see :meth:`IRetained.page`."""
        runs = [
            Run(topic, [payload], sequences=[place], retain=True)
            for place, (topic, payload) in enumerate(self.shown(interest.namespace).items(), 1)
            if place > after and matches(interest.filter, topic.name)
        ]
        found = runs[:limit]
        return RetainedPage(found, found[-1].sequences[0] if len(runs) > limit else None, [None] * len(found))

    def _own(self, namespace: Namespace) -> Tally:
        """The figures of an account on this node."""
        account = self._gateway.meter.accounts().get(namespace)
        connected = self._gateway.connections.count(namespace)
        if account is None:
            return (connected, 0, 0, 0)
        return (connected, account.received, account.sent, account.dropped)

    # -- what is told to other nodes

    def _tell(self) -> None:
        anew, self._anew = self._anew, False
        if anew:
            self._base = self._number + 1
        changed: dict[str, Tally | None] = dict.fromkeys(namespace.prefix for namespace in self._gone)
        self._gone.clear()
        count = self._gateway.connections.count
        for namespace, account in self._gateway.meter.accounts().items():
            tally = (count(namespace), account.received, account.sent, account.dropped)
            if anew or tally != account.told:
                account.told = tally
                changed[namespace.prefix] = tally
        again = [name for name, node in self._nodes.items() if not node.complete]
        for part in in_parts(changed.items(), _REPORTED_AT_ONCE):
            self._number += 1
            report = Report(self._peers.node, self._number, self._base, again, dict(part))
            self._peers.tell(_VERB, report.encode())

    def _heard(self, payload: bytes) -> None:
        try:
            report = Report.decode(payload)
        except ValueError as error:
            _log.error("figures of another node cannot be read: {error}", error=error)
            return
        if not report.number:
            self._nodes.pop(report.node, None)
            return
        node = self._nodes.get(report.node)
        if node is None:
            node = self._nodes[report.node] = _Node()
            self._anew = True  # it has just come, or was cut off: it will need everything
        elif self._peers.node in report.again:
            self._anew = True
        node.take(report, self._clock.seconds())

    def _forget(self) -> None:
        """Let go of nodes that are silent, and now and then of accounts that nobody uses."""
        silent = self._clock.seconds() - SILENT_SECONDS
        for name in [name for name, node in self._nodes.items() if node.heard <= silent]:
            del self._nodes[name]
        self._ticks += 1
        if self._ticks % FORGET_TICKS == 0:
            # Not while the account is connected to any node: its figures would fall.
            gone = self._gateway.meter.forget_idle(lambda namespace: self.total(namespace)[0])
            if not self._peers.alone:
                self._gone += gone
