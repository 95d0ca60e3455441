"""``flowgate signing-key``: the keys that sign tokens."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from typing import Any

from flowgate.cli.api import Api
from flowgate.cli.terminal import one_line, say


async def signing_key_list(api: Api, options: argparse.Namespace) -> None:
    _show((await api.admin("GET", "/signing-keys"))["keys"], options)


async def signing_key_rotate(api: Api, options: argparse.Namespace) -> None:
    body = {"immediately": True} if options.immediately else {}
    _show((await api.admin("POST", "/signing-keys/rotate", body))["keys"], options)


def _show(keys: Any, options: argparse.Namespace) -> None:
    if options.json:
        say(json.dumps(keys))
        return
    for key in keys:
        when = ""
        if key["use"] == "announced":
            when = f"signs from {_time(key['signs_from'])}"
        elif key["use"] == "verifying":
            when = f"until {_time(key['retired_at'])}"
        say(f"{one_line(key['id'])}  {key['generation']}  {one_line(key['use'])}  {when}".rstrip())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
