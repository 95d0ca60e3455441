"""Who may do what."""

from __future__ import annotations

import time
from typing import Any

from tests.integration.gateway import PATIENCE
from tests.integration.scenarios.stage import Stage, close_code, data, equal, scenario, true


@scenario
def accounts_apart(stage: Stage) -> None:
    """Two accounts use the same names at the same time: nobody sees anything of the other, over any protocol."""
    tokens = {name: stage.gateway.token(f"{stage.user[:28]}-{name}") for name in "ab"}
    readers: dict[str, Any] = {}
    for name, token in tokens.items():
        readers[name] = (
            stage.events("#", last="earliest", token=token),
            stage.subscriber("#", token=token),
            stage.mqtt("#", token=token),
        )
    sent: dict[str, list[str]] = {"a": [], "b": []}
    for number in range(60):
        name = stage.rng.choice("ab")
        text = f"{name} {number}"
        sent[name].append(text)
        body = {"topic": stage.rng.choice(("t", "u/v")), "message": text}
        equal(stage.call("POST", "publish", body, token=tokens[name])[0], 200)
    for name, (stream, client, mqtt) in readers.items():
        count = len(sent[name])
        equal(data(stream, count), sent[name], f"SSE {name}")
        equal([one["data"] for one in client.receive(count)], sent[name], f"WebSocket {name}")
        equal([payload.decode() for _, payload, _ in mqtt.receive(count)], sent[name], f"MQTT {name}")
        other = "b" if name == "a" else "a"
        foreign = f"{stage.user[:28]}-{other}_shop_t"
        equal(
            stage.call("POST", "publish", {"topic": foreign, "message": ""}, token=tokens[name])[0], 200, "a short name"
        )
        equal(data(stream, 1), [""], "it is a topic of one's own that is called so")
        client.receive(1)
        mqtt.receive(1)


@scenario
def narrow_grants(stage: Stage) -> None:
    """A token with few grants publishes and reads just these."""
    token = stage.new_token(publish=["p/#"], subscribe=["s/+/x", "s/1/#"])
    whole = stage.websocket()
    client = stage.websocket(token)
    for _ in range(40):
        topic = "/".join(stage.rng.choices(("p", "s", "1", "x"), k=stage.rng.randint(1, 3)))
        status, _ = stage.call("POST", "publish", {"topic": topic, "message": ""}, token=token)
        equal(status, 200 if topic.split("/")[0] == "p" else 403, topic)
        filter_ = "/".join(stage.rng.choices(("s", "1", "x", "+"), k=stage.rng.randint(1, 3)))
        levels = filter_.split("/")
        good = levels[:2] == ["s", "1"] or (len(levels) == 3 and levels[0] == "s" and levels[2] == "x")
        answer = client.ask(action="subscribe", topic=filter_)
        equal(answer.get("code"), None if good else "insufficient_scope", filter_)
        equal(
            stage.gateway.status(f"/api/v1/subscribe?topic={filter_.replace('+', '%2B')}", token), 200 if good else 403
        )
    equal(whole.ask(action="publish", topic="s/9/9", message="")["action"], "ack")


def _ended(stage: Stage, token: str, revoke: Any) -> None:
    """Whatever is connected with a token ends within two seconds of ``revoke()``; what another token holds does not."""
    stream, client = stage.events("t", token=token), stage.subscriber("t", token=token)
    mqtt = stage.mqtt("t", token=token)
    other = stage.gateway.token(f"{stage.user[:26]}-other")
    neighbour = stage.subscriber("t", token=other)
    began = time.monotonic()
    revoke()
    equal(close_code(client), 4401, "WebSocket")
    true(stream.ended(), "SSE")
    true(mqtt.closed(), "MQTT")
    true(time.monotonic() - began < 2.5, "within two seconds")
    equal(stage.call("GET", "topics/t/messages", token=token)[0], 401)
    equal(stage.call("POST", "publish", {"topic": "t", "message": "x"}, token=other)[0], 200)
    equal(neighbour.frame()["data"], "x")


@scenario
def revoked_token(stage: Stage) -> None:
    """A token that is revoked ends its connections."""
    token = stage.new_token()
    _ended(stage, token, lambda: equal(stage.gateway.request("POST", "/token/revoke", {"token": token})[0], 200))
    equal(stage.call("GET", "topics/t/messages")[0], 200, "another token of the same key")


@scenario
def revoked_key(stage: Stage) -> None:
    """A key that is revoked ends the connections of all its tokens."""
    key = stage.gateway.key(stage.user)
    token = stage.new_token(key)
    _ended(stage, token, lambda: stage.gateway.admin("DELETE", f"/keys/{key.partition('.')[0]}"))
    equal(stage.gateway.request("POST", "/token/", {"api_key": key})[0], 403)


@scenario
def refreshed_token(stage: Stage) -> None:
    """A connection that has taken another token lives when the first one is revoked."""
    first, second = stage.new_token(), stage.new_token()
    client = stage.subscriber("t", token=first)
    equal(client.ask(action="auth", token=second)["action"], "ack")
    equal(stage.gateway.request("POST", "/token/revoke", {"token": first})[0], 200)
    old = time.monotonic()
    while stage.call("GET", "topics/t/messages", token=first)[0] != 401:
        true(time.monotonic() - old < PATIENCE, "it is known to be revoked")
    stage.publish("t", "x")
    equal(client.frame()["data"], "x")
