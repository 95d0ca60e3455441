"""Endpoints, and which certificates of clients they take."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorSSL
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flowgate.errors import StartError
from flowgate.listening import BACKLOG, ClientCertificates, _Asking, is_tls, listen
from tests.certificates import DAY, Authority, Signed


class _Full(MemoryReactor):
    """Every port is taken."""

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        raise CannotListenError(interface, port, OSError(98, "Address already in use"))


def _client(authority: Authority, shown: Signed | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(authority.signed.certificate))
    context.set_verify(SSL.VERIFY_PEER)
    if shown is not None:
        context.use_certificate(crypto.X509.from_cryptography(shown.certificate))
        context.use_privatekey(crypto.PKey.from_cryptography_key(shown.key))
    return context


def handshake(server: SSL.Context, client: SSL.Context) -> crypto.X509 | None:
    """Shake hands in memory; return the client's certificate as the server has it.

    :raises SSL.Error: if one of them turns the other away.
    """
    near, far = SSL.Connection(client), SSL.Connection(server)
    near.set_connect_state()
    far.set_accept_state()
    ends = ((near, far), (far, near))
    waiting = {near, far}
    for _ in range(10):
        for end, other in ends:
            if end in waiting:
                try:
                    end.do_handshake()
                    waiting.discard(end)
                except SSL.WantReadError:
                    pass
            try:
                other.bio_write(end.bio_read(65536))
            except SSL.WantReadError:
                continue
    assert not waiting, "the handshake does not end"
    return far.get_peer_certificate()


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.reactor: Any = MemoryReactor()
        self.authority = Authority()
        certificate, key = self.authority.sign("gateway", host="127.0.0.1").save(self.directory, "server")
        self.ssl = f"ssl:8883:privateKey={key}:certKey={certificate}:interface=127.0.0.1:backlog=7"

    def run_through(self, waiting: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(waiting))

    def context(self, clients: ClientCertificates | None) -> SSL.Context:
        """The context of an ``ssl:`` endpoint."""
        self.run_through(listen(self.reactor, self.ssl, Factory(), clients))
        context: SSL.Context = self.reactor.sslServers[-1][2].getContext()
        return context


class ListenTests(_Tests):
    """Listening."""

    def test_plain(self) -> None:
        """An endpoint without TLS is listened on as it is, whether or not certificates are asked for elsewhere."""
        factory = Factory()
        for clients in (None, ClientCertificates([self.authority.signed.certificate], True)):
            self.run_through(listen(self.reactor, "tcp:1883:interface=127.0.0.1", factory, clients))
            self.assertEqual(self.reactor.tcpServers.pop(), (1883, factory, BACKLOG, "127.0.0.1"))

    def test_backlog(self) -> None:
        """There is room for a storm of connections, unless the endpoint says how much there is to be."""
        self.run_through(listen(self.reactor, "tcp:1883:backlog=7", Factory(), None))
        self.assertEqual(self.reactor.tcpServers.pop()[2], 7)

    def test_tls(self) -> None:
        """With certificates asked for, all else of an ``ssl:`` endpoint stays as it was described."""
        factory = Factory()
        clients = ClientCertificates([self.authority.signed.certificate], False)
        self.run_through(listen(self.reactor, self.ssl, factory, clients))
        port, made, _, backlog, interface = self.reactor.sslServers[0]
        self.assertEqual((port, made, backlog, interface), (8883, factory, 7, "127.0.0.1"))
        verifyObject(IReactorSSL, _Asking(self.reactor, clients))

    def test_kinds(self) -> None:
        """Endpoints with TLS are told from the others."""
        self.assertTrue(is_tls(self.ssl))
        for plain in ("tcp:8883", "unix:/ssl:", "tcp6:1883", "ssl"):
            self.assertFalse(is_tls(plain), plain)

    def test_refused(self) -> None:
        """What is no endpoint, or cannot be listened on, is named in one sentence."""
        for reactor, description, said in (
            (self.reactor, "tcp", "is no endpoint"),
            (self.reactor, "ssl:8883:privateKey=/no/such.pem", "/no/such.pem"),
            (_Full(), "tcp:1883", "cannot listen on tcp:1883: [Errno 98] Address already in use"),
        ):
            waiting = Deferred.fromCoroutine(listen(reactor, description, Factory()))
            self.assertIn(said, self.failureResultOf(waiting, StartError).getErrorMessage())

    def test_none_asked(self) -> None:
        """Without an authority no certificate is asked for, and none is seen."""
        shown = Authority("another").sign("FGAK")
        self.assertIsNone(handshake(self.context(None), _client(self.authority, shown)))


class ClientTests(_Tests):
    """Clients with certificates, good ones and others."""

    def clients(self, required: bool = False) -> ClientCertificates:
        self.devices = Authority("devices")
        return ClientCertificates([Authority("unused").signed.certificate, self.devices.signed.certificate], required)

    def assert_turned_away(self, context: SSL.Context, shown: Signed | None) -> None:
        self.assertRaises(SSL.Error, handshake, context, _client(self.authority, shown))

    def test_good(self) -> None:
        """A certificate of one of the authorities is taken, and seen."""
        for required in (False, True):
            context = self.context(self.clients(required))
            shown = self.devices.sign("FGAK")
            seen = handshake(context, _client(self.authority, shown))
            assert seen is not None
            self.assertEqual(seen.to_cryptography(), shown.certificate)

    def test_without(self) -> None:
        """A client without a certificate is let in, unless one is required."""
        self.assertIsNone(handshake(self.context(self.clients()), _client(self.authority, None)))
        self.assert_turned_away(self.context(self.clients(required=True)), None)

    def test_another_authority(self) -> None:
        """A certificate of another authority of the same name, and one that signed itself, fail; the log says why."""
        context = self.context(self.clients())
        stranger = Authority("devices")
        for shown in (stranger.sign("FGAK"), stranger.signed, self.authority.sign("FGAK")):
            with capturedLogs() as logged:
                self.assert_turned_away(context, shown)
            self.assertIn(logged[0]["error"], (7, 18, 19, 20, 21), logged)

    def test_expired(self) -> None:
        """A certificate that has expired fails."""
        context = self.context(self.clients())
        with capturedLogs() as logged:
            self.assert_turned_away(context, self.devices.sign("FGAK", life=-DAY))
        self.assertEqual(logged[0]["error"], 10)

    def test_file(self) -> None:
        """The authorities of a file are all read."""
        path = self.directory / "ca.pem"
        first, second = Authority("first").signed, Authority("second").signed
        path.write_bytes(b"these are ours:\n" + first.pem + b"\n" + second.pem)
        loaded = ClientCertificates.load(path, True)
        self.assertEqual(loaded.authorities, (first.certificate, second.certificate))
        self.assertTrue(loaded.required)

    def test_wrong_file(self) -> None:
        """A file that is missing, empty, of other things or damaged is named in one sentence."""
        path = self.directory / "ca.pem"
        pem = self.authority.signed.pem
        for content in (None, b"", b"\xff\x00", self.authority.signed.key_pem, pem[:-60], pem + pem[:-60]):
            if content is not None:
                path.write_bytes(content)
            sentence = str(self.assertRaises(StartError, ClientCertificates.load, path, False))
            self.assertIn(str(path), sentence)
            self.assertNotIn("\n", sentence)
        self.assertIn("cannot be read", str(self.assertRaises(StartError, ClientCertificates.load, Path("/"), False)))
