"""``flowgate user link``: how somebody comes to a password for the dashboard."""

from __future__ import annotations

import argparse
import json
from urllib.parse import quote

from flowgate.cli.api import Api
from flowgate.cli.terminal import say


async def user_link(api: Api, options: argparse.Namespace) -> None:
    body = {"admin": True} if options.admin else {}
    answer = await api.admin("POST", f"/users/{quote(options.user, safe='')}/link", body)
    say(json.dumps(answer) if options.json else answer["link"])
