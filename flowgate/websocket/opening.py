"""The opening handshake of a WebSocket (RFC 6455 section 4), the same for whatever is spoken behind it.

Autobahn reads the request and writes the answer.  Here is what it is told, and how a request becomes a connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import orjson
from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.web.http import RESPONSES
from twisted.web.server import Request

from flowgate.errors import MissingToken, Refused

Connection = TypeVar("Connection", bound=WebSocketServerProtocol)

_OF_THE_HANDSHAKE = (
    *("http_headers", "http_request_data", "http_request_host", "http_request_params", "http_request_path"),
    *("http_request_uri", "http_response_data", "http_status_line", "websocket_extensions", "websocket_protocols"),
    *("_transport_details", "_wskey"),
)


class Silent:
    """Autobahn's logger: it would log whole requests, with the tokens in them."""

    def _drop(self, *_: object, **__: object) -> None:
        pass

    trace = debug = info = warn = error = critical = failure = _drop


class Resource(WebSocketResource):
    """A resource of twisted.web that makes a WebSocket connection of a request."""

    def render(self, request: Request) -> bytes | int:
        # Autobahn takes the connection over; twisted.web's channel would stay its producer, in the way of the outbox.
        if request.channel is not None and request.channel.transport is not None:
            request.channel.transport.unregisterProducer()  # type: ignore[attr-defined]
        rendered: bytes | int = super().render(request)  # type: ignore[no-untyped-call]
        return rendered


def configured(kind: type[Connection], factory: WebSocketServerFactory, largest: int) -> type[Connection]:
    """Set what Autobahn lets be chosen.

    Autobahn would copy its options into every connection, and format them for its log: half of what one costs.

    :param largest: the most bytes of a message; 0 for no bound.
    :returns: the kind of connection with the options in its class.
    """
    factory.setProtocolOptions(  # type: ignore[no-untyped-call]
        webStatus=False,
        utf8validateIncoming=True,
        maxFramePayloadSize=largest,
        maxMessagePayloadSize=largest,
        failByDrop=False,
        echoCloseCodeReason=True,
        allowNullOrigin=True,
        # Autobahn's timers would use the global reactor: every deadline is on the gateway's wheel.
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
        autoPingInterval=0,
    )
    options = {name: getattr(factory, name) for name in WebSocketServerProtocol.CONFIG_ATTRS}
    of_class = {name: staticmethod(value) if callable(value) else value for name, value in options.items()}
    return type(kind.__name__, (kind,), {**of_class, "CONFIG_ATTRS": []})


def forget(connection: WebSocketServerProtocol) -> None:
    """Let go of what Autobahn keeps of a handshake that is done."""
    for name in _OF_THE_HANDSHAKE:
        vars(connection).pop(name, None)


def refused(
    code: int, detail: str, request_id: str, refusal: Refused | None, headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """The answer to a handshake that is refused: a problem document (RFC 9457).

    :param refusal: the reason; ``None`` if the request is no handshake that Autobahn takes.
    :param headers: further ones, which Autobahn asks for.
    """
    slug = "invalid_parameter" if refusal is None else refusal.code
    phrase = RESPONSES.get(code, b"Refused").decode("ascii")
    body = orjson.dumps(
        {
            "type": f"/docs/problems/{slug}",
            "title": phrase if refusal is None else refusal.title,
            "status": code,
            "detail": detail,
            "code": slug,
            "request_id": request_id,
            **({} if refusal is None else refusal.members),
        },
        default=str,
    )
    lines = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        *headers,
    ]
    if code == 401:
        challenge = "" if isinstance(refusal, MissingToken) else ' error="invalid_token"'  # RFC 6750 section 3
        lines.append(("WWW-Authenticate", "Bearer" + challenge))
    if code == 405:
        lines.append(("Allow", "GET"))
    if code == 426:
        lines.append(("Upgrade", "websocket"))  # RFC 9110 section 15.5.22
    if refusal is not None and refusal.retry_after is not None:
        lines.append(("Retry-After", str(refusal.retry_after)))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"HTTP/1.1 {code} {phrase}\r\n{head}\r\n".encode() + body
