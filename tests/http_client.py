"""An HTTP site over in-memory connections: what comes back is read with the standard library's own parser."""

from __future__ import annotations

import json
from http.client import HTTPResponse
from io import BytesIO
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import IResource, Resource

from flowgate.auth.permissions import Grant, Grants, Principal
from flowgate.bus.memory_topics import MemoryBus
from flowgate.connections import Connections
from flowgate.errors import InvalidToken
from flowgate.gateway import Gateway
from flowgate.http.site import make_site
from flowgate.limits import Limits, Policies
from flowgate.metering import Meter
from flowgate.router import Router
from flowgate.subscriber import Turn
from flowgate.timers import Wheel
from flowgate.topics import Namespace

NOW = 1_800_000_000.0
HOME = Namespace("alice", "shop")
OTHER = Namespace("bob", "cafe")
ADMIN_TOKEN = "admin-token"


def principal(grants: Grants | None = None, lifetime: float = 900.0) -> Principal:
    """A principal at home in ``alice_shop_``, with everything granted there unless told otherwise."""
    if grants is None:
        grants = Grants.everything(HOME)
    return Principal(
        user="alice",
        app="shop",
        home=HOME,
        key_id="FGAK0000000000000000",
        grants=grants,
        expires_at=NOW + lifetime,
        token_id="t1",
        issued_at=NOW,
    )


def grants(publish: str | None = None, subscribe: str | None = None, queues: tuple[str, ...] = ()) -> Grants:
    """Grants on one filter each, at home."""
    return Grants(
        () if publish is None else (Grant(HOME, publish),),
        () if subscribe is None else (Grant(HOME, subscribe),),
        queues,
    )


class FakeTokens:
    """Knows a few tokens by heart."""

    def __init__(self) -> None:
        self.known: dict[str, Principal] = {"good": principal()}

    def verify(self, token: str) -> Principal:
        found = self.known.get(token)
        if found is None:
            raise InvalidToken()
        return found


class Transport(StringTransport):
    """Remembers that it was aborted; tells its protocol when it is closed."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def getTcpNoDelay(self) -> bool:
        return True


class Answer:
    """One answer, read as a client reads it."""

    def __init__(self, raw: bytes, method: str) -> None:
        self.raw = raw

        class _Socket:
            def makefile(self, _mode: str) -> BytesIO:
                return BytesIO(raw)

        response = HTTPResponse(cast(Any, _Socket()), method=method)
        response.begin()
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """A client's connection to a site."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self.transport = Transport()
        self.protocol: Any = client.site.buildProtocol(cast(Any, None))
        self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.protocol.dataReceived(data)
        self._client.settle()

    @property
    def received(self) -> bytes:
        return self.transport.value()

    def body(self) -> bytes:
        """What has come of a chunked body so far."""
        rest = self.received.partition(b"\r\n\r\n")[2]
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            if not size or int(size, 16) == 0:
                break
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return body

    def lose(self) -> None:
        """The client goes away."""
        from twisted.internet.error import ConnectionLost
        from twisted.python.failure import Failure

        self.protocol.connectionLost(Failure(ConnectionLost()))
        self._client.settle()


class HttpClient:
    """A whole site over a bus in memory, and its client.

    :ivar clock: the site's time.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        policies: Policies | None = None,
        keyring: object = None,
        queues: object = None,
        tokens: object = None,
        websocket: IResource | None = None,
    ) -> None:
        self.clock = Clock()
        self.bus = MemoryBus(self.clock)
        self.connections = Connections((limits or Limits()).connections)
        self.router = Router()
        self.gateway = Gateway(
            self.bus, self.router, Turn(), self.connections, Meter(), limits or Limits(), policies or Policies()
        )
        self.bus.listener = self.gateway
        self.bus.start()
        self.tokens: Any = FakeTokens() if tokens is None else tokens
        self.draining = False
        self.wheel = Wheel(self.clock)
        self.site = make_site(
            self.gateway,
            self.tokens,
            cast(Any, keyring),
            cast(Any, queues),
            ADMIN_TOKEN,
            websocket or cast(IResource, Resource()),
            self.wheel,
            self.clock,
            lambda: NOW + self.clock.seconds(),
            lambda: self.draining,
        )
        self.settle()

    def settle(self) -> None:
        """Let everything happen that happens at once."""
        for _ in range(10):
            self.clock.advance(0)

    def connect(self) -> Connection:
        return Connection(self)

    def open(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        token: str | None = "good",
    ) -> Connection:
        """Send a request; ``body`` is sent as JSON unless it is bytes."""
        connection = self.connect()
        connection.send(request(method, path, body, headers, token))
        return connection

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        token: str | None = "good",
    ) -> Answer:
        """Send a request and read its answer."""
        connection = self.open(method, path, body, headers, token)
        return Answer(connection.received, method)


def request(
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
    token: str | None = "good",
) -> bytes:
    """The bytes of a request."""
    fields = {"Host": "gateway"}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    data = b""
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields["Content-Type"] = "application/json"
        fields["Content-Length"] = str(len(data))
    fields.update(headers or {})
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode() + b"\r\n" + data


def done(result: object) -> Deferred[Any]:
    return succeed(result)
