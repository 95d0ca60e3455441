"""An HTTP site over in-memory connections: what comes back is read with the standard library's own parser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http.client import HTTPResponse
from io import BytesIO
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource

from flowgate.auth.accounts import Accounts
from flowgate.auth.audit import Audit
from flowgate.auth.keys import Keyring
from flowgate.auth.permissions import Grant, Grants, Principal
from flowgate.auth.signing import SigningKeys
from flowgate.auth.tokens import TokenService
from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_journal import MemoryJournal
from flowgate.bus.memory_queue_logs import MemoryQueueLogs
from flowgate.bus.memory_retained import MemoryRetained
from flowgate.bus.memory_store import MemoryStore
from flowgate.bus.memory_topics import MemoryBus
from flowgate.connections import Connections
from flowgate.errors import InvalidToken
from flowgate.gateway import Gateway
from flowgate.http.answers import Route
from flowgate.http.site import make_site
from flowgate.limits import Limits, Policies
from flowgate.metering import Meter
from flowgate.queues.service import Queues
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

    recognize = verify

    def revoke(self, principal: Principal) -> Deferred[None]:
        return succeed(None)


class Transport(StringTransport):
    """Loses its connection as a socket does: in a later turn, once, and nothing is read after it was asked for.

    :ivar aborted: whether the connection was closed without sending the rest.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.protocol: Any = None
        self.aborted = False
        self.closed = False

    def loseConnection(self) -> None:
        super().loseConnection()
        self._clock.callLater(0, self.lose)

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()

    def unregisterProducer(self) -> None:
        if self.producer is not None:
            super().unregisterProducer()

    def lose(self) -> None:
        """The connection is gone."""
        if not self.closed:
            self.closed = self.disconnecting = True
            self.protocol.connectionLost(Failure(ConnectionDone()))


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
        self.transport = Transport(client.clock)
        self.protocol: Any = client.site.buildProtocol(cast(Any, None))
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        if not self.transport.disconnecting:
            self.protocol.dataReceived(data)
        self._client.settle()

    @property
    def received(self) -> bytes:
        return bytes(self.transport.value())

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
        self.transport.lose()
        self._client.settle()


class HttpClient:
    """A whole site over a bus, a store and queues in memory, and its client.

    :ivar clock: the site's time.
    :ivar drawn: the number from 0 to 1 that chance gives.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        policies: Policies | None = None,
        websocket: IResource | None = None,
        real_tokens: bool = False,
        log_requests: bool = False,
        further: Callable[[HttpClient], Iterable[Route]] = lambda _: (),
    ) -> None:
        """Make a site.

        :param real_tokens: whether tokens are made and verified, instead of known by heart.
        :param log_requests: whether each request has a line in the log.
        :param further: makes further routes.
        """
        limits = limits or Limits()
        self.clock = Clock()
        self.bus = MemoryBus(self.clock)
        self.connections = Connections(limits.connections)
        self.router = Router()
        self.retained = MemoryRetained(self.clock)
        self.gateway = Gateway(
            self.bus,
            self.router,
            Turn(),
            self.connections,
            Meter(),
            limits,
            policies or Policies(),
            retained=self.retained,
            groups=MemoryGroups(MemoryGroupsHub(self.clock, self.bus)),
        )
        self.bus.listener = self.gateway
        self.bus.start()
        self.store = MemoryStore()
        self.keyring = Keyring(self.store, b"master secret", self.now)
        self.keyring.start()
        self.journal = MemoryJournal(self.now)
        self.accounts = Accounts(self.keyring, Audit(self.journal, self.now))
        self.signing = SigningKeys(b"master secret", self.store, self.now)
        self.token_service = TokenService(self.keyring, self.signing, self.store, "https://gateway", self.now)
        self.token_service.start()
        self.tokens = FakeTokens()
        self.queues = Queues(
            MemoryQueueLogs(self.clock),
            self.store,
            b"master secret",
            self.clock,
            self.now,
            meter=self.gateway.meter,
        )
        self.queues.start()
        self.draining = False
        self.drawn = 0.0
        self.wheel = Wheel(self.clock)
        self.site = make_site(
            self.gateway,
            self.token_service if real_tokens else cast(TokenService, self.tokens),
            self.accounts,
            self.queues,
            ADMIN_TOKEN,
            {b"/ws": websocket or cast(IResource, Resource())},
            self.wheel,
            self.clock,
            self.now,
            lambda: self.draining,
            further(self),
            draw=lambda: self.drawn,
            log_requests=log_requests,
        )
        self.settle()

    def now(self) -> float:
        """Seconds since 1970 UTC."""
        return NOW + self.clock.seconds()

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
