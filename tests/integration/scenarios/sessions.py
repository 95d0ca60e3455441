"""MQTT sessions that outlive their connections, beside readers of other protocols."""

from __future__ import annotations

from flowgate.mqtt.packets import DISCONNECT, Will
from tests.integration.cutting import reset
from tests.integration.scenarios.stage import Stage, data, equal, scenario, true


@scenario
def session_resumed(stage: Stage) -> None:
    """A client whose connection breaks again and again gets every QoS 1 message, in order; a repetition is allowed."""
    client = stage.mqtt("t", qos=1, client_id="c", clean_session=False)
    seen: list[int] = []
    for start in range(0, 200, 20):
        stage.publish_many("t", range(start, start + 20))
        # What it has read it has acknowledged, and would not get again.
        for _, payload, _ in client.receive(stage.rng.randrange(20)) + client.messages:
            seen.append(int(payload))
        reset(client.socket)
        client = stage.mqtt(client_id="c", clean_session=False)
    while not seen or seen[-1] < 199:
        seen += [int(payload) for _, payload, _ in client.receive(1)]
    new = [number for index, number in enumerate(seen) if number not in seen[:index]]
    equal(new, list(range(200)))


@scenario
def wills(stage: Stage) -> None:
    """The will of a client that breaks off comes to all readers; that of one that disconnects never does."""
    stream, client = stage.events("will/+"), stage.subscriber("will/+")
    expected = []
    for number in range(12):
        breaks = stage.rng.random() < 0.5
        one = stage.mqtt(will=Will(f"will/{number}", b"gone", stage.rng.choice((0, 1)), False))
        if breaks:
            reset(one.socket)
            expected.append(f"will/{number}")
        else:
            one.send(DISCONNECT)
            true(one.closed(), "it is closed")
    found = {one["data"]["topic"] for one in stream.receive(len(expected))}
    equal(found, set(expected), "SSE")
    equal({one["topic"] for one in client.receive(len(expected))}, set(expected), "WebSocket")
    stage.publish("will/end", "x")
    equal((data(stream, 1), client.frame()["data"]), (["x"], "x"), "no more than these")


@scenario
def takeover(stage: Stage) -> None:
    """Of clients with one name the last one that connects holds the session; each message comes to one of them."""
    clients = [stage.mqtt("t", qos=1, client_id="same", clean_session=False)]
    for number in range(8):
        stage.publish("t", str(number))
        equal(clients[-1].receive(1)[0][1], b"%d" % number)
        clients[-1].flush()
        clients.append(stage.mqtt(client_id="same", clean_session=False))
        true(clients[-2].closed(), "the one before is closed")
    stage.publish("t", "end")
    equal(clients[-1].receive(1)[0][1], b"end")
