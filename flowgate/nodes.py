"""How every node of the gateway is: what each tells the others of itself, for operators.

Every 10 s a node tells all there is to tell in one small message; one that is not heard for 35 s is forgotten.  So what
is shown of another node is up to 10 s old, and a node that died is seen by its silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import orjson
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flowgate import __version__
from flowgate.gateway import Gateway
from flowgate.interfaces import IPeers
from flowgate.metrics.collecting import Depth, depths
from flowgate.queues.service import Queues
from flowgate.reports import Telling

_log = Logger()

TELL_SECONDS: Final = 10.0
"""How often a node tells the others how it is."""
SILENT_SECONDS: Final = 35.0
"""A node that is not heard for so long is forgotten."""
MAX_NODES: Final = 1000
"""Nodes that are remembered."""

_VERB: Final = "status"

Report = dict[str, Any]
"""How a node is, as JSON has it; see :meth:`Nodes.own`."""

_FLOWS: Final = ("received", "sent")
_Flows = dict[str, dict[str, float]]  # by direction and protocol


class KnownErrors(Protocol):
    """What is known of errors; see :class:`flowgate.logs.Troubles`."""

    errors: int
    last: str
    last_at: float | None


class Nodes:
    """Tells how this node is, and knows it of the others."""

    def __init__(
        self,
        gateway: Gateway,
        queues: Queues,
        peers: IPeers,
        troubles: KnownErrors,
        clock: IReactorTime,
    ) -> None:
        """Prepare; nothing happens before :meth:`start`.

        :param clock: in the reactor's seconds; the node's life is counted from here on.
        """
        self._gateway = gateway
        self._queues = queues
        self._peers = peers
        self._troubles = troubles
        self._clock = clock
        self._began = clock.seconds()
        self._last: tuple[float, _Flows] = (self._began, {name: {} for name in _FLOWS})
        self._rates: _Flows | None = None
        self._others: dict[str, tuple[float, Report]] = {}
        self._telling = Telling(peers, clock, _VERB, TELL_SECONDS, self._tick, self._heard)

    def start(self) -> None:
        """Tell the others from now on, and hear them."""
        self._telling.start()

    def stop(self) -> None:
        """Tell no more, but for the end."""
        self._telling.stop(lambda: orjson.dumps({"node": self._peers.node, "gone": True}))

    def all(self) -> list[Report]:
        """How this node is now, and then how the others were when they were last heard, by their names.

        Each has ``age_seconds``: how long ago it told that.
        """
        now = self._clock.seconds()
        self._forget()
        others = [{**report, "age_seconds": round(now - heard, 3)} for heard, report in self._others.values()]
        return [{**self.own(), "age_seconds": 0.0}, *sorted(others, key=lambda report: str(report["node"]))]

    def own(self) -> Report:
        """How this node is now; rates are those of the last 10 s, or since the start if that is not so long ago."""
        gateway, counted = self._gateway, self._counted()
        rates = self._since(counted) if self._rates is None else self._rates
        gauges = gateway.meter.gauges()
        queues = Depth()
        for depth in depths(self._queues).values():
            queues.add(depth)
        return {
            "node": self._peers.node,
            "version": __version__,
            "uptime_seconds": round(self._clock.seconds() - self._began, 3),
            "bus": {
                "available": gateway.available,
                "congested": gateway.congested,
                "backlog_messages": int(gauges.get("bus_backlog_messages", 0)),
                "reconnects": int(gauges.get("bus_reconnects", 0)),
            },
            "connections": gateway.connections.protocols(),
            "subscriptions": gateway.subscriptions,
            "sessions": int(gauges.get("sessions", 0)),
            "messages": {name: {"count": counted[name], "per_second": rates[name]} for name in _FLOWS},
            "queues": {
                "open": len(self._queues.opened),
                "visible": queues.visible,
                "in_flight": queues.in_flight,
                "delayed": queues.delayed,
                "oldest_age_seconds": round(queues.oldest_age_seconds, 3),
            },
            "errors": {
                "count": self._troubles.errors,
                "last": self._troubles.last,
                "last_at": self._troubles.last_at,
            },
        }

    def _counted(self) -> _Flows:
        """Messages since the start."""
        found: _Flows = {name: {} for name in _FLOWS}
        for (name, labels), count in self._gateway.meter.counts().items():
            flow = name.removeprefix("messages_")
            if flow in found and isinstance(labels, str):
                found[flow][labels] = count
        return found

    def _since(self, counted: _Flows) -> _Flows:
        """Messages a second since the last telling."""
        when, before = self._last
        passed = self._clock.seconds() - when
        return {
            name: {
                protocol: round((count - before[name].get(protocol, 0)) / passed, 3) if passed > 0 else 0.0
                for protocol, count in counts.items()
            }
            for name, counts in counted.items()
        }

    def _tick(self) -> None:
        now = self._clock.seconds()
        if now > self._began:
            counted = self._counted()
            self._rates = self._since(counted)
            self._last = (now, counted)
        self._forget()
        if not self._peers.alone:
            self._peers.tell(_VERB, orjson.dumps(self.own()))

    def _heard(self, payload: bytes) -> None:
        try:
            report = orjson.loads(payload)
        except ValueError as error:
            _log.error("how another node is cannot be read: {error}", error=error)
            return
        node = report.get("node") if isinstance(report, Mapping) else None
        if not isinstance(node, str):
            _log.error("how another node is cannot be read: it has no name")
        elif report.get("gone"):
            self._others.pop(node, None)
        elif node in self._others or len(self._others) < MAX_NODES:
            self._others[node] = (self._clock.seconds(), dict(report))

    def _forget(self) -> None:
        silent = self._clock.seconds() - SILENT_SECONDS
        for node in [node for node, (heard, _) in self._others.items() if heard <= silent]:
            del self._others[node]
