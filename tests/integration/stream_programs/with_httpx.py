"""httpx-sse: the loop around it is that of its README."""

from __future__ import annotations

import time
from typing import Any

import httpx
from httpx_sse import connect_sse

from tests.integration.stream_programs.saying import PAUSE, Telling, asked, say


def publish(client: httpx.Client, request: dict[str, Any]) -> None:
    for message in request["messages"]:
        body = {"topic": request["topic"], "message": message}
        answer = client.post("/api/v1/publish", json=body).raise_for_status()
        say("published", answer.json()["id"])


def read(client: httpx.Client, request: dict[str, Any]) -> None:
    telling = Telling(request)
    while telling.more:
        headers = {} if telling.last is None else {"Last-Event-ID": telling.last}
        try:
            with connect_sse(
                client, "GET", "/api/v1/subscribe", params={"topic": request["topic"]}, headers=headers
            ) as source:
                source.response.raise_for_status()
                say("open")
                for event in source.iter_sse():
                    telling.event(event.event, event.id, event.data)
                    if not telling.more:
                        return
        except httpx.TransportError:
            time.sleep(PAUSE)


if __name__ == "__main__":
    request = asked()
    headers = {"Authorization": f"Bearer {request['token']}"}
    with httpx.Client(base_url=request["http"], headers=headers, trust_env=False) as client:
        (publish if "messages" in request else read)(client, request)
