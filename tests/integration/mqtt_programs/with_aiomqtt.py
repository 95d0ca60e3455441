"""aiomqtt as its users call it; see the package for what it is told and what it prints."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from urllib.parse import urlsplit

from aiomqtt import Client, Will


def say(*words: object) -> None:
    print(*words, flush=True)


async def receive(client: Client, count: int) -> None:
    """Print ``count`` messages, or all if it is -1."""
    if not count:
        return
    async for message in client.messages:
        payload = message.payload
        text = payload.decode() if isinstance(payload, bytes) else payload
        say("message", message.topic, message.qos, int(message.retain), text)
        count -= 1
        if not count:
            return


async def main(request: dict[str, Any]) -> None:
    url = urlsplit(request["url"])
    will = None
    if "will" in request:
        will = Will(
            request["will"]["topic"], request["will"]["message"], request["will"]["qos"], request["will"]["retain"]
        )
    async with Client(
        url.hostname or "",
        url.port or 0,
        username="Bearer",
        password=request["token"],
        identifier=request["id"],
        clean_session=request["clean"],
        keepalive=request.get("keepalive", 60),
        will=will,
        transport="websockets" if url.scheme == "ws" else "tcp",
        websocket_path=url.path or None,
    ) as client:
        say("connected", "?")  # the library does not show the session present flag
        if request.get("messages"):
            for text in request["messages"]:
                await client.publish(request["topic"], text, request["qos"], request.get("retain", False))
        elif request["filters"]:
            codes: Any = await client.subscribe([(name, request["qos"]) for name in request["filters"]])
            say("subscribed", *codes)
        await receive(client, request.get("count", 0))
    say("disconnected")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
