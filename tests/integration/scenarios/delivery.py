"""Who gets what, and in which order."""

from __future__ import annotations

import base64
import json
from itertools import chain
from typing import Any

from flowgate.mqtt import packets
from tests.integration.gateway import until
from tests.integration.scenarios.stage import Stage, data, equal, scenario, together, true


@scenario
def fan_out(stage: Stage) -> None:
    """What is published over any protocol comes to readers of every protocol once, in order for each publisher."""
    events = [stage.events("t/#") for _ in range(3)]
    sockets = [stage.subscriber("t/#", meta=stage.rng.random() < 0.5) for _ in range(3)]
    clients = [stage.mqtt("t/#", qos=stage.rng.choice((0, 1))) for _ in range(3)]
    mqtt, websocket = stage.mqtt(), stage.websocket()
    sent = []
    for number in range(120):
        how = stage.rng.choice(("http", "ws", "ws ack", "mqtt 0", "mqtt 1"))
        topic, text = f"t/{stage.rng.randrange(4)}", f"{how} {number}"
        sent.append(text)
        if how == "http":
            stage.publish(topic, text)
        elif how == "ws":
            websocket.send(action="publish", topic=topic, message=text)
        elif how == "ws ack":
            equal(websocket.ask(action="publish", topic=topic, message=text)["action"], "ack")
        else:
            mqtt.publish(topic, text.encode(), int(how[-1]))
    seen = {
        **{f"SSE {index}": data(one, len(sent)) for index, one in enumerate(events)},
        **{f"WebSocket {index}": [one["data"] for one in c.receive(len(sent))] for index, c in enumerate(sockets)},
        **{f"MQTT {index}": [text.decode() for _, text, _ in c.receive(len(sent))] for index, c in enumerate(clients)},
    }
    for who, texts in seen.items():
        equal(sorted(texts), sorted(sent), who)
        for how in ("http", "ws ", "ws ack", "mqtt 0", "mqtt 1"):
            own = [text for text in texts if text.startswith(how)]
            equal(own, [text for text in sent if text.startswith(how)], f"{who}: {how}")


@scenario
def one_order(stage: Stage) -> None:
    """Publishers at the same time: all readers of history see one order, the stream's, and all ids grow."""
    events = [stage.events("t") for _ in range(3)]
    sockets = [stage.subscriber("t", meta=True) for _ in range(3)]
    batches = [[f"{publisher} {number}" for number in range(40)] for publisher in range(4)]

    def publish(batch: list[str]) -> None:
        for text in batch:
            stage.publish("t", text)

    together([lambda batch=batch: publish(batch) for batch in batches])  # type: ignore[misc]
    stored = [(one["id"], one["data"]) for one in stage.history("t")]
    equal(sorted(text for _, text in stored), sorted(chain(*batches)))
    numbers = [int(id_.rpartition("-")[2]) for id_, _ in stored]
    equal(numbers, sorted(set(numbers)), "ids grow")
    for stream in events:
        equal([(one["id"], one["data"]["data"]) for one in stream.receive(len(stored))], stored, "SSE")
    for client in sockets:
        equal([(one["id"], one["data"]) for one in client.receive(len(stored))], stored, "WebSocket")


def _matches(filter_: list[str], topic: list[str]) -> bool:
    """MQTT 3.1.1 section 4.7, written down once more."""
    if not filter_:
        return not topic
    if filter_[0] == "#":
        return True
    return bool(topic) and filter_[0] in ("+", topic[0]) and _matches(filter_[1:], topic[1:])


@scenario
def wildcards(stage: Stage) -> None:
    """Random filters over random topics: each reader gets exactly what its filter matches, over all protocols."""
    rng = stage.rng

    def levels(choice: str) -> list[str]:
        return [rng.choice(choice) for _ in range(rng.randint(1, 4))]

    filters = sorted({"/".join(levels("ab+") + ["#"] * rng.randint(0, 1)) for _ in range(24)})
    topics = ["/".join(levels("abc")) for _ in range(80)]
    readers: list[tuple[str, Any]] = []
    for index, filter_ in enumerate(filters):
        kind = (stage.events, stage.subscriber, stage.mqtt)[index % 3]
        readers.append((filter_, kind(filter_)))
    stage.good(
        "POST",
        "publish/batch",
        {"messages": [{"topic": topic, "message": str(index)} for index, topic in enumerate(topics)]},
    )
    for filter_, reader in readers:
        expected = [
            (topic, str(index)) for index, topic in enumerate(topics) if _matches(filter_.split("/"), topic.split("/"))
        ]
        found = []
        for one in reader.receive(len(expected)):
            if isinstance(one, tuple):
                found.append((one[0], one[1].decode()))
            else:
                told = one["data"] if "event" in one else one
                found.append((told["topic"], told["data"]))
        equal(found, expected, filter_)
    # Nothing more than that: the next thing that everybody sees is what all see.
    for filter_, reader in readers:
        last = filter_.replace("+", "a").replace("#", "a")
        stage.publish(last, "last")
        [one] = reader.receive(1)
        text = one[1].decode() if isinstance(one, tuple) else (one["data"]["data"] if "event" in one else one["data"])
        equal(text, "last", filter_)
        for other, another in readers:
            if another is not reader and _matches(other.split("/"), last.split("/")):
                another.receive(1)


@scenario
def overlapping_filters(stage: Stage) -> None:
    """A message that several filters of a stream match comes once, in the form of the first of them."""
    forms = ["a/+", f"{stage.user}_shop_a/#", "#", "a/b"]
    stage.rng.shuffle(forms)
    stream = stage.events(*forms)
    stage.publish_many("a/b", range(20))
    found = stream.receive(20)
    equal([one["data"]["data"] for one in found], [str(number) for number in range(20)])
    full = forms[0].startswith(stage.user)
    equal({one["data"]["topic"] for one in found}, {f"{stage.user}_shop_a/b" if full else "a/b"})


@scenario
def unsubscribed(stage: Stage) -> None:
    """Behind the acknowledgement of an unsubscribe nothing comes; a new subscription begins there."""
    client = stage.websocket()
    expected = []
    on = False
    for number in range(60):
        if stage.rng.random() < 0.3:
            on = not on
            equal(client.ask(action="subscribe" if on else "unsubscribe", topic="t")["action"], "ack")
        stage.publish("t", str(number))
        if on:
            expected.append(str(number))
    if not on:
        client.ask(action="subscribe", topic="t")
    stage.publish("t", "end")
    equal([one["data"] for one in client.receive(len(expected) + 1)], [*expected, "end"])


@scenario
def bytes_of_every_kind(stage: Stage) -> None:
    """Random payloads from MQTT and HTTP come to MQTT as they are, and to JSON readers as text, JSON or base64."""
    rng = stage.rng
    payloads = [rng.randbytes(rng.randint(1, 300)) for _ in range(20)]
    payloads += [text.encode() for text in stage.words(10)] + [b"", b'{"a": 1}', b"[]", b'"x"', b"\xff", b"1e999"]
    rng.shuffle(payloads)
    events, socket, client = stage.events("t"), stage.subscriber("t"), stage.mqtt("t")
    mqtt = stage.mqtt()
    for payload in payloads:
        if rng.random() < 0.5:
            mqtt.publish("t", payload, 1)
        else:
            stage.good("POST", "publish?topic=t", payload, {"Content-Type": "application/octet-stream"})
    equal([payload for _, payload, _ in client.receive(len(payloads))], payloads, "MQTT")
    for who, found in (
        ("SSE", [one["data"] for one in events.receive(len(payloads))]),
        ("WebSocket", socket.receive(len(payloads))),
    ):
        for one, payload in zip(found, payloads, strict=True):
            shown = one["data"]
            if one.get("encoding") == "base64":
                equal(base64.b64decode(shown), payload, who)
            elif isinstance(shown, str):
                equal(shown.encode(), payload, who)
            else:
                equal(shown, json.loads(payload), who)


@scenario
def retained(stage: Stage) -> None:
    """Whatever was retained and cleared by HTTP and MQTT: all new readers get the same, the last of each topic."""
    rng, kept = stage.rng, {}
    mqtt = stage.mqtt()
    for number in range(60):
        topic = f"r/{rng.randrange(6)}"
        text = "" if rng.random() < 0.3 else f"value {number}"
        if rng.random() < 0.5:
            stage.publish(topic, text, retain=True)
        else:
            mqtt.send(packets.publishes(topic, [text.encode()], 1, [number + 1], retain=True))
            mqtt.flush()
            mqtt.acknowledged()
        kept[topic] = text
    kept = {topic: text for topic, text in kept.items() if text}

    def shown() -> dict[str, str]:
        page = stage.good("GET", "retained?topic=r/%23")
        return {one["topic"]: one["data"] for one in page["messages"]}

    until(lambda: shown() == kept, "GET shows what is retained", 5)
    client = stage.mqtt("r/#", qos=1)
    equal({topic: payload.decode() for topic, payload, _ in client.receive(len(kept))}, kept, "MQTT")
    stream = stage.enter(stage.gateway.events(stage.token, "r/#", retained=True))
    found = [one["data"] for one in stream.receive(len(kept))]
    equal({one["topic"]: one["data"] for one in found}, kept, "SSE")
    true(all(one["retained"] for one in found), "they are marked")
    socket = stage.subscriber("r/#", retained=True)
    equal({one["topic"]: one["data"] for one in socket.receive(len(kept))}, kept, "WebSocket")


@scenario
def live_only(stage: Stage) -> None:
    """What history does not hold comes to all who are there, once and in order, and to nobody later."""
    readers = [stage.events("live/#"), stage.events("live/#", last="earliest")]
    sockets = [stage.subscriber("live/#"), stage.subscriber("live/#", since="earliest")]
    mqtt = stage.mqtt()
    for number in range(50):
        mqtt.publish("live/a", b"%d" % number)
    expected = [str(number) for number in range(50)]
    for stream in readers:
        equal(data(stream, 50), expected, "SSE")
    for client in sockets:
        equal([one["data"] for one in client.receive(50)], expected, "WebSocket")
    equal(stage.history("live/#"), [])


@scenario
def presence(stage: Stage) -> None:
    """Whoever comes and goes is told to those who are there, and the count is right at the end."""
    watcher = stage.websocket()
    equal(watcher.ask(action="subscribe", topic="room", presence=True)["count"], 1)
    there: dict[str, Any] = {}
    expected = []
    for _ in range(12):
        if there and stage.rng.random() < 0.4:
            name = stage.rng.choice(sorted(there))
            equal(there.pop(name).ask(action="unsubscribe", topic="room")["action"], "ack")
            expected.append(("leave", name))
        else:
            # Each with a token of its own: else it could be one that was just away.
            client = stage.websocket(stage.new_token())
            name = client.ask(action="subscribe", topic="room", presence=True)["client"]
            there[name] = client
            expected.append(("join", name))
    told: list[tuple[str, str]] = []
    while len(told) < len(expected):
        frame = watcher.frame()
        told.append((frame["event"], frame["client"]["client"]))
    # One that leaves is told a moment later than it went.
    equal(sorted(told), sorted(expected))
    for name in there:
        equal([event for event, who in told if who == name], ["join"], name)
    who = watcher.ask(action="who", topic="room")
    equal((who["count"], len(who["clients"])), (len(there) + 1, len(there) + 1))
