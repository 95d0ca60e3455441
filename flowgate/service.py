"""Wiring: everything of one node, started and stopped in order."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, FirstError, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from flowgate import __version__
from flowgate.auth.secrets import admin_token, master_secret
from flowgate.bus.server import NatsServer, lock_directory
from flowgate.connections import Connections
from flowgate.errors import StartError
from flowgate.http.describing.place import MqttDoor
from flowgate.listening import ClientCertificates, is_tls, listen
from flowgate.settings import Settings
from flowgate.wiring.accounts import open_accounts
from flowgate.wiring.messages import open_messages
from flowgate.wiring.protocols import open_protocols
from flowgate.wiring.queues import open_queues
from flowgate.wiring.selling import open_selling

_log = Logger()

DRAIN_SECONDS = 10
"""How long connections may take to end when the gateway stops."""

STEP_SECONDS, STOP_SECONDS = 12, 30
"""How long one step of the stop may take (draining and nats-server give up by themselves before), and all of them."""

_LOCATION = "gateway.json"
"""The file in the data directory that tells the ``flowgate`` command where this gateway is."""

_CONTENTS = {
    *(".probe", "admin.token", "admin.token.new", _LOCATION),
    *("lock", "master.secret", "master.secret.new", "nats"),
}
"""What a data directory of ours may hold."""


class FlowGate(Service):
    """One node of the gateway.

    Started in this order: data directory, nats-server (our own child, unless there are ``nats`` URLs), bus, accounts,
    listeners; stopped in the opposite one.  What cannot be started ends the process with one sentence and exit
    status 1.
    """

    name = "flowgate"

    def __init__(self, reactor: Any, settings: Settings) -> None:
        self._reactor = reactor
        self._settings = settings
        self._undo: list[tuple[str, Callable[[], object]]] = []
        self._draining = False
        self._starting: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        # twistd would end with the signal's own status; an ordered stop is a success.
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a shell has its background jobs ignore Ctrl-C
                signal.signal(number, lambda *_: self._reactor.callFromThread(self._end_process))
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._failed)

    def _end_process(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # it is ending already
            self._reactor.stop()

    def _failed(self, failure: Any) -> None:
        if self._draining:
            _log.info("the start was broken off: {reason}", reason=failure.value)
            return
        if failure.check(StartError):
            sentence = failure.getErrorMessage()
        else:
            _log.failure("the gateway could not start", failure)
            sentence = f"the gateway could not start: {failure.getErrorMessage()}"
        _log.critical("the start failed: {sentence}", sentence=sentence)
        # twistd has made sys.stderr a part of its log.
        print(f"flowgate: {sentence}", file=sys.__stderr__, flush=True)
        # twistd has no exit status of its own for a service that fails while it starts.
        atexit.register(os._exit, 1)
        self._end_process()

    async def _start(self) -> None:
        settings, reactor = self._settings, self._reactor
        began = reactor.seconds()
        clients = client_certificates(settings)
        if settings.default_plan and settings.default_plan not in {plan.name for plan in settings.plans}:
            raise StartError(f"there is no plan {settings.default_plan} for users without any: see default_plan")
        data = prepare_directory(settings.data)
        lock = lock_directory(data)
        self._undo.append(("lock", lock.release))
        master = master_secret(data, settings.master_secret, settings.master_secret_file)
        admin = admin_token(data, settings.admin_token, settings.admin_token_file)

        urls = list(settings.nats)
        if not urls:
            server = NatsServer(reactor, data / "nats", settings.durability)
            self._undo.append(("nats-server", server.stop))
            await server.start()
            urls = [server.url]

        messages = await open_messages(reactor, settings, urls, master, time.time, self._undone)
        identities = await open_accounts(reactor, settings, messages, master, time.time, self._undone)
        storing = await open_queues(reactor, settings, messages, identities, master, time.time, self._undone)
        selling = await open_selling(reactor, settings, messages, identities, storing.poster, time.time, self._undone)
        mqtt_at: list[str] = []
        protocols = await open_protocols(
            reactor,
            settings,
            messages,
            identities,
            storing,
            selling,
            admin,
            time.time,
            lambda: self._drain(messages.connections),
            lambda: self._draining,
            lambda: _mqtt_door(settings.mqtt, mqtt_at),
            self._undone,
        )
        http_at = [await self._listen(endpoint, protocols.site, "HTTP and WebSocket") for endpoint in settings.http]
        for endpoint in settings.mqtt:
            mqtt_at.append(await self._listen(endpoint, protocols.mqtt, "MQTT", clients))
        url = _url(settings.http, http_at)
        location = data / _LOCATION
        location.write_text(json.dumps({"url": url, "pid": os.getpid(), "http": http_at, "mqtt": mqtt_at}))
        self._undo.append(("location", lambda: location.unlink(missing_ok=True)))
        seconds = reactor.seconds() - began
        _log.info(
            "Flow-Gate {version} is ready after {seconds:.1f} s{place}",
            version=__version__,
            seconds=seconds,
            place=f": {url}" if url else "",
        )
        if protocols.dashboard is not None and url and (link := await protocols.dashboard.first_link()) is not None:
            _log.info("the dashboard is at {url}/dashboard/", url=url)
            # Whoever reads this log can set up the gateway, which they could by the data directory as well.
            _log.info("to set it up open, once and within an hour: {url}/dashboard/{link}", url=url, link=link)
        if not identities.keyring.keys():
            if url:
                _log.info("the documentation is at {url}/docs", url=url)
            command = f"flowgate key create USER APP --data {shlex.quote(str(data))}"
            _log.info("there is no API key yet; make the first one with: {command}", command=command)

    def _undone(self, name: str, step: Callable[[], object]) -> None:
        self._undo.append((name, step))

    async def _listen(
        self, description: str, factory: IProtocolFactory, what: str, clients: ClientCertificates | None = None
    ) -> str:
        """Listen on an endpoint; return its address as another program on this machine writes it."""
        port = await listen(self._reactor, description, factory, clients)
        self._undo.append((description, port.stopListening))
        address = _address(port)
        _log.info("{what} at {address}", what=what, address=address)
        return address

    async def _drain(self, connections: Connections) -> None:
        """Tell every client to go, and wait until they have gone or the time is over."""
        connections.end(None)
        deadline = self._reactor.seconds() + DRAIN_SECONDS
        while len(connections) and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.05)
        if len(connections):
            _log.warn("{count} connections did not end in time", count=len(connections))

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._draining = True
        if self._starting is not None:
            self._starting.cancel()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        began = self._reactor.seconds()
        if self._starting is not None:
            # Nothing may be added to what is undone here.
            await self._ended("the start", self._starting, began)
        while self._undo:
            name, undo = self._undo.pop()
            try:
                await self._ended(name, maybeDeferred(undo), began)
            except Exception:
                _log.failure("stopping {name} failed", name=name)
        _log.info("Flow-Gate has stopped")

    async def _ended(self, name: str, step: Deferred[Any], began: float) -> None:
        """Wait for a step of the stop, but not for ever: a process that does not end is worse than one that leaves
        something behind."""
        left = began + STOP_SECONDS - self._reactor.seconds()
        over: Deferred[None] = deferLater(self._reactor, max(min(left, STEP_SECONDS), 1))
        try:
            first = DeferredList([step, over], fireOnOneCallback=True, fireOnOneErrback=True, consumeErrors=True)
            _, which = await first
        except FirstError as error:
            error.subFailure.raiseException()
        else:
            if which == 1:
                _log.error("stopping {name} takes too long and is not waited for", name=name)
        finally:
            over.cancel()


def client_certificates(settings: Settings) -> ClientCertificates | None:
    """Whose certificates MQTT clients may present; ``None`` if nobody's.

    :raises StartError: if that cannot be had with these settings.
    """
    if settings.mqtt_client_ca is None:
        if settings.mqtt_client_cert_required:
            raise StartError("mqtt_client_cert_required needs mqtt_client_ca, to know whose certificates are good")
        return None
    if not any(map(is_tls, settings.mqtt)):
        raise StartError("mqtt_client_ca needs an ssl: endpoint for MQTT: on others no certificate can be presented")
    return ClientCertificates.load(settings.mqtt_client_ca, settings.mqtt_client_cert_required)


def prepare_directory(path: Path) -> Path:
    """Make the data directory, readable by its owner alone.

    One that held other things before keeps its mode: it is not ours to close, and all that is put into it is private
    by itself.

    :raises StartError: if it cannot be made or written to, or others can put things into it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _CONTENTS.issuperset(os.listdir(path)):
            path.chmod(0o700)
        elif path.stat().st_mode & 0o022:
            raise StartError(
                f"the data directory {path} holds other things, and others can write to it: give one of its own"
            )
        probe = path / ".probe"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another gateway may look at the same moment
    except OSError as error:
        raise StartError(f"the data directory {path} cannot be used: {error.strerror}") from None
    return path.resolve()


def _url(described: Sequence[str], addresses: Sequence[str]) -> str:
    """Where this machine's programs find HTTP, empty if nowhere; plain HTTP before TLS, whose names may not fit."""
    urls = [
        ("https://" if endpoint.startswith("ssl:") else "http://") + address
        for endpoint, address in zip(described, addresses, strict=True)
        if not address.startswith("unix:")
    ]
    return min(urls, key=lambda url: url.startswith("https:"), default="")


def _mqtt_door(described: Sequence[str], addresses: Sequence[str]) -> MqttDoor | None:
    """Where clients elsewhere find MQTT, ``None`` if nowhere; TLS after plain TCP, which needs nothing to be tried."""
    doors = [
        MqttDoor(int(address.rpartition(":")[2]), is_tls(endpoint))
        for endpoint, address in zip(described, addresses, strict=False)
        if not address.startswith("unix:")
    ]
    return min(doors, key=lambda door: door.secure, default=None)


def _address(port: IListeningPort) -> str:
    host: Any = port.getHost()
    name = getattr(host, "host", None)
    if name is None:
        return f"unix:{host.name}"
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    return f"[{name}]:{host.port}" if ":" in name else f"{name}:{host.port}"
