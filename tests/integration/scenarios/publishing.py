"""What was acknowledged is stored, once."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.gateway import WebSocketClient, until
from tests.integration.scenarios.stage import Stage, data, equal, post, scenario, together, true


@scenario
def idempotent_race(stage: Stage) -> None:
    """Many publish the same under one key at the same time: it is stored once, and all hear the same id or to wait."""
    stream = stage.events("t")
    sockets = [stage.websocket() for _ in range(4)]
    for number in range(6):
        key = f"key {number}"

        def by_http(key: str = key) -> tuple[int, Any, Any]:
            body = {"topic": "t", "message": key}
            status, answer = stage.call("POST", "publish", body, headers={"Idempotency-Key": key})
            return status, answer.get("id"), answer.get("duplicate")

        def by_websocket(client: WebSocketClient, key: str = key) -> tuple[int, Any, Any]:
            answer = client.ask(action="publish", topic="t", message=key, key=key)
            if answer["action"] == "error":
                return answer["status"], None, None
            return 200, answer["cursor"], answer["duplicate"]

        calls = [by_http] * 4 + [lambda client=client: by_websocket(client) for client in sockets]
        stage.rng.shuffle(calls)
        answers = together(calls)
        true({status for status, _, _ in answers} <= {200, 409}, answers)
        good = [(id_, duplicate) for status, id_, duplicate in answers if status == 200]
        equal(len({id_ for id_, _ in good}), 1, answers)
        equal([duplicate for _, duplicate in good].count(False), 1, answers)
    equal(data(stream, 6), [f"key {number}" for number in range(6)])
    equal(len(stage.history("t")), 6)


@scenario
def lost_answers(stage: Stage) -> None:
    """A publisher whose answers are lost tries again under the same key until it hears one: each is stored once."""
    proxy = stage.proxy()
    ids = []
    for number in range(25):
        proxy.limits.clear()
        proxy.limits.extend(stage.rng.choices((0, 1, 100, 300), k=stage.rng.randrange(3)))
        request = post("publish", stage.token, {"topic": "t", "message": number}, f"Idempotency-Key: {number}")
        answer = b""
        while not answer.endswith(b"}"):
            answer = stage.exchange(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), proxy.port)
        true(answer.startswith(b"HTTP/1.1 200 "), answer)
        ids.append(json.loads(answer.partition(b"\r\n\r\n")[2])["id"])
    equal([(one["id"], one["data"]) for one in stage.history("t")], [(id_, str(n)) for n, id_ in enumerate(ids)])


@scenario
def reused_keys(stage: Stage) -> None:
    """Another message under a key that is taken is refused with 422 by HTTP and WebSocket, and is stored nowhere."""
    client = stage.websocket()
    for number in range(10):
        topic, text = stage.rng.choice((("t", "other"), ("u", "first")))
        stage.publish("t", "first", key=f"k{number}")
        status, answer = stage.call(
            "POST", "publish", {"topic": topic, "message": text}, headers={"Idempotency-Key": f"k{number}"}
        )
        equal((status, answer["code"]), (422, "idempotency_key_reused"))
        answer = client.ask(action="publish", topic=topic, message=text, key=f"k{number}")
        equal((answer["status"], answer["code"]), (422, "idempotency_key_reused"))
    equal([(one["topic"], one["data"]) for one in stage.history()], [("t", "first")] * 10)


@scenario
def batches(stage: Stage) -> None:
    """Batches of random sizes are stored whole and in order, or, if one message is wrong, not at all."""
    expected = []
    stream = stage.events("#")
    for number in range(12):
        size = stage.rng.choice((1, 2, 17, 300))
        batch = [{"topic": f"t/{stage.rng.randrange(3)}", "message": f"{number} {index}"} for index in range(size)]
        if stage.rng.random() < 0.3:
            wrong = stage.rng.randrange(size)
            batch[wrong]["topic"] = "t/#"
            status, answer = stage.call("POST", "publish/batch", {"messages": batch})
            equal((status, answer["code"]), (400, "invalid_topic"))
            true(f"messages[{wrong}]" in answer["detail"], answer)
        else:
            results = stage.good("POST", "publish/batch", {"messages": batch})["results"]
            equal([one["topic"] for one in results], [one["topic"] for one in batch])
            expected += [
                (result["id"], one["topic"], one["message"]) for result, one in zip(results, batch, strict=True)
            ]
    found = [(one["id"], one["data"]["topic"], one["data"]["data"]) for one in stream.receive(len(expected))]
    equal(found, expected)


@scenario
def pipelined(stage: Stage) -> None:
    """Requests that come in any pieces, many behind one another, are answered in their order."""
    requests = b""
    kinds = []
    for number in range(60):
        kind = stage.rng.choice(("publish", "history", "wrong"))
        kinds.append(kind)
        if kind == "publish":
            requests += post("publish", stage.token, {"topic": "t", "message": number})
        elif kind == "history":
            requests += b"GET /api/v1/topics/t/messages HTTP/1.1\r\nHost: x\r\n"
            requests += f"Authorization: Bearer {stage.token}\r\n\r\n".encode()
        else:
            requests += b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    sock = stage.raw(b"")
    start = 0
    while start < len(requests):
        size = stage.rng.choice((1, 7, 100, 2000))
        sock.sendall(requests[start : start + size])
        start += size
    file = sock.makefile("rb")
    published = 0
    for kind in kinds:
        status = file.readline().split(b" ")[1]
        length = 0
        while (line := file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        body = json.loads(file.read(length))
        equal(status, b"404" if kind == "wrong" else b"200", (kind, body))
        if kind == "publish":
            published += 1
        elif kind == "history":
            equal(
                [one["data"] for one in body["messages"]], _numbers(kinds, published), "what was asked before is there"
            )
    file.close()


def _numbers(kinds: list[str], published: int) -> list[str]:
    return [str(number) for number, kind in enumerate(kinds) if kind == "publish"][:published]


@scenario
def bodies_in_pieces(stage: Stage) -> None:
    """A body that comes byte by byte, or in chunks of any size, is the same body."""
    for number in range(12):
        text = json.dumps({"topic": "t", "message": f"{number} " + "ü" * stage.rng.randrange(300)}).encode()
        head = (
            f"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {stage.token}\r\n"
            "Content-Type: application/json\r\n"
        )
        if number % 2:
            wire = b""
            start = 0
            while start < len(text):
                size = stage.rng.randint(1, 60)
                piece = text[start : start + size]
                wire += b"%x%s\r\n%s\r\n" % (len(piece), stage.rng.choice((b"", b";x=y")), piece)
                start += size
            request = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + wire + b"0\r\n\r\n"
        else:
            request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(text) + text
        sock = stage.raw(b"")
        start = 0
        while start < len(request):
            size = stage.rng.choice((1, 3, 50))
            sock.sendall(request[start : start + size])
            start += size
        true(sock.recv(1000).startswith(b"HTTP/1.1 200 "), number)
        equal(stage.history("t")[-1]["data"], json.loads(text)["message"])


@scenario
def pages_of_history(stage: Stage) -> None:
    """Pages of any size, put together, are the same history."""
    for start in range(0, 300, 100):
        stage.publish_many(f"t/{stage.rng.randrange(3)}", range(start, start + 100))
    whole = stage.history("t/#")
    equal([one["data"] for one in whole], [str(number) for number in range(300)])
    for _ in range(4):
        equal(stage.history("t/#", limit=stage.rng.randint(7, 299)), whole)


@scenario
def forgotten(stage: Stage) -> None:
    """A message with a ttl is gone from history when it is over; the others are there."""
    expected = []
    for number in range(20):
        brief = stage.rng.random() < 0.5
        stage.good("POST", "publish", {"topic": "t", "message": str(number), **({"ttl": 1} if brief else {})})
        if not brief:
            expected.append(str(number))
    until(lambda: [one["data"] for one in stage.history("t")] == expected, "history has forgotten them", 8)


@scenario
def list_of_topics(stage: Stage) -> None:
    """The list of topics is what was published, page by page."""
    counts: dict[str, int] = {}
    for _ in range(60):
        topic = f"{stage.rng.choice('abc')}/{stage.rng.randrange(8)}"
        stage.publish(topic, "x")
        counts[topic] = counts.get(topic, 0) + 1
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = stage.good("GET", f"topics?limit=5{cursor}")
        found += page["topics"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    equal({one["topic"]: one["messages"] for one in found}, counts)
    equal([one["topic"] for one in found], sorted(counts))
