"""paho-mqtt as its users call it; see the package for what it is told and what it prints."""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTMessage, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion


def say(*words: object) -> None:
    print(*words, flush=True)


class Run:
    """One client, from connecting to disconnecting."""

    def __init__(self, request: dict[str, Any]) -> None:
        url = urlsplit(request["url"])
        web = url.scheme == "ws"
        self._request = request
        self._connected = self._subscribed = self._gone = False
        self._received = 0
        self._client = client = Client(
            CallbackAPIVersion.VERSION2,
            request["id"],
            clean_session=request["clean"],
            protocol=MQTTv311,
            transport="websockets" if web else "tcp",
        )
        client.username_pw_set("Bearer", request["token"])
        if web:
            client.ws_set_options(path=url.path)
        if "will" in request:
            will = request["will"]
            client.will_set(will["topic"], will["message"], will["qos"], will["retain"])
        client.on_connect = self._connect
        client.on_subscribe = self._subscribe
        client.on_message = self._message
        client.on_disconnect = self._disconnect
        client.reconnect_delay_set(1, 1)
        client.connect(url.hostname or "", url.port or 0, request.get("keepalive", 60))

    def _connect(self, client: Client, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        if code.value:
            say("refused", code.value)
            return
        self._connected = True
        say("connected", int(flags.session_present))
        if self._request.get("filters") and not self._subscribed:
            client.subscribe([(name, self._request["qos"]) for name in self._request["filters"]])

    def _subscribe(self, _client: Client, _data: Any, _id: int, codes: Any, _properties: Any) -> None:
        self._subscribed = True
        say("subscribed", *(code.value for code in codes))

    def _message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._received += 1
        say("message", message.topic, message.qos, int(message.retain), message.payload.decode())

    def _disconnect(self, _client: Client, _data: Any, _flags: Any, _code: Any, _properties: Any) -> None:
        self._gone = True
        say("disconnected")

    def main(self) -> None:
        client, request = self._client, self._request
        count = request.get("count", 0)
        if count == -1:
            client.loop_forever()
            return
        while not self._connected and not self._gone:
            client.loop(0.1)
        if messages := request.get("messages"):
            options = (request["qos"], request.get("retain", False))
            infos = [client.publish(request["topic"], text, *options) for text in messages]
            while not self._gone and not all(info.is_published() for info in infos):
                client.loop(0.1)
        while not self._gone and (self._received < count or (request.get("filters") and not self._subscribed)):
            client.loop(0.1)  # a message is acknowledged when this returns
        client.disconnect()
        while not self._gone:
            client.loop(0.1)


if __name__ == "__main__":
    Run(json.loads(sys.argv[1])).main()
