"""Takes the bus away from a test, and waits for its return."""

from __future__ import annotations

import os
import signal

from twisted.internet.defer import Deferred
from zope.interface import implementer

from flowgate.bus.bridge import IConnectionListener, NatsConnection
from flowgate.bus.server import NatsServer


@implementer(IConnectionListener)
class Away:
    """Ends nats-server without notice; it is restarted by its supervisor."""

    def __init__(self, server: NatsServer, connection: NatsConnection) -> None:
        self._server = server
        self._down: Deferred[None] = Deferred()
        self._up: Deferred[None] = Deferred()
        connection.add_listener(self)

    def connected(self) -> None:
        up, self._up = self._up, Deferred()
        up.callback(None)

    def disconnected(self) -> None:
        down, self._down = self._down, Deferred()
        down.callback(None)

    def kill(self) -> Deferred[None]:
        """Kill -9.

        :returns: a Deferred that fires once the connection has noticed.
        """
        down = self._down
        assert self._server.pid is not None
        os.kill(self._server.pid, signal.SIGKILL)
        return down

    def back(self) -> Deferred[None]:
        """:returns: a Deferred that fires once the connection stands again; to be asked for while it is away."""
        return self._up
