"""What paho-mqtt is to do over every transport."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import ssl
from collections.abc import Iterable
from queue import Queue
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.gateway import PATIENCE


def exchange(
    test: SynchronousTestCase,
    port: int,
    token: str,
    payloads: Iterable[bytes],
    *,
    keep_alive: int,
    transport: Literal["tcp", "websockets"] = "tcp",
    tls: ssl.SSLContext | None = None,
) -> None:
    """Publish to oneself at every QoS: some payloads one by one, then many messages at once."""
    payloads = list(payloads)
    received: Queue[tuple[bytes, int]] = Queue()
    events: Queue[Any] = Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, "paho", transport=transport, protocol=paho.MQTTv311)
    client.username_pw_set("Bearer", token)
    if tls is not None:
        client.tls_set_context(tls)
    client.on_message = lambda _client, _data, message: received.put((bytes(message.payload), message.qos))
    client.on_connect = lambda _client, _data, _flags, code, _properties: events.put(code.value)
    client.on_subscribe = lambda _client, _data, _id, codes, _properties: events.put([c.value for c in codes])
    client.on_disconnect = lambda _client, _data, _flags, code, _properties: events.put(("gone", code.value))
    client.connect("127.0.0.1", port, keepalive=keep_alive)
    client.loop_start()
    test.addCleanup(client.loop_stop)
    test.assertEqual(events.get(timeout=PATIENCE), 0)
    client.subscribe([("t", 2)])
    test.assertEqual(events.get(timeout=PATIENCE), [2])
    for qos in (0, 1, 2):
        for payload in payloads:
            client.publish("t", payload, qos).wait_for_publish(PATIENCE)
            test.assertEqual(received.get(timeout=PATIENCE), (payload, qos))
        many = [client.publish("t", b"%d" % number, qos) for number in range(300)]
        for info in many:
            info.wait_for_publish(PATIENCE)
        test.assertEqual([int(received.get(timeout=PATIENCE)[0]) for _ in many], list(range(300)))
    client.disconnect()
    test.assertEqual(events.get(timeout=PATIENCE), ("gone", 0))
