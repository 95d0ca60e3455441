"""The dashboard of one node, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from flowgate.auth.accounts import Accounts
from flowgate.auth.tokens import TokenService
from flowgate.dashboard.accounts import AccountPages
from flowgate.dashboard.admission import Admission
from flowgate.dashboard.attempts import Attempts
from flowgate.dashboard.files import Files
from flowgate.dashboard.keys import Keys
from flowgate.dashboard.links import FIRST_SECONDS, Links
from flowgate.dashboard.live import LiveTokens
from flowgate.dashboard.logins import Logins, Threads
from flowgate.dashboard.passwords import Cost
from flowgate.dashboard.queues import QueuePages
from flowgate.dashboard.sessions import Sessions
from flowgate.dashboard.signing_in import SigningIn
from flowgate.dashboard.usage import IBilling, UsagePages
from flowgate.http.answers import Route
from flowgate.http.describing.place import MqttDoor
from flowgate.interfaces import IStore
from flowgate.limits import Limits
from flowgate.nodes import Nodes
from flowgate.queues.service import Queues


class Dashboard:
    """Sign-in, pages, and the calls of the pages.

    :ivar logins: who may sign in.
    :ivar sessions: who is signed in.
    :ivar links: one-time links.
    """

    def __init__(
        self,
        store: IStore,
        accounts: Accounts,
        tokens: TokenService,
        queues: Queues,
        nodes: Nodes,
        threads: Threads,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        secure: bool = False,
        billing: IBilling | None = None,
        limits: Limits | None = None,
        mqtt: Callable[[], MqttDoor | None] = lambda: None,
        cost: Cost | None = None,
    ) -> None:
        """Put it together; nothing happens before :meth:`start`.

        :param threads: where passwords are hashed.
        :param clock: in the reactor's seconds.
        :param now: seconds since 1970 UTC.
        :param billing: who knows what accounts use; without there is no page of usage.
        :param limits: that hold for everybody.
        :param secure: whether the cookie is for TLS alone, although none is spoken to us.
        :param mqtt: where MQTT is spoken over TCP, once that is known.
        :param cost: of new passwords' hashes.
        """
        self.logins = Logins(store, threads, cost)
        self.sessions = Sessions(store, self.logins, accounts.keyring, now)
        self.links = Links(store, now)
        admission = Admission(self.sessions, secure)
        live = LiveTokens(accounts, tokens, self.logins, self.sessions)
        self._rooms: tuple[Any, ...] = (
            Files(),
            *(() if billing is None else (UsagePages(admission, billing, limits or Limits()),)),
            SigningIn(
                self.logins,
                self.sessions,
                self.links,
                Attempts(clock.seconds),
                admission,
                accounts,
                mqtt,
                billing is not None,
            ),
            Keys(admission, accounts, tokens, live),
            QueuePages(admission, queues),
            AccountPages(
                admission,
                accounts,
                self.logins,
                self.sessions,
                self.links,
                nodes,
                billing,
            ),
        )

    def start(self) -> Deferred[None]:
        """Read who may sign in and who is signed in, and follow.

        :raises BusUnavailable: through the Deferred.
        """

        async def start() -> None:
            await self.logins.start()
            await self.sessions.start()
            await self.links.start()

        return Deferred.fromCoroutine(start())

    def stop(self) -> None:
        """Follow nothing any more."""
        self.links.stop()
        self.sessions.stop()
        self.logins.stop()

    def routes(self) -> list[Route]:
        return [route for room in self._rooms for route in room.routes()]

    async def first_link(self) -> str | None:
        """What stands behind ``/dashboard/`` in the link of the first start; ``None`` if somebody can sign in."""
        if len(self.logins):
            return None
        secret, _ = await self.links.make("", admin=True, seconds=FIRST_SECONDS)
        return f"#link={secret}"
