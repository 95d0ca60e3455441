"""Endpoints to listen on, and who may present a certificate to those with TLS."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet import endpoints
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocolFactory,
    IReactorSSL,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from zope.interface import implementer

from flowgate.errors import StartError

_log = Logger()

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel may allow fewer (``net.core.somaxconn`` on Linux)."""


class ClientCertificates:
    """What a client's certificate has to be signed by.

    Who the client is, is not asked here: :mod:`flowgate.auth.certificates` reads that from the certificate.

    :ivar authorities: the certificates of the authorities that are trusted.
    :ivar required: whether a client without a certificate is turned away.
    """

    def __init__(self, authorities: Iterable[x509.Certificate], required: bool) -> None:
        self.authorities = tuple(authorities)
        self.required = required

    @classmethod
    def load(cls, path: Path, required: bool) -> ClientCertificates:
        """Read the authorities from a PEM file.

        :raises StartError: if it cannot be read, or holds no certificate.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise StartError(f"mqtt_client_ca: {path} cannot be read: {error.strerror}") from None
        try:
            authorities = x509.load_pem_x509_certificates(text)
        except ValueError:
            authorities = []
        # One that is cut short would be passed over in silence.
        if not authorities or text.count(b"CERTIFICATE-----") != 2 * len(authorities):
            raise StartError(f"mqtt_client_ca: {path} holds no certificate in PEM, or a damaged one")
        return cls(authorities, required)

    def ask(self, context: SSL.Context) -> None:
        """Have a listener's context ask its clients for a certificate, and verify it."""
        store = context.get_cert_store()
        assert store is not None  # a context of a server always has one
        for authority in self.authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
        mode = SSL.VERIFY_PEER | SSL.VERIFY_CLIENT_ONCE
        context.set_verify(mode | SSL.VERIFY_FAIL_IF_NO_PEER_CERT if self.required else mode, _verified)


def _verified(_connection: SSL.Connection, _certificate: crypto.X509, error: int, depth: int, good: int) -> bool:
    """Called by OpenSSL for each certificate of a chain: its word stands, and the operator reads of it."""
    if not good:
        # X509_V_ERR_…: 10 is expired, 18 to 21 are of an authority that is not trusted, 26 is not made for clients.
        _log.info(
            "a client's certificate was refused: OpenSSL's verification error {error} at depth {depth}",
            error=error,
            depth=depth,
        )
    return bool(good)


@implementer(IReactorSSL)
class _Asking:
    """The reactor for an ``ssl:`` endpoint, which has no way to say that clients are to be asked for certificates."""

    def __init__(self, reactor: IReactorSSL, clients: ClientCertificates) -> None:
        self._reactor = reactor
        self._clients = clients

    def listenSSL(
        self,
        port: int,
        factory: Any,
        contextFactory: IOpenSSLContextFactory,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        self._clients.ask(contextFactory.getContext())
        return self._reactor.listenSSL(port, factory, contextFactory, backlog, interface)

    def connectSSL(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("an endpoint of a server only listens")


def is_tls(description: str) -> bool:
    """Whether an endpoint is one with TLS."""
    return description.startswith("ssl:")


def _patient(description: str) -> str:
    """The endpoint with room for a storm of connections, if it does not say for how many itself.

    Twisted's default is 50: of more clients that come at once, as after a restart, most would try again after seconds.
    """
    known = description.startswith(("tcp:", "ssl:", "unix:"))
    return f"{description}:backlog={BACKLOG}" if known and ":backlog=" not in description else description


async def listen(
    reactor: Any, description: str, factory: IProtocolFactory, clients: ClientCertificates | None = None
) -> IListeningPort:
    """Listen on an endpoint.

    :param clients: whose certificates are verified, on an endpoint with TLS; ``None`` to ask for none.
    :raises StartError: with one sentence, if it is no endpoint, or cannot be listened on.
    """
    if clients is not None and is_tls(description):
        reactor = _Asking(reactor, clients)
    try:
        endpoint: IStreamServerEndpoint = endpoints.serverFromString(reactor, _patient(description))  # type: ignore[no-untyped-call]
        port: IListeningPort = await endpoint.listen(factory)
    except CannotListenError as error:
        raise StartError(f"cannot listen on {description}: {error.socketError}") from None
    except (ValueError, TypeError, OSError) as error:
        raise StartError(f"{description!r} is no endpoint to listen on: {error}") from None
    return port
