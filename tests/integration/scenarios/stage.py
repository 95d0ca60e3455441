"""What a scenario plays on."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from random import Random
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import quote

from websockets.exceptions import ConnectionClosed

from tests.integration.cutting import CuttingProxy, reset
from tests.integration.gateway import PATIENCE, EventStream, MqttClient, RunningGateway, WebSocketClient, read_to_end

_T = TypeVar("_T")
_numbers = count(1)

SCENARIOS: dict[str, Callable[[Stage], None]] = {}
"""All of them, by name."""


def scenario(play: Callable[[Stage], None]) -> Callable[[Stage], None]:
    """Enter a scenario; its docstring says what must hold."""
    SCENARIOS[play.__name__] = play
    return play


def equal(found: object, expected: object, what: object = "") -> None:
    """:raises AssertionError: if they are not equal."""
    if found != expected:
        raise AssertionError(f"{what}: found {str(found)[:400]}, expected {str(expected)[:400]}")


def true(condition: object, what: object) -> None:
    """:raises AssertionError: if the condition is false."""
    if not condition:
        raise AssertionError(what)


def together(calls: Iterable[Callable[[], _T]]) -> list[_T]:
    """Make calls in threads at the same time; give back what they return, in order."""
    results: dict[int, _T] = {}
    failures: list[BaseException] = []

    def call(index: int, one: Callable[[], _T]) -> None:
        try:
            results[index] = one()
        except BaseException as failure:
            failures.append(failure)

    threads = [Thread(target=call, args=(index, one)) for index, one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(threads))]


def data(stream: EventStream, number: int) -> list[Any]:
    """The data of the next messages."""
    return [event["data"]["data"] for event in stream.receive(number)]


class Stage:
    """A scenario's part of a gateway: an account of its own, its connections, and its chance.

    :ivar rng: the same for the same seed and scenario, whatever else runs.
    """

    def __init__(self, gateway: RunningGateway, name: str, seed: int) -> None:
        self.gateway = gateway
        self.rng = Random(f"{seed} {name}")
        self._stack = ExitStack()
        self.user = f"u{next(_numbers)}-{name.replace('_', '-')}"[:32].rstrip("-")
        self.key = gateway.key(self.user)
        self.token = self.new_token()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def enter(self, manager: AbstractContextManager[_T]) -> _T:
        """Have something ended with the scenario."""
        return self._stack.enter_context(manager)

    # -- accounts

    def new_token(self, key: str | None = None, **narrowed: Any) -> str:
        """Another token, of this account's key unless told otherwise."""
        status, answer = self.gateway.request("POST", "/token/", {"api_key": key or self.key, **narrowed})
        equal(status, 200, answer)
        return str(answer["token"])

    # -- connections

    def events(self, *topics: str, last: str | None = None, token: str | None = None) -> EventStream:
        return self.enter(self.gateway.events(token or self.token, *topics, last=last))

    def websocket(self, token: str | None = None, **options: Any) -> WebSocketClient:
        return self.enter(self.gateway.websocket(token or self.token, **options))

    def subscriber(self, topic: str, token: str | None = None, **options: Any) -> WebSocketClient:
        """A WebSocket that has subscribed."""
        client = self.websocket(token)
        client.subscribe(topic, **options)
        return client

    def mqtt(
        self, *filters: str, qos: int = 0, client_id: str = "", token: str | None = None, **more: Any
    ) -> MqttClient:
        """An MQTT client, that has subscribed if there are filters."""
        client = self.enter(self.gateway.mqtt_client(token or self.token, client_id, **more))
        if filters:
            equal(client.subscribe(*filters, qos=qos), (qos,) * len(filters), filters)
        return client

    def proxy(self) -> CuttingProxy:
        """A proxy before HTTP and WebSocket."""
        proxy = CuttingProxy(lambda: self.gateway.http)
        self._stack.callback(proxy.close)
        return proxy

    def raw(self, sent: bytes, port: int = 0) -> socket.socket:
        """A connection on which something has been sent."""
        sock = socket.create_connection(("127.0.0.1", port or self.gateway.http), PATIENCE)
        self._stack.callback(reset, sock)
        with contextlib.suppress(ConnectionError):  # it may be closed before it has heard all
            sock.sendall(sent)
        return sock

    def exchange(self, sent: bytes, port: int = 0) -> bytes:
        """What comes until the gateway closes."""
        return read_to_end(self.raw(sent, port))

    # -- calls

    def call(
        self, method: str, path: str, body: Any = None, token: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        return self.gateway.request(method, f"/api/v1/{path}", body, token or self.token, headers)

    def good(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """A call that must succeed; its answer."""
        status, answer = self.call(method, path, body, headers=headers)
        true(200 <= status < 300, (method, path, status, answer))
        return answer

    def publish(self, topic: str, message: Any, key: str | None = None, **more: Any) -> str:
        """Publish by HTTP; the message's cursor."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return str(self.good("POST", "publish", {"topic": topic, "message": message, **more}, headers)["id"])

    def publish_many(self, topic: str, messages: Iterable[Any]) -> list[str]:
        """Publish in one batch."""
        batch = [{"topic": topic, "message": message} for message in messages]
        return [one["id"] for one in self.good("POST", "publish/batch", {"messages": batch})["results"]]

    def history(self, filter_: str = "#", limit: int = 1000) -> list[dict[str, Any]]:
        """All that history holds."""
        found: list[dict[str, Any]] = []
        since = "earliest"
        while True:
            page = self.good("GET", f"topics/{quote(filter_, safe='')}/messages?limit={limit}&since={since}")
            if not page["messages"]:
                return found
            true(len(page["messages"]) <= limit, "a page is no longer than it was asked for")
            found += page["messages"]
            since = page["next"]

    def metric(self, name: str, **labels: str) -> float:
        """See :meth:`RunningGateway.metric`."""
        return self.gateway.metric(name, **labels)

    # -- chance

    def words(self, number: int, length: int = 8) -> list[str]:
        """Different texts."""
        alphabet = "abcdefghijklmnopqrstuvwxyzäöü☃"
        return [f"{index} {''.join(self.rng.choices(alphabet, k=length))}" for index in range(number)]


def close_code(client: WebSocketClient) -> int | None:
    """The code that a WebSocket is closed with; what comes before it is thrown away."""
    try:
        while True:
            client.connection.recv(PATIENCE)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


def post(path: str, token: str, body: Any, *headers: str) -> bytes:
    """A request as bytes."""
    text = json.dumps(body).encode()
    lines = [
        f"POST /api/v1/{path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        f"Content-Length: {len(text)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text
