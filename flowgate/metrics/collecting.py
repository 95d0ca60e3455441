"""From the meter to Prometheus's text format.

On the way of a message nothing is touched but plain numbers; all else is done when somebody asks.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

import attrs
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import twisted
from flowgate import __version__
from flowgate.gateway import Gateway
from flowgate.metering import Histogram, Labels
from flowgate.metrics.families import COUNTERS, GAUGES, HISTOGRAMS, UNKNOWN, Family
from flowgate.queues.service import Queues

PREFIX: Final = "flowgate_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

MOST_APPLICATIONS: Final = 50
"""Applications whose queues are shown by themselves: those with the most messages."""

OTHERS: Final = "other"
"""Where all other applications are shown together; no prefix of a namespace, since those end in ``_``."""


@attrs.define(slots=True)
class Depth:
    """What the open queues of an application hold."""

    visible: int = 0
    in_flight: int = 0
    delayed: int = 0
    bytes: int = 0
    oldest_age_seconds: float = 0.0

    @property
    def messages(self) -> int:
        return self.visible + self.in_flight + self.delayed

    def add(self, other: Depth) -> None:
        self.visible += other.visible
        self.in_flight += other.in_flight
        self.delayed += other.delayed
        self.bytes += other.bytes
        self.oldest_age_seconds = max(self.oldest_age_seconds, other.oldest_age_seconds)


def depths(queues: Queues, most: int = MOST_APPLICATIONS) -> dict[str, Depth]:
    """What the queues hold that are open on this node, by application.

    :param most: applications that are told apart; the rest of them is under :data:`OTHERS`.
    """
    found: dict[str, Depth] = {}
    for namespace, _, stats in queues.open_stats():
        depth = found.setdefault(namespace.prefix, Depth())
        depth.add(Depth(stats.visible, stats.in_flight, stats.delayed, stats.bytes, stats.oldest_age_seconds))
    if len(found) > most:
        ordered = sorted(found, key=lambda prefix: (-found[prefix].messages, prefix))
        rest = Depth()
        for prefix in ordered[most:]:
            rest.add(found.pop(prefix))
        found[OTHERS] = rest
    return found


def _values(labels: Labels, family: Family) -> Sequence[str]:
    if not family.labels:
        return ()
    return (labels,) if isinstance(labels, str) else labels


class GatewayCollector(Collector):
    """Reads what one node has counted."""

    def __init__(self, gateway: Gateway, queues: Queues) -> None:
        self._gateway = gateway
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._gauges()
        yield from self._depths()
        yield from self._histograms()

    def _counters(self) -> Iterable[Metric]:
        found: dict[str, CounterMetricFamily] = {}
        for (name, labels), count in self._gateway.meter.counts().items():
            family = COUNTERS.get(name, UNKNOWN)
            metric = found.get(name)
            if metric is None:
                metric = CounterMetricFamily(PREFIX + name, family.help, labels=family.labels)
                found[name] = metric
            metric.add_metric(_values(labels, family), count)
        return found.values()

    def _gauges(self) -> Iterator[Metric]:
        gateway = self._gateway
        info = _gauge("build_info")
        info.add_metric((__version__, platform.python_version(), twisted.__version__), 1)
        yield info
        connections = _gauge("connections")
        for protocol, count in gateway.connections.protocols().items():
            connections.add_metric((protocol,), count)
        yield connections
        for name, value in (
            ("subscriptions", gateway.subscriptions),
            ("outbox_bytes", gateway.turn.held),
            ("bus_available", gateway.available),
            ("bus_congested", gateway.congested),
            *gateway.meter.gauges().items(),
        ):
            yield _single(name, value)

    def _depths(self) -> Iterator[Metric]:
        depth, size, age = _gauge("queue_depth"), _gauge("queue_bytes"), _gauge("queue_oldest_age_seconds")
        for application, found in depths(self._queues).items():
            for state in ("visible", "in_flight", "delayed"):
                depth.add_metric((application, state), getattr(found, state))
            size.add_metric((application,), found.bytes)
            age.add_metric((application,), found.oldest_age_seconds)
        yield from (_single("open_queues", len(self._queues.opened)), depth, size, age)

    def _histograms(self) -> Iterable[Metric]:
        found: dict[str, HistogramMetricFamily] = {}
        for (name, labels), histogram in self._gateway.meter.histograms().items():
            family = HISTOGRAMS.get(name, UNKNOWN)
            metric = found.get(name)
            if metric is None:
                metric = HistogramMetricFamily(PREFIX + name, family.help, labels=family.labels)
                found[name] = metric
            metric.add_metric(_values(labels, family), _buckets(histogram), histogram.sum)
        return found.values()


def _single(name: str, value: float) -> Metric:
    """What is read now, by itself; it may be what others have counted."""
    if name in COUNTERS:
        return CounterMetricFamily(PREFIX + name, COUNTERS[name].help, value=value)
    return GaugeMetricFamily(PREFIX + name, GAUGES.get(name, UNKNOWN).help, value=value)


def _gauge(name: str) -> GaugeMetricFamily:
    family = GAUGES[name]
    return GaugeMetricFamily(PREFIX + name, family.help, labels=family.labels)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [floatToGoString(bound) for bound in (*histogram.bounds, float("inf"))]  # type: ignore[no-untyped-call]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


class Exposition:
    """One node's page of metrics: its own and those of its process."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Everything as it is now, in the text format 0.0.4."""
        return generate_latest(self._registry)
