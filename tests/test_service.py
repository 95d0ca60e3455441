"""The service: started and stopped in order, with one sentence and exit status 1 for what cannot be started."""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.application.service import Application
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, capturedLogs
from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flowgate import service
from flowgate.auth.keys import KEYS, Keyring
from flowgate.auth.permissions import Grants, Principal
from flowgate.auth.tokens import REVOKED, TokenService
from flowgate.bus.memory_groups import MemoryGroups, MemoryGroupsHub
from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.bus.memory_queue_logs import MemoryQueueLogs
from flowgate.bus.memory_retained import MemoryRetained
from flowgate.bus.memory_store import MemoryStore
from flowgate.bus.memory_topics import MemoryBus
from flowgate.connections import Connections, IConnection
from flowgate.errors import AccountSuspended, BusUnavailable, InvalidToken, Refused, StartError
from flowgate.gateway import Gateway
from flowgate.http.site import make_site as real_make_site
from flowgate.logs import JsonLines
from flowgate.service import DRAIN_SECONDS, STEP_SECONDS, STOP_SECONDS, FlowGate, prepare_directory
from flowgate.settings import Settings
from flowgate.tap import makeService
from flowgate.topics import Namespace
from flowgate.wiring import messages, protocols, queues
from tests.certificates import Authority

HOME = Namespace("alice", "shop")
HTTP = "tcp:8080:interface=127.0.0.1"
MQTT = "tcp:1883:interface=127.0.0.1"


class _Port:
    def __init__(self, address: Any, log: Callable[[str], None]) -> None:
        self._address = address
        self._log = log

    def getHost(self) -> Any:
        return self._address

    def stopListening(self) -> Deferred[None]:
        self._log(f"stop {getattr(self._address, 'port', 'unix')}")
        return succeed(None)


class _Reactor(MemoryReactorClock):
    """Runs from the beginning; knows which ports are taken."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__()
        self.hasRun = True
        self.taken: set[int] = set()
        self._log = log

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if port in self.taken:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        self._log(f"start {port}")
        kind = IPv6Address if ":" in interface else IPv4Address
        return _Port(kind("TCP", interface or "0.0.0.0", port), self._log)

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> Any:
        self._log("start unix")
        return _Port(UNIXAddress(address), self._log)

    def callFromThread(self, call: Callable[..., object], *values: object) -> None:
        call(*values)

    def getThreadPool(self) -> Any:
        return _Pool()

    def stop(self) -> None:
        if self.hasStopped:
            raise ReactorNotRunning()
        super().stop()


class _Pool:
    """Has no threads: what is asked of it is done at once."""

    def callInThreadWithCallback(self, told: Callable[..., None], work: Callable[..., object], *values: object) -> None:
        told(True, work(*values))


class _Part:
    """A part of the gateway that says when it is started and stopped."""

    def __init__(self, name: str, log: Callable[[str], None]) -> None:
        self._name = name
        self._log = log
        self.started: Deferred[None] = succeed(None)
        self.stopped: Callable[[], Deferred[None]] = lambda: succeed(None)
        self.url = "nats://127.0.0.1:4222"

    def start(self) -> Deferred[None]:
        self._log(f"start {self._name}")
        return self.started

    def stop(self) -> Deferred[None]:
        self._log(f"stop {self._name}")
        return self.stopped()


class _Bus(MemoryBus):
    part: _Part
    link = None

    def start(self) -> Deferred[None]:
        return self.part.start().addCallback(lambda _: MemoryBus.start(self))

    def stop(self) -> Deferred[None]:
        return self.part.stop().addCallback(lambda _: MemoryBus.stop(self))


@implementer(IConnection)
class _Connection:
    protocol = "mqtt"

    def __init__(self) -> None:
        self.told: list[Refused | None] = []

    def end(self, reason: Refused | None) -> None:
        self.told.append(reason)


class _Tests(SynchronousTestCase):
    """A whole gateway, whose nats-server, bus and ports are in memory."""

    def setUp(self) -> None:
        self.log: list[str] = []
        self.reactor = _Reactor(self.log.append)
        self.server = _Part("nats-server", self.log.append)
        self.nats = _Part("nats", self.log.append)
        self.bus = _Bus(self.reactor)
        self.bus.part = _Part("bus", self.log.append)
        self.store = MemoryStore()
        self.connections = Connections(10)
        self.told: dict[str, Any] = {}
        self.exits: list[tuple[Any, ...]] = []
        self.handlers: dict[int, Callable[..., object]] = {}
        self.errors = io.StringIO()
        self.data = Path(self.mktemp())
        self.settings = Settings(data=self.data)

        def make_bus(reactor: object, urls: list[str], **options: object) -> _Bus:
            self.told.update(options, urls=urls)
            return self.bus

        def make_server(reactor: object, directory: Path, durability: str) -> _Part:
            self.told.update(directory=directory, durability=durability)
            return self.server

        def make_site(*parts: Any, **more: Any) -> Any:
            self.parts["site"] = parts
            return real_make_site(*parts, **more)

        self.parts: dict[str, tuple[Any, ...]] = {}
        for module, name, made in (
            (service, "NatsServer", make_server),
            (messages, "JetStreamBus", make_bus),
            (messages, "NatsConnection", lambda urls: self.nats),
            (messages, "JetStreamStore", lambda nats, replicas: self.store),
            (messages, "LinkStore", lambda link, watches, replicas: self.store),
            (messages, "LinkPeers", lambda link, shared: MemoryPeers(MemoryPeersHub(self.reactor))),
            (
                messages,
                "LinkGroups",
                lambda reactor, link, peers: MemoryGroups(MemoryGroupsHub(reactor, self.bus)),
            ),
            (messages, "JetStreamRetained", lambda reactor, link, replicas: MemoryRetained(reactor)),
            (messages, "Connections", lambda limit: self.connections),
            (queues, "JetStreamQueueLogs", lambda reactor, link, nats, replicas: MemoryQueueLogs(reactor)),
            (protocols, "make_site", make_site),
        ):
            self.patch(module, name, made)
        self.patch(atexit, "register", lambda *call: self.exits.append(call))
        self.patch(signal, "signal", self.handlers.__setitem__)
        self.patch(sys, "__stderr__", self.errors)

    def start(self, **changes: Any) -> FlowGate:
        gateway = FlowGate(self.reactor, attrs.evolve(self.settings, **changes))
        gateway.startService()
        return gateway

    def connect(
        self, token_id: str = "t1", key_id: str = "k1", user: str = "alice", signing_key: str = "s1"
    ) -> _Connection:
        connection = _Connection()
        self.connections.check = lambda _: None  # there is no such key
        grants = Grants.everything(HOME)
        self.connections.add(connection, Principal(user, "shop", HOME, key_id, grants, 2e9, token_id, 1e9, signing_key))
        return connection


class StartTests(_Tests):
    """Starting."""

    def test_order(self) -> None:
        """Listeners come last: whoever connects finds everything in place."""
        self.start()
        self.assertEqual(self.log, ["start nats-server", "start bus", "start nats", "start 8080", "start 1883"])
        self.assertEqual((self.errors.getvalue(), self.exits), ("", []))

    def test_wired(self) -> None:
        """The bus brings its messages to the gateway, and keys and revocations of the store are known and followed."""
        key = "FGAK" + "A" * 16
        self.successResultOf(self.store.put(REVOKED, "t1", b"2000000000"))
        self.successResultOf(self.store.put(KEYS, key, b"{"))
        with capturedLogs() as logged:
            gateway = self.start()
        self.assertIn(key, [event.get("key_id") for event in logged])
        self.assertIsInstance(self.bus.listener, Gateway)
        made = self.parts["site"]
        tokens, keyring, draining = made[1], made[2].keyring, made[9]
        self.assertEqual((list(tokens._revoked), draining()), (["t1"], False))
        stopped = gateway.stopService()
        self.assertTrue(draining())
        self.successResultOf(stopped)
        self.successResultOf(self.store.put(REVOKED, "t2", b"2000000000"))
        self.successResultOf(Keyring(self.store, b"m", lambda: 0).create_user("bob"))
        self.assertEqual((list(tokens._revoked), keyring.users()), (["t1"], []))

    def test_asks_for_certificates(self) -> None:
        """The authorities hold for the endpoints of MQTT, not for those of HTTP."""
        directory = Path(self.mktemp())
        directory.mkdir()
        authority = Authority()
        certificate, key = authority.sign("gateway").save(directory, "server")
        (directory / "ca.pem").write_bytes(authority.signed.pem)
        tls = f":privateKey={key}:certKey={certificate}"
        self.start(http=("ssl:8443" + tls,), mqtt=("ssl:8883" + tls, "tcp:1883"), mqtt_client_ca=directory / "ca.pem")
        modes = {port: made.getContext().get_verify_mode() for port, _, made, _, _ in self.reactor.sslServers}
        self.assertEqual(modes[8443], SSL.VERIFY_NONE)
        self.assertTrue(modes[8883] & SSL.VERIFY_PEER)
        self.assertFalse(modes[8883] & SSL.VERIFY_FAIL_IF_NO_PEER_CERT)

    def test_dates(self) -> None:
        """Queues are dated by the calendar, not by the reactor's clock, which begins anywhere."""
        self.start()
        queues = self.parts["site"][3]
        self.successResultOf(queues.configure(HOME, "q", {}))
        self.assertGreater(self.successResultOf(queues.describe(HOME, "q")).created_at, 1_600_000_000)

    def test_own_server(self) -> None:
        """Our own nats-server lives in the data directory, and the bus is told that it is alone."""
        self.start(durability="fsync")
        self.assertEqual(self.told["directory"], self.data.resolve() / "nats")
        self.assertEqual(self.told["durability"], "fsync")
        self.assertEqual((self.told["urls"], self.told["shared"]), (["nats://127.0.0.1:4222"], False))

    def test_joins(self) -> None:
        """With NATS servers given, none of our own is started."""
        self.start(nats=("nats://a:1", "nats://b:2"), replicas=3)
        self.assertNotIn("start nats-server", self.log)
        self.assertEqual(
            (self.told["urls"], self.told["shared"], self.told["replicas"]), (["nats://a:1", "nats://b:2"], True, 3)
        )

    def test_hint(self) -> None:
        """As long as there is no API key the log says how the first one is made, and then no more."""

        def commands() -> list[str]:
            with capturedLogs() as logged:
                self.successResultOf(self.start().stopService())
            return [event["command"] for event in logged if "command" in event]

        self.assertEqual(commands(), [f"flowgate key create USER APP --data {self.data.resolve()}"])
        self.successResultOf(Keyring(self.store, b"m", lambda: 0).create("alice", "shop"))
        self.assertEqual(commands(), [])

    def test_location(self) -> None:
        """The data directory tells where the gateway is, as long as it runs."""
        gateway = self.start()
        location = self.data / "gateway.json"
        self.assertEqual(
            json.loads(location.read_text()),
            {
                "url": "http://127.0.0.1:8080",
                "pid": os.getpid(),
                "http": ["127.0.0.1:8080"],
                "mqtt": ["127.0.0.1:1883"],
            },
        )
        self.successResultOf(gateway.stopService())
        self.assertFalse(location.exists())

    def test_addresses(self) -> None:
        """Addresses are written as another program on this machine uses them."""
        for endpoint, url in (
            ("tcp:8080", "http://127.0.0.1:8080"),
            ("tcp:8080:interface=10.0.0.1", "http://10.0.0.1:8080"),
            (r"tcp:8080:interface=\:\:1", "http://[::1]:8080"),
            (r"tcp:8080:interface=\:\:", "http://[::1]:8080"),
            ("unix:/tmp/flowgate.socket", ""),
        ):
            gateway = self.start(http=(endpoint,))
            self.assertEqual(json.loads((self.data / "gateway.json").read_text())["url"], url)
            self.successResultOf(gateway.stopService())

    def test_url_says_tls(self) -> None:
        """An endpoint with TLS has an ``https`` URL, and a plain one beside it is preferred."""
        found = ["127.0.0.1:8443", "127.0.0.1:8080", "unix:/x"]
        self.assertEqual(service._url(["ssl:8443", "tcp:8080", "unix:/x"], found), "http://127.0.0.1:8080")
        self.assertEqual(service._url(["ssl:8443", "unix:/x"], found[::2]), "https://127.0.0.1:8443")

    def test_secrets_stay(self) -> None:
        """A second start finds the secrets of the first one."""
        texts = []
        for _ in range(2):
            self.successResultOf(self.start().stopService())
            texts.append([(self.data / name).read_text() for name in ("master.secret", "admin.token")])
        self.assertEqual(texts[0], texts[1])


class FailureTests(_Tests):
    """What cannot be started."""

    def fails(self, **changes: Any) -> str:
        """The one sentence with which the process ends; everything that was started has been stopped."""
        gateway = self.start(**changes)
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(self.exits, [(os._exit, 1)])
        self.successResultOf(gateway.stopService())
        started = [line[6:] for line in self.log if line.startswith("start ")]
        stopped = [line[5:] for line in self.log if line.startswith("stop ")]
        self.assertEqual(stopped, started[::-1])
        sentence = self.errors.getvalue()
        self.assertTrue(sentence.startswith("flowgate: ") and sentence.count("\n") == 1, sentence)
        return sentence[10:-1]

    def test_taken_port(self) -> None:
        """A taken port is named, with the reason."""
        self.reactor.taken = {1883}
        sentence = self.fails()
        self.assertIn(MQTT, sentence)
        self.assertIn("Address already in use", sentence)

    def test_no_endpoint(self) -> None:
        """What is no endpoint is named."""
        for wrong in ("8080:tcp", "tcp:", "tcp:http:no=such", "", "tcp"):
            self.setUp()
            self.assertIn(repr(wrong), self.fails(http=(wrong,)))

    def test_missing_certificate(self) -> None:
        """A certificate that cannot be read is named."""
        self.assertIn("/no/such.pem", self.fails(http=("ssl:8443:privateKey=/no/such.pem",)))

    def test_client_certificates(self) -> None:
        """Authorities for clients need a file that can be read, and an endpoint on which a certificate is seen."""
        tls = "ssl:8883:privateKey=key.pem"
        for changes, said in (
            ({"mqtt": (MQTT,), "mqtt_client_ca": Path("/no/such.pem")}, "needs an ssl: endpoint"),
            ({"mqtt": (MQTT, tls), "mqtt_client_ca": Path("/no/such.pem")}, "/no/such.pem cannot be read"),
            ({"mqtt": (tls,), "mqtt_client_cert_required": True}, "needs mqtt_client_ca"),
        ):
            self.setUp()
            self.assertIn(said, self.fails(**changes))
            self.assertEqual(self.log, [])

    def test_server(self) -> None:
        """A nats-server that cannot be started is said in its own words."""
        self.server.started = fail(StartError("no nats-server was found"))
        self.assertEqual(self.fails(), "no nats-server was found")

    def test_bus(self) -> None:
        """A bus that is out of reach is said in its own words."""
        self.bus.part.started = fail(StartError("no NATS server answers"))
        self.assertEqual(self.fails(), "no NATS server answers")

    def test_refusal(self) -> None:
        """Whatever else goes wrong ends the process as well, and the log knows more."""
        self.nats.started = fail(BusUnavailable("the message bus is away"))
        self.assertEqual(self.fails(), "the gateway could not start: the message bus is away")
        self.assertEqual(len(self.flushLoggedErrors(BusUnavailable)), 1)

    def test_data_directory(self) -> None:
        """A data directory that is a file is named."""
        self.data.write_text("")
        self.assertIn(str(self.data), self.fails())

    def test_second_gateway(self) -> None:
        """A data directory belongs to one gateway at a time."""
        first = self.start()
        second = FlowGate(self.reactor, self.settings)
        second.startService()
        self.assertIn("in use by another gateway", self.errors.getvalue())
        self.successResultOf(second.stopService())
        self.assertTrue((self.data / "gateway.json").exists())
        self.successResultOf(first.stopService())

    def test_secret_in_a_file(self) -> None:
        """The master secret may stand in a file elsewhere, which has to be there."""
        self.assertIn("/nowhere/master", self.fails(master_secret_file=Path("/nowhere/master")))

    def test_admin_token_in_a_file(self) -> None:
        """So may the admin token."""
        self.assertIn("/nowhere/admin", self.fails(admin_token_file=Path("/nowhere/admin")))

    def test_weak_secret(self) -> None:
        """A secret that is too weak is not repeated."""
        self.assertNotIn("hunter2", self.fails(master_secret="hunter2"))


class StopTests(_Tests):
    """Stopping."""

    def test_order(self) -> None:
        """What started last is stopped first, and the lock is given back."""
        gateway = self.start()
        self.log.clear()
        self.successResultOf(gateway.stopService())
        self.assertEqual(self.log, ["stop 1883", "stop 8080", "stop nats", "stop bus", "stop nats-server"])
        self.successResultOf(self.start().stopService())
        self.assertEqual(self.errors.getvalue(), "")

    def test_waits(self) -> None:
        """The next thing is stopped when the one before it has stopped."""
        gateway = self.start()
        closing: Deferred[None] = Deferred()
        self.bus.part.stopped = lambda: closing
        stopped = gateway.stopService()
        self.assertEqual(self.log[-1], "stop bus")
        self.assertNoResult(stopped)
        closing.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.log[-1], "stop nats-server")

    def test_one_fails(self) -> None:
        """What cannot be stopped is logged and does not keep the rest from stopping."""
        gateway = self.start()
        self.nats.stopped = lambda: fail(RuntimeError("stuck"))

        def stuck() -> Deferred[None]:
            raise RuntimeError("stuck")

        self.bus.part.stopped = stuck
        self.successResultOf(gateway.stopService())
        self.assertEqual(self.log[-3:], ["stop nats", "stop bus", "stop nats-server"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_drains(self) -> None:
        """Listeners close, clients are told, and the bus stays until they have gone."""
        gateway = self.start()
        connection = self.connect()
        stopped = gateway.stopService()
        self.assertEqual(connection.told, [None])
        self.assertEqual(self.log[-1], "stop 8080")
        self.connections.remove(connection)
        self.reactor.advance(0.05)
        self.successResultOf(stopped)

    def test_drain_has_an_end(self) -> None:
        """Clients that do not go are left behind."""
        gateway = self.start()
        self.connect()
        stopped = gateway.stopService()
        self.reactor.pump([0.05] * int(DRAIN_SECONDS / 0.05 - 2))
        self.assertNoResult(stopped)
        self.reactor.pump([0.05] * 3)
        self.successResultOf(stopped)

    def test_during_the_start(self) -> None:
        """A stop during the start breaks it off: without a word, without an exit status, with nothing left behind."""
        self.bus.part.started = Deferred()
        gateway = self.start()
        self.assertEqual(self.log[-1], "start bus")
        self.successResultOf(gateway.stopService())
        self.assertEqual(self.log[2:], ["stop bus", "stop nats-server"])
        self.assertEqual((self.errors.getvalue(), self.exits, self.reactor.hasStopped), ("", [], False))

    def test_waits_for_the_start_to_clean_up(self) -> None:
        """What a broken-off start still has to end is awaited before the rest is stopped."""
        cleaned: Deferred[None] = Deferred()

        async def start() -> None:
            try:
                await Deferred()
            finally:
                await cleaned

        self.bus.part.started = Deferred.fromCoroutine(start())
        stopped = self.start().stopService()
        self.assertEqual(self.log[-1], "start bus")
        cleaned.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.log[2:], ["stop bus", "stop nats-server"])

    def test_a_step_does_not_end(self) -> None:
        """A step that hangs is given up, with a line in the log, and the rest is stopped."""
        gateway = self.start()
        self.nats.stopped = Deferred
        stopped = gateway.stopService()
        self.assertEqual(self.log[-1], "stop nats")
        with capturedLogs() as logged:
            self.reactor.advance(STEP_SECONDS)
        self.successResultOf(stopped)
        self.assertEqual(self.log[-2:], ["stop bus", "stop nats-server"])
        self.assertIn("nats connection", [event.get("name") for event in logged])

    def test_nothing_ends(self) -> None:
        """However many steps hang, the stop has an end."""
        gateway = self.start()
        self.connect()
        for part in (self.nats, self.bus.part, self.server):
            part.stopped = Deferred
        stopped = gateway.stopService()
        self.reactor.pump([0.5] * 2 * (STOP_SECONDS + 3))
        self.successResultOf(stopped)

    def test_signals(self) -> None:
        """SIGTERM and Ctrl-C stop the reactor, so that twistd ends with status 0; a second one does no harm."""
        self.patch(signal, "getsignal", lambda number: signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGINT):
            gateway = self.start()
            self.reactor.hasStopped = False
            for _ in range(2):
                self.handlers[number](number, None)
            self.assertTrue(self.reactor.hasStopped)
            self.successResultOf(gateway.stopService())

    def test_ignored_signal(self) -> None:
        """What a shell has its background jobs ignore stays ignored."""
        self.patch(signal, "getsignal", lambda number: signal.SIG_IGN)
        self.start()
        self.assertEqual(self.handlers, {})

    def test_before_the_start(self) -> None:
        """A service whose reactor never ran can be stopped."""
        self.successResultOf(FlowGate(self.reactor, self.settings).stopService())


class RevocationTests(_Tests):
    """Open connections of what was revoked."""

    def test_ends(self) -> None:
        """Connections of a revoked token, API key or signing key and of a suspended user end, others do not."""
        told: list[Callable[[str], None]] = []
        self.patch(TokenService, "on_revoked", lambda _self, listener: told.append(listener))
        self.start()
        by_token, by_key, by_user = self.connect("t2"), self.connect(key_id="k2"), self.connect(user="bob")
        by_signing_key = self.connect(signing_key="s2")
        other = self.connect()
        for revoked in ("t2", "k2", "s2", "bob", "", "nobody"):
            told[0](revoked)
        for ended in (by_token, by_key, by_signing_key):
            self.assertEqual([type(reason) for reason in ended.told], [InvalidToken])
        self.assertEqual([type(reason) for reason in by_user.told], [AccountSuspended])
        self.assertEqual(other.told, [])


class PluginTests(SynchronousTestCase):
    """What twistd makes of ``twistd flowgate``."""

    def config(self, *arguments: str) -> ServerOptions:
        config = ServerOptions()
        config.parseOptions([*arguments, "flowgate", "--data", self.mktemp()])
        makeService(config.subOptions)
        return config

    def test_service(self) -> None:
        """The plugin is found, and makes the service of the options."""
        config = ServerOptions()
        data = self.mktemp()
        config.parseOptions(["-n", "flowgate", "--data", data])
        made = makeService(config.subOptions)
        assert isinstance(made, FlowGate)
        self.assertEqual(made._settings.data, Path(data).absolute())

    def test_json_log(self) -> None:
        """With ``log_format = "json"`` the application logs so; what does not go together is said in one sentence."""
        self.patch(os, "environ", {**os.environ, "FLOWGATE_LOG_FORMAT": "json"})
        config = ServerOptions()
        config.parseOptions(["-n", "flowgate", "--data", self.mktemp()])
        application: Any = Application("flowgate")
        made: Any = makeService(config.subOptions)
        made.setServiceParent(application)
        self.assertIsInstance(application.getComponent(ILogObserver), JsonLines)
        self.assertEqual([type(service) for service in made], [FlowGate])
        with self.assertRaises(SystemExit) as ended:
            self.config("-n", "--syslog")
        self.assertIn("flowgate: log_format", str(ended.exception))

    def test_no_process_id_file(self) -> None:
        """Nothing is written outside of the data directory: twistd's own file only where it was asked for."""
        self.assertEqual(self.config("-n")["pidfile"], "")
        self.assertEqual(self.config("-n", "--pidfile", "a.pid")["pidfile"], os.path.abspath("a.pid"))


class DirectoryTests(SynchronousTestCase):
    """The data directory."""

    def mode(self, path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    def test_made(self) -> None:
        """It is made with what leads to it, for its owner alone, and found again."""
        path = Path(self.mktemp()) / "a" / "b"
        for _ in range(2):
            self.assertEqual(prepare_directory(path), path.resolve())
            self.assertEqual(self.mode(path), 0o700)
        self.assertEqual(os.listdir(path), [])

    def test_ours_is_closed(self) -> None:
        """One that is empty, or holds nothing but what we put there, is closed to others."""
        path = Path(self.mktemp())
        path.mkdir()
        for name in ("", "lock", "master.secret", ".probe"):
            if name:
                (path / name).touch()
            path.chmod(0o777)
            prepare_directory(path)
            self.assertEqual(self.mode(path), 0o700)

    def test_shared_stays_open(self) -> None:
        """One that holds other things is not closed to those who use them."""
        path = Path(self.mktemp())
        path.mkdir()
        (path / "letter.txt").touch()
        path.chmod(0o755)
        prepare_directory(path)
        self.assertEqual(self.mode(path), 0o755)

    def test_open_to_writing(self) -> None:
        """One in which others can put things, such as ``/tmp``, is refused and left as it is."""
        path = Path(self.mktemp())
        path.mkdir()
        (path / "letter.txt").touch()
        for mode in (0o1777, 0o770):
            path.chmod(mode)
            self.assertIn("others can write to it", str(self.assertRaises(StartError, prepare_directory, path)))
            self.assertEqual(self.mode(path), mode)

    def test_unusable(self) -> None:
        """One that cannot be made is named."""
        path = Path(self.mktemp())
        path.write_text("")
        for wrong in (path, path / "below"):
            self.assertIn(str(wrong), str(self.assertRaises(StartError, prepare_directory, wrong)))
