"""Requests to URLs of strangers: few bytes, little time, and only to addresses that may be connected to."""

# mypy: disallow-untyped-calls=False
# (much of twisted.web has no annotations)
from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

from OpenSSL.SSL import Error as TlsError
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import (
    IConsumer,
    IHostnameResolver,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, RequestTransmissionFailed, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from flowgate import __version__
from flowgate.webhooks.addresses import AddressPolicy

SECONDS: Final = 10.0
"""How long everything together may take: the name, the connection, the answer."""
MOST_BYTES: Final = 64 * 1024
"""How much of an answer is read, head and body together."""

_HOSTS: Final = 256
_AGENT: Final = f"Flow-Gate/{__version__}"

Post: TypeAlias = Callable[[str, Mapping[str, str], bytes], "Deferred[int]"]
"""Sends a body to a URL; the Deferred fires the status of the answer, or fails with :class:`Undelivered`."""


class Undelivered(Exception):
    """There was no answer; the text says why, without anything that a stranger wrote."""


class AddressRefused(ConnectError):
    """The address is not one that may be connected to."""


@implementer(IReactorPluggableNameResolver)
class GuardedReactor:
    """As much of a reactor as endpoints need, to connect to addresses that may be connected to.

    What is checked is what is connected to, so it does not matter what a name stood for a moment before.
    """

    def __init__(self, reactor: Any, policy: AddressPolicy) -> None:
        self._reactor = reactor
        self._policy = policy
        self.seconds = reactor.seconds
        self.callLater = reactor.callLater

    @property
    def nameResolver(self) -> IHostnameResolver:
        return cast(IHostnameResolver, self._reactor.nameResolver)

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        raise NotImplementedError("the reactor's own is used")

    def connectTCP(self, host: str, *arguments: Any, **options: Any) -> Any:
        """:raises AddressRefused: if that is not allowed; endpoints hand it on."""
        if not self._policy.allows(host):
            raise AddressRefused()
        return self._reactor.connectTCP(host, *arguments, **options)


class _Bounded(ProtocolWrapper):
    """A connection that is cut when too much has come."""

    def makeConnection(self, transport: Any) -> None:
        self._left = MOST_BYTES
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.factory.too_much = True
            cast(ITCPTransport, self.transport).abortConnection()
        else:
            super().dataReceived(data)


class _Connection(WrappingFactory):
    """The connection of one request.

    :ivar too_much: whether too much has come.
    """

    protocol = _Bounded
    noisy = False
    too_much = False

    def abort(self) -> None:
        """Close it, if it is open."""
        for protocol in list(self.protocols):
            protocol.transport.abortConnection()


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Connects once."""

    def __init__(self, endpoint: Any, opened: Callable[[_Connection], None]) -> None:
        self._endpoint = endpoint
        self._opened = opened

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        cast(Any, protocolFactory).noisy = False  # or the log has two lines for each request
        connection = _Connection(protocolFactory)
        self._opened(connection)
        connected: Deferred[Any] = self._endpoint.connect(connection)
        return connected.addCallback(lambda wrapper: wrapper.wrappedProtocol)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """The way to a URL, for one request.

    :ivar connection: the connection, once there is one.
    """

    def __init__(self, reactor: GuardedReactor, tls: Callable[[str], IOpenSSLClientConnectionCreator]) -> None:
        self._reactor = reactor
        self._tls = tls
        self.connection: _Connection | None = None

    def _opened(self, connection: _Connection) -> None:
        self.connection = connection

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii")
        endpoint: Any = HostnameEndpoint(self._reactor, host, uri.port, timeout=SECONDS)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(self._tls(host), endpoint)
        return _Endpoint(endpoint, self._opened)


@implementer(IBodyProducer)
class _Body:
    """A body that is at hand."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is written already."""

    def resumeProducing(self) -> None:
        """It is written already."""

    def stopProducing(self) -> None:
        """It is written already."""


class _Discard(Protocol):
    """Reads the body of an answer, which nobody needs, so that the connection ends in peace."""

    def __init__(self, over: Deferred[None]) -> None:
        self._over = over

    def connectionLost(self, reason: Failure = Failure(ConnectError())) -> None:  # noqa: B008
        if not self._over.called:
            self._over.callback(None)


class Poster:
    """Sends bodies to URLs: no redirects, no cookies, no compression, every connection used once.

    (treq's client has all of these built in, and no way to leave the cookies and the decompression out.)
    """

    _log = Logger()

    def __init__(self, reactor: Any, policy: AddressPolicy, trust_root: Any = None) -> None:
        """Prepare.

        :param policy: which addresses may be connected to.
        :param trust_root: whose certificates are good; ``None``: as the machine has it.
        """
        self._reactor = reactor
        self._guarded = GuardedReactor(reactor, policy)

        @lru_cache(maxsize=_HOSTS)
        def tls(host: str) -> IOpenSSLClientConnectionCreator:
            return optionsForClientTLS(host, trustRoot=trust_root)

        self._tls = tls

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Deferred[int]:
        """Send a body.

        :returns: a Deferred of the status of the answer.
        :raises Undelivered: through the Deferred, with the reason.
        """
        return Deferred.fromCoroutine(self._post(url, headers, body))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        endpoints = _Endpoints(self._guarded, self._tls)
        agent = Agent.usingEndpointFactory(self._reactor, endpoints)
        fields = Headers({name: [value] for name, value in {**headers, "User-Agent": _AGENT}.items()})
        request: Deferred[IResponse] = agent.request(b"POST", url.encode(), fields, _Body(body))
        over: Deferred[None] = Deferred()
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            request.cancel()
            if not over.called:
                over.callback(None)

        deadline = self._reactor.callLater(SECONDS, expire)
        try:
            response = await request
            response.deliverBody(_Discard(over))
            await over
            return int(response.code)
        except Exception as error:
            connection = endpoints.connection
            if connection is not None and connection.too_much:
                raise Undelivered("the answer is too large") from None
            if expired:
                raise Undelivered(f"no answer within {SECONDS:.0f} s") from None
            raise Undelivered(self._reason(error)) from None
        finally:
            if deadline.active():
                deadline.cancel()
            if endpoints.connection is not None:
                endpoints.connection.abort()

    def _reason(self, error: Exception) -> str:
        causes = [error, *(failure.value for failure in getattr(error, "reasons", ()))]
        for kind, reason in _REASONS:
            if any(isinstance(cause, kind) for cause in causes):
                return reason
        if not isinstance(error, _LOST):
            self._log.failure("a request of a webhook failed in an unknown way")
        return "the connection was lost, or the answer is no HTTP"


_REASONS: Final = (
    (AddressRefused, "the host has an address that webhooks may not lead to"),
    (DNSLookupError, "the name of the host is not known"),
    (VerificationError, "the certificate is of another host"),
    (TlsError, "the certificate is not trusted, or there is no TLS"),
    (ConnectError, "no connection"),
)

_LOST: Final = (ConnectionClosed, CancelledError, RequestTransmissionFailed, ResponseFailed)
