"""The websockets package: its own iterator over connections comes back by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.integration.stream_programs.saying import PAUSE, Telling, asked, say


async def publish(connection: ClientConnection, request: dict[str, Any]) -> None:
    for number, message in enumerate(request["messages"]):
        frame = {"action": "publish", "topic": request["topic"], "message": message, "id": number}
        await connection.send(json.dumps(frame))
        answer = json.loads(await connection.recv())
        if answer["action"] != "ack" or answer["id"] != number:
            raise SystemExit(str(answer))
        say("published", answer["cursor"])


async def read(connection: ClientConnection, request: dict[str, Any], telling: Telling) -> None:
    frame = {"action": "subscribe", "topic": request["topic"], "meta": True, "id": "s"}
    if telling.last is not None:
        frame["since"] = telling.last
    await connection.send(json.dumps(frame))
    async for text in connection:
        told = json.loads(text)
        if told["action"] == "message":
            telling.message(told["id"], told["data"])
            if not telling.more:
                return
        elif told["action"] == "ack":
            say("open")
        elif told["action"] == "notice":
            say(told["code"])
        else:
            raise SystemExit(str(told))


async def main(request: dict[str, Any]) -> None:
    url = request["http"].replace("http:", "ws:") + f"/ws?token={request['token']}"
    if "messages" in request:
        async with connect(url, proxy=None) as connection:
            await publish(connection, request)
        return
    telling = Telling(request)
    async for connection in connect(url, proxy=None):
        try:
            await read(connection, request, telling)
        except ConnectionClosed:
            await asyncio.sleep(PAUSE)
            continue
        await connection.close()
        return


if __name__ == "__main__":
    asyncio.run(main(asked()))
