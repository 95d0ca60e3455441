"""sseclient-py over requests; it does not come back by itself."""

from __future__ import annotations

import time
from typing import Any

import requests
from sseclient import SSEClient

from tests.integration.stream_programs.saying import PAUSE, Telling, asked, say


def publish(session: requests.Session, request: dict[str, Any]) -> None:
    for message in request["messages"]:
        body = {"topic": request["topic"], "message": message}
        answer = session.post(f"{request['http']}/api/v1/publish", json=body, timeout=20)
        answer.raise_for_status()
        say("published", answer.json()["id"])


def read(session: requests.Session, request: dict[str, Any]) -> None:
    telling = Telling(request)
    while telling.more:
        headers = {} if telling.last is None else {"Last-Event-ID": telling.last}
        try:
            with session.get(
                f"{request['http']}/api/v1/subscribe",
                params={"topic": request["topic"]},
                headers=headers,
                stream=True,
                timeout=20,
            ) as answer:
                answer.raise_for_status()
                say("open")
                for event in SSEClient(answer).events():  # type: ignore[arg-type]
                    telling.event(event.event, event.id, event.data)
                    if not telling.more:
                        return
        except requests.RequestException:
            time.sleep(PAUSE)


if __name__ == "__main__":
    request = asked()
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {request['token']}"
        (publish if "messages" in request else read)(session, request)
