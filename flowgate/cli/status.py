"""``flowgate status``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from flowgate.cli.api import Api
from flowgate.cli.terminal import one_line, say

_STEPS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


async def status(api: Api, options: argparse.Namespace) -> None:
    nodes = (await api.admin("GET", "/status"))["nodes"]
    if options.json:
        say(json.dumps(nodes))
        return
    for node in nodes:
        for line in _shown(node):
            say(line)


def _shown(node: Mapping[str, Any]) -> list[str]:
    """What is said of one node."""
    bus, queues, errors = node["bus"], node["queues"], node["errors"]
    told = f", {_span(node['age_seconds'])} ago" if node["age_seconds"] else ""
    reach = "within reach" if bus["available"] else "AWAY"
    held = ", publishers are held back" if bus["congested"] else ""
    age = f"up {_span(node['uptime_seconds'])}{told}"
    lines = [
        f"node {one_line(node['node'])}: Flow-Gate {one_line(node['version'])}, {age}",
        f"  NATS         {reach}{held}; {bus['backlog_messages']} messages wait for it, {bus['reconnects']} reconnects",
        f"  connections  {_each(node['connections'])}; {node['subscriptions']} subscriptions,"
        f" {node['sessions']} MQTT sessions",
        f"  in           {_flow(node['messages']['received'])}",
        f"  out          {_flow(node['messages']['sent'])}",
        f"  queues       {queues['open']} open: {queues['visible']} visible, {queues['in_flight']} in flight,"
        f" {queues['delayed']} delayed; the oldest {_span(queues['oldest_age_seconds'])}",
        f"  errors       {errors['count']}",
    ]
    if errors["last_at"] is not None:
        when = datetime.fromtimestamp(errors["last_at"], timezone.utc).isoformat(timespec="seconds")
        lines.append(f"  last error   {when.replace('+00:00', 'Z')} {one_line(errors['last'])}")
    return lines


def _each(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{one_line(name)} {value}" for name, value in sorted(values.items())) or "none"


def _flow(flow: Mapping[str, Any]) -> str:
    """Messages a second, of all protocols and of each, and since the start."""
    rates, total = flow["per_second"], sum(flow["count"].values())
    return (
        f"{sum(rates.values()):.1f}/s ({_each({name: f'{rate:.1f}' for name, rate in rates.items()})}), {total} in all"
    )


def _span(seconds: float) -> str:
    """A time in its two largest units."""
    left = round(seconds)
    parts: list[str] = []
    for size, unit in _STEPS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
