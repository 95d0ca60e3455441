"""The opening handshake of a WebSocket (RFC 6455 section 4), the same for whatever is spoken behind it.

Autobahn reads the request and writes the answer.  Here is what it is told, and how a request becomes a connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.web.server import Request

from flowgate.errors import MissingToken, OriginNotAllowed, Refused
from flowgate.websocket.deflate import WINDOW_BITS

Connection = TypeVar("Connection", bound=WebSocketServerProtocol)

_OF_THE_HANDSHAKE = (
    *("http_headers", "http_request_data", "http_request_host", "http_request_params", "http_request_path"),
    *("http_request_uri", "http_response_data", "http_status_line", "websocket_extensions", "websocket_protocols"),
    *("_transport_details", "_wskey", "websocket_extensions_in_use"),
)


_OFFER = re.compile(r"permessage-deflate[ \t]*(?:;|\Z)", re.IGNORECASE)
_PARAMETER = re.compile(
    r"(?:(?:server|client)_no_context_takeover|client_max_window_bits"
    r"|(?:server|client)_max_window_bits[ \t]*=[ \t]*(\"?)(?:9|1[0-5])\1)\Z",
    re.IGNORECASE,
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
        offered = request.requestHeaders.getRawHeaders("Sec-WebSocket-Extensions")
        if offered is not None:
            request.requestHeaders.setRawHeaders("Sec-WebSocket-Extensions", [readable(",".join(offered))])
        rendered: bytes | int = super().render(request)  # type: ignore[no-untyped-call]
        return rendered


def readable(offers: str) -> str:
    """Those offers of compression that are well-formed, of a list of extensions.

    The others are declined (RFC 7692 section 7.1); Autobahn would refuse the whole handshake.  A window of 256 bytes is
    among them, which zlib does not have.
    """
    return ", ".join(offer for offer in offers.split(",") if _well_formed(offer.strip(" \t")))


def _well_formed(offer: str) -> bool:
    if not _OFFER.match(offer):
        return False
    parameters = [one.strip(" \t") for one in offer.split(";")[1:]]
    names = {one.partition("=")[0].rstrip(" \t").lower() for one in parameters}
    return len(names) == len(parameters) and all(_PARAMETER.match(one) for one in parameters)


class Accepted(PerMessageDeflateOfferAccept):
    """The answer to an offer of compression: no context takeover on either side (RFC 7692 section 7.1.1)."""

    def __init__(self, offer: PerMessageDeflateOffer) -> None:
        window = WINDOW_BITS if offer.request_max_window_bits else None
        super().__init__(offer, True, 0, True, window)  # type: ignore[no-untyped-call]

    def get_extension_string(self) -> str:
        # Autobahn would not say what the client has not asked for; then it would keep a window for nothing.
        window = f"; server_max_window_bits={WINDOW_BITS}" if self.offer.request_max_window_bits else ""
        return f"{self.EXTENSION_NAME}; server_no_context_takeover; client_no_context_takeover{window}"


def accept_deflate(offers: Iterable[Any]) -> Accepted | None:
    """Take the first offer that can be kept: what is sent has the same bytes for everybody, so also one window."""
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer) and offer.request_max_window_bits in (0, *range(WINDOW_BITS, 16)):
            return Accepted(offer)
    return None


class Origins:
    """The origins (RFC 6454) of pages whose scripts may connect.

    What is no browser has no origin, and is let in by its token alone.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        """Be ready.

        :param allowed: as browsers write them; ``https://*.example.org`` is every host below; none for all.
        """
        allowed = frozenset(allowed)
        self._exact = frozenset(one for one in allowed if "://*." not in one)
        self._below = tuple(tuple(one.split("*", 1)) for one in allowed - self._exact)
        self._all = not allowed

    def check(self, origin: str | None) -> None:
        """:raises OriginNotAllowed: if scripts of this origin may not connect."""
        if self._all or not origin:
            return
        origin = origin.lower()
        if origin in self._exact:
            return
        for scheme, host in self._below:
            label = origin.removeprefix(scheme).removesuffix(host)
            if origin == scheme + label + host and label:
                return
        raise OriginNotAllowed


def configured(
    kind: type[Connection], factory: WebSocketServerFactory, largest: int, deflate: bool = False
) -> type[Connection]:
    """Set what Autobahn lets be chosen.

    Autobahn would copy its options into every connection, and format them for its log: half of what one costs.

    :param largest: the most bytes of a message; 0 for no bound.
    :param deflate: whether compression is taken if it is offered; who takes it inflates by ``deflate.Messages``.
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
        perMessageCompressionAccept=accept_deflate if deflate else None,
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
    phrase = HTTPStatus(code).phrase
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
