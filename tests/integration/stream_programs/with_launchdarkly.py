"""launchdarkly-eventsource, which comes back by itself; urllib3, which it stands on, publishes."""

# mypy: disable-error-code="import-untyped"
# (ld_eventsource is not marked as typed)
from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import urllib3
from ld_eventsource import SSEClient
from ld_eventsource.actions import Event, Start
from ld_eventsource.config import ConnectStrategy, ErrorStrategy, RetryDelayStrategy

from tests.integration.stream_programs.saying import PAUSE, Telling, asked, say


def publish(request: dict[str, Any], headers: dict[str, str]) -> None:
    with urllib3.PoolManager(headers=headers) as pool:
        for message in request["messages"]:
            body = {"topic": request["topic"], "message": message}
            answer = pool.request("POST", f"{request['http']}/api/v1/publish", json=body, headers=headers)
            if answer.status != 200:
                raise SystemExit(f"{answer.status}: {answer.data!r}")
            say("published", answer.json()["id"])


def read(request: dict[str, Any], headers: dict[str, str]) -> None:
    telling = Telling(request)
    url = f"{request['http']}/api/v1/subscribe?{urlencode({'topic': request['topic']})}"
    with SSEClient(
        ConnectStrategy.http(url, headers=headers),
        initial_retry_delay=PAUSE,
        retry_delay_strategy=RetryDelayStrategy.default(backoff_multiplier=1),
        error_strategy=ErrorStrategy.always_continue(),
        last_event_id=telling.last,
    ) as client:
        for action in client.all:
            if isinstance(action, Start):
                say("open")
            elif isinstance(action, Event):
                telling.event(action.event, action.last_event_id, action.data)
                if not telling.more:
                    return


if __name__ == "__main__":
    request = asked()
    authorization = {"Authorization": f"Bearer {request['token']}"}
    (publish if "messages" in request else read)(request, authorization)
