"""``flowgate token``, ``publish`` and ``subscribe``."""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64encode

from flowgate.cli.api import Api
from flowgate.cli.terminal import api_key, one_line, read_input, say
from flowgate.client import Gap, Message


async def token(api: Api, options: argparse.Namespace) -> None:
    say(await api.token(options.api_key, options.ttl))


async def publish(api: Api, options: argparse.Namespace) -> None:
    async with api.client(api_key(options)) as client:
        stored = await api.in_time(client.publish(options.topic, read_input(options.message)))
    shown = {"id": stored.id, "topic": stored.topic, "duplicate": stored.duplicate}
    say(json.dumps(shown) if options.json else stored.id)


def _members(message: Message) -> dict[str, object]:
    """A message as the gateway writes it."""
    members: dict[str, object] = {"topic": message.topic, "data": message.data}
    if isinstance(message.data, bytes):
        members |= {"data": b64encode(message.data).decode(), "encoding": "base64"}
    if message.id is not None:
        members |= {"id": message.id, "ts": message.ts}
    return members


def _missed(gap: Gap) -> None:
    print(f"flowgate: {gap}", file=sys.stderr, flush=True)


async def subscribe(api: Api, options: argparse.Namespace) -> None:
    async with (
        api.client(api_key(options)) as client,
        client.subscribe(options.filter, on_gap=_missed) as messages,
    ):
        async for message in messages:
            shown = _members(message)
            say(json.dumps(shown) if options.json else f"{one_line(shown['topic'])}\t{one_line(shown['data'])}")
