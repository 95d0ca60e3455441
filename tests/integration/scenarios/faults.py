"""Clients that do what they should not; their neighbours notice nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from websockets.exceptions import ConnectionClosed

from tests.integration.cutting import reset
from tests.integration.gateway import until
from tests.integration.scenarios.stage import Stage, close_code, data, equal, post, scenario, true


@contextmanager
def neighbours(stage: Stage) -> Iterator[None]:
    """Readers of all protocols that get what is published before and after the fault, and nothing else."""
    stream, client, mqtt = stage.events("n"), stage.subscriber("n"), stage.mqtt("n")
    stage.publish("n", "before")
    yield
    stage.publish("n", "after")
    equal(data(stream, 2), ["before", "after"])
    equal([one["data"] for one in client.receive(2)], ["before", "after"])
    equal([payload for _, payload, _ in mqtt.receive(2)], [b"before", b"after"])


@scenario
def malformed_frames(stage: Stage) -> None:
    """Wrong WebSocket frames are each answered with an error; the connection works on, until there are too many."""
    frames = [
        ("{", "invalid_json"),
        ("[1]", "invalid_json"),
        ('{"action":"fly"}', "invalid_parameter"),
        ('{"action":"publish","topic":"t"}', "missing_field"),
        ('{"action":"publish","topic":"a/#","message":1}', "invalid_topic"),
        ('{"action":"subscribe","topic":"a#"}', "invalid_topic"),
        ('{"action":"subscribe","topic":"t","since":"x"}', "invalid_parameter"),
        ('{"action":"subscribe","topic":"t","sinse":"earliest"}', "invalid_parameter"),
        ('{"action":"auth","token":"x"}', "invalid_token"),
    ]
    with neighbours(stage):
        client = stage.websocket()
        for text, code in stage.rng.choices(frames, k=12):
            client.connection.send(text)
            equal(client.frame()["code"], code, text)
            equal(client.ask(action="ping")["action"], "ack")
            equal(client.frame(), {"action": "pong"})
        hostile = stage.websocket()
        with suppress(ConnectionClosed):
            for _ in range(200):
                hostile.connection.send("{")
        equal(close_code(hostile), 4400)


@scenario
def malformed_requests(stage: Stage) -> None:
    """Requests with noise in their heads are each answered, with a status of HTTP, and in the end closed."""
    good = post("publish", stage.token, {"topic": "t", "message": "x"}, "Connection: close")
    with neighbours(stage):
        for _ in range(40):
            noise = bytearray(good)
            head = noise.index(b"\r\n\r\n")
            for _ in range(stage.rng.randint(1, 4)):
                place = stage.rng.randrange(head)
                noise[place : place + 1] = stage.rng.choice((b"", b"\0", b"\r", b"\n", b":", b" ", b"\xff"))
            # Ended by a request that closes, so that whatever was understood comes to an end.
            answer = stage.exchange(bytes(noise) + b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            true(answer.startswith(b"HTTP/1.1 ") and answer[9:10] in (b"2", b"4", b"5"), (bytes(noise), answer[:100]))
    equal(stage.call("GET", "topics/t/messages")[0], 200)


@scenario
def malformed_packets(stage: Stage) -> None:
    """Noise instead of MQTT closes the connection."""
    with neighbours(stage):
        for _ in range(20):
            client = stage.mqtt()
            noise = stage.rng.choice((b"\x00\x00", b"\xf0\x00", b"\x36\x05\x00\x01t\x00\x01", b"\x30\xff\xff\xff\xff"))
            client.send(noise + stage.rng.randbytes(20))
            true(client.closed(), noise)
        for _ in range(20):
            # As long as it says, so that nobody waits for the rest.
            noise = stage.rng.choice((b"\x30\x28", b"GET", b"\x82\x28")) + stage.rng.randbytes(200)
            equal(stage.exchange(noise, stage.gateway.mqtt), b"")


@scenario
def too_large(stage: Stage) -> None:
    """What is too large is refused in each protocol's own way, whatever it is."""
    with neighbours(stage):
        status, answer = stage.call("POST", "publish", {"topic": "t", "message": "x" * 300_000})
        equal((status, answer["code"]), (413, "message_too_large"))
        client = stage.websocket()
        equal(client.ask(action="publish", topic="t", message="x" * 300_000)["code"], "message_too_large")
        client.connection.send(" " * 700_000)
        equal(close_code(client), 1009)
        mqtt = stage.mqtt()
        mqtt.send(b"\x30\x80\x80\x80\x01" + bytes(70_000))
        true(mqtt.closed(), "MQTT")
    equal(stage.history("t"), [])


@scenario
def broken_off_anywhere(stage: Stage) -> None:
    """Connections that end in the midst of anything, in order or not, leave nothing behind."""
    before = stage.metric("flowgate_connections")
    handshake = (
        f"GET /ws?token={stage.token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    frame = json.dumps({"action": "subscribe", "topic": "#", "since": "earliest"}).encode()
    stream = (
        f"GET /api/v1/subscribe?topic=%23 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stage.token}\r\n\r\n".encode()
    )
    said = (
        handshake + b"\x81" + bytes([0x80 | len(frame)]) + bytes(4) + frame,
        stream,
        stream.replace(b"HTTP/1.1", b"HTTP/1.0"),
        post("publish", stage.token, {"topic": "t", "message": "x" * 3000}),
    )
    with neighbours(stage):
        for _ in range(120):
            whole = stage.rng.choice(said)
            sock = stage.raw(whole[: stage.rng.choice((len(whole), stage.rng.randrange(len(whole))))])
            if stage.rng.random() < 0.5:
                reset(sock)
            else:
                sock.close()
        until(lambda: stage.metric("flowgate_connections") == before + 3, "only the neighbours are connected", 15)
