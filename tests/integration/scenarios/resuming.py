"""Cut off, and back."""

from __future__ import annotations

import http.client
import time
from contextlib import suppress
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, WebSocketException

from tests.integration.gateway import EventStream, WebSocketClient
from tests.integration.scenarios.stage import Stage, data, equal, scenario, true
from tests.integration.storm import EventReader, Reader, Storm, WebSocketReader

_CUT = (
    OSError,
    EOFError,
    http.client.HTTPException,
    ValueError,
    ConnectionClosed,
    InvalidHandshake,
    WebSocketException,
)


def _limits(stage: Stage) -> list[int]:
    """Where connections are cut: anywhere, now and then in the head of the answer."""
    return [stage.rng.choice((stage.rng.randrange(400), stage.rng.randrange(1500))) for _ in range(25)]


@scenario
def events_cut_anywhere(stage: Stage) -> None:
    """A stream that is cut after any number of bytes goes on behind its last id: each message once, in order."""
    texts = stage.words(60, 40)
    ids = stage.publish_many("t", texts)
    proxy = stage.proxy()
    proxy.limits.extend(_limits(stage))
    seen: list[tuple[str, Any]] = []
    last = "earliest"
    while len(seen) < len(texts):
        with suppress(*_CUT):
            stream = EventStream(proxy.port, stage.token, ("t",), last)
            try:
                while len(seen) < len(texts):
                    [event] = stream.receive(1)
                    last = event["id"]
                    seen.append((last, event["data"]["data"]))
            finally:
                stream.close()
    equal(seen, list(zip(ids, texts, strict=True)))
    true(proxy.accepted > 5, "it was cut")


@scenario
def websocket_cut_anywhere(stage: Stage) -> None:
    """The same for a WebSocket with ``since``."""
    texts = stage.words(60, 40)
    ids = stage.publish_many("t", texts)
    proxy = stage.proxy()
    proxy.limits.extend(_limits(stage))
    seen: list[tuple[str, Any]] = []
    last = "earliest"
    while len(seen) < len(texts):
        with suppress(*_CUT):
            client = WebSocketClient(proxy.port, stage.token)
            try:
                client.send(action="subscribe", topic="t", since=last, meta=True)
                while len(seen) < len(texts):
                    frame = client.frame()
                    last = frame["id"]
                    seen.append((last, frame["data"]))
            finally:
                client.close()
    equal(seen, list(zip(ids, texts, strict=True)))
    true(proxy.accepted > 5, "it was cut")


@scenario
def kicked_while_publishing(stage: Stage) -> None:
    """Twenty readers, one of which is cut off every 5 ms while messages are published: no gap, no repetition."""
    origin = stage.publish("other", "")
    kinds: tuple[type[Reader], ...] = (EventReader, WebSocketReader)
    readers = [kind("t", stage.token, origin) for kind in kinds for _ in range(10)]
    storm = Storm(lambda: stage.gateway.http, readers, stage.rng, 0.005)
    try:
        # In pieces: a batch is published between two of them.
        for start in range(0, 1000, 50):
            stage.publish_many("t", range(start, start + 50))
            pause = time.monotonic() + 0.05
            storm.run(lambda pause=pause: time.monotonic() >= pause, 10)  # type: ignore[misc]
        storm.calm = True
        storm.run(lambda: all(len(reader.seen) >= 1000 for reader in readers), 20)
    finally:
        storm.close()
    for reader in readers:
        equal((reader.seen.tolist(), reader.gaps), (list(range(1000)), 0), type(reader).__name__)
    true(storm.kicked > 20, "it was a storm")


@scenario
def from_anywhere(stage: Stage) -> None:
    """From any cursor one reads exactly what lies behind it, with several filters too."""
    topics = [stage.rng.choice(("a", "b/c", "b/d", "x")) for _ in range(60)]
    ids = [stage.publish_many(topic, [str(number)])[0] for number, topic in enumerate(topics)]
    for place in stage.rng.sample(range(60), 8):
        expected = [str(number) for number in range(place + 1, 60) if topics[number] != "x"]
        stream = stage.events("a", "b/+", last=ids[place])
        equal(data(stream, len(expected)), expected, place)
        stream.close()
        client = stage.subscriber("b/#", since=ids[place])
        expected = [str(number) for number in range(place + 1, 60) if topics[number].startswith("b")]
        equal([one["data"] for one in client.receive(len(expected))], expected, place)
        client.close()


@scenario
def announced_place(stage: Stage) -> None:
    """What the head of a stream announces, HEAD says too; from there one gets all that is published later."""
    stage.publish_many("t", range(10))
    stream = stage.events("t")
    place = stream.answer.headers["Flow-Last-Event-ID"]
    stream.close()
    connection = http.client.HTTPConnection("127.0.0.1", stage.gateway.http, timeout=20)
    connection.request("HEAD", "/api/v1/subscribe?topic=t", headers={"Authorization": f"Bearer {stage.token}"})
    with connection.getresponse() as answer:
        equal((answer.status, answer.headers["Flow-Last-Event-ID"]), (200, place))
    connection.close()
    stage.publish_many("t", ["a", "b"])
    equal(data(stage.events("t", last=place), 2), ["a", "b"])


@scenario
def gap(stage: Stage) -> None:
    """Whoever comes with a cursor of another epoch is told of the gap first, and then gets all that there is."""
    stage.publish_many("t", range(5))
    stream = stage.events("t", last=f"gone-{stage.rng.randrange(1, 1000)}")
    [told] = stream.receive(1)
    equal(told["event"], "gap")
    equal(data(stream, 5), [str(number) for number in range(5)])
    client = stage.subscriber("t", since="gone-7")
    frame = client.frame()
    equal((frame["action"], frame["code"]), ("notice", "gap"))
    equal([one["data"] for one in client.receive(5)], [str(number) for number in range(5)])


@scenario
def slow_event_reader(stage: Stage) -> None:
    """A reader that pauses gets all that history holds at its own pace; it delays nobody."""
    slow, fast = stage.events("t"), stage.events("t")
    texts = [f"{number} " + "x" * 20_000 for number in range(300)]  # 6 MB
    for start in range(0, 300, 50):
        stage.publish_many("t", texts[start : start + 50])
        equal(data(fast, 50), texts[start : start + 50], "fast")
    equal(data(slow, 300), texts, "slow")


@scenario
def slow_websocket(stage: Stage) -> None:
    """A WebSocket that does not read is cut off with 4508; from its last id it misses nothing."""
    cut = stage.metric("flowgate_clients_cut_total", protocol="websocket", reason="slow")
    slow, fast = stage.websocket(max_queue=1), stage.websocket()
    for client in (slow, fast):
        client.subscribe("t")
    origin = stage.publish("other", "")
    texts = [f"{number} " + "x" * 100_000 for number in range(90)]
    for text in texts:
        stage.publish("t", text)
        equal(fast.frame()["data"], text, "fast")
    seen = []
    code = None
    while code is None:
        try:
            seen.append(slow.frame()["data"])
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 0
    equal((code, seen), (4508, texts[: len(seen)]))
    equal(stage.metric("flowgate_clients_cut_total", protocol="websocket", reason="slow"), cut + 1)
    again = stage.subscriber("t", since=origin)
    equal([one["data"] for one in again.receive(90)], texts, "again")


@scenario
def slow_live_event_reader(stage: Stage) -> None:
    """A reader that does not take what history does not hold is cut off; the others get everything."""
    cut = stage.metric("flowgate_clients_cut_total", protocol="sse", reason="slow")
    slow, fast = stage.events("live/a"), stage.events("live/a")
    mqtt = stage.mqtt()
    texts = [f"{number} " + "x" * 100_000 for number in range(90)]
    for text in texts:
        mqtt.publish("live/a", text.encode())
        equal(data(fast, 1), [text], "fast")
    true(slow.ended(), "it is cut off")
    equal(stage.metric("flowgate_clients_cut_total", protocol="sse", reason="slow"), cut + 1)
