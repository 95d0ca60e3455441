"""Where a reader has found the gateway: what the documents and the page name in their addresses."""

from __future__ import annotations

import re

import attrs

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?\Z")
UNKNOWN = "localhost"
"""What stands in place of a host that could be anything."""


@attrs.frozen(slots=True)
class MqttDoor:
    """Where MQTT is spoken over TCP.

    :ivar secure: whether within TLS.
    """

    port: int
    secure: bool = False


@attrs.frozen(slots=True)
class Place:
    """The gateway as a reader sees it.

    :ivar host: name or address, with the port if the reader's request has one; safe to be shown anywhere.
    :ivar secure: whether the reader came by TLS.
    :ivar mqtt: ``None`` if MQTT is not spoken over TCP.
    """

    host: str
    secure: bool = False
    mqtt: MqttDoor | None = None

    @classmethod
    def of(cls, host: bytes, secure: bool, mqtt: MqttDoor | None) -> Place:
        """Make it of what a request says; a ``Host`` field that is more than a host is not believed."""
        shown = host.decode("latin-1")
        return cls(shown if _HOST.match(shown) else UNKNOWN, secure, mqtt)

    @property
    def scheme(self) -> str:
        return "https" if self.secure else "http"

    @property
    def socket_scheme(self) -> str:
        return "wss" if self.secure else "ws"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def hostname(self) -> str:
        """The host without its port, and an IPv6 address without brackets, as programs take it."""
        found = _HOST.match(self.host)
        assert found is not None
        return found[1].strip("[]")

    @property
    def mqtt_host(self) -> str:
        """Host and port of MQTT over TCP."""
        assert self.mqtt is not None
        name = self.hostname
        return f"[{name}]:{self.mqtt.port}" if ":" in name else f"{name}:{self.mqtt.port}"
