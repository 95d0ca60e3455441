"""``flowgate balance``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from flowgate.cli.api import Api
from flowgate.cli.terminal import one_line, say


async def balance(api: Api, options: argparse.Namespace) -> None:
    path = f"/users/{quote(options.user, safe='')}/balance"
    if options.add is None:
        usage = await api.admin("GET", path)
        say(json.dumps(usage) if options.json else _shown(usage))
        return
    body: dict[str, object] = {"units": options.add, "id": options.id or uuid4().hex}
    if options.note:
        body["note"] = options.note
    answer = await api.admin("POST", path, body)
    if options.json:
        say(json.dumps(answer))
    else:
        say(f"{answer['balance']} units" + ("" if answer["changed"] else "; the change had been made before"))


def _shown(usage: Mapping[str, Any]) -> str:
    plan = f"plan {one_line(usage['plan'])}" if usage["plan"] else "no plan"
    limit = "no limit" if usage["limit"] is None else f"{usage['limit']} units"
    lines = [
        f"{one_line(usage['user'])}: {plan}, {limit} in {usage['period']}, which ends {usage['resets_at']}",
        f"  used      {usage['used']}",
    ]
    for name in ("remaining", "balance"):
        if usage[name] is not None:
            lines.append(f"  {name:9} {usage[name]}")
    return "\n".join(lines)
