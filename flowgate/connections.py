"""The open connections of this node: how many, whose, and until when."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

from zope.interface import Attribute, Interface

from flowgate.auth.permissions import Principal
from flowgate.errors import Refused, TooManyConnections
from flowgate.topics import Namespace

_K = TypeVar("_K", bound=Hashable)


class IConnection(Interface):
    """A connection that can be ended from inside the gateway."""

    protocol: str = Attribute("What is spoken there, for the count: ``mqtt``, ``websocket``, ``sse`` …")

    def end(reason: Refused | None) -> None:
        """Tell the peer as its protocol allows, then close; ``None`` means that the gateway is going away."""


class INoticed(IConnection):
    """A connection whose peer can be told something that it did not ask for."""

    def notice(members: dict[str, object]) -> None:
        """Tell the peer, if it wants to know; ``code`` says what it is about."""


def _set(counts: dict[_K, int], key: _K, count: int) -> None:
    """Note a count; 0 is not kept."""
    if count:
        counts[key] = count
    else:
        counts.pop(key, None)


class Connections:
    """A registry of connections with the principals that they belong to.

    :ivar check: called with whose connection is about to be counted in; raises if their leave has ended since they were
        let in: what ended then has not found this connection.
    :ivar admit: called with a user and the number of connections that it is about to have here; raises if that is not
        permitted.
    :ivar admit_subscriptions: the same for the subscriptions of all these connections.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[IConnection, Principal] = {}
        self._homes: dict[Namespace, int] = {}
        self._users: dict[str, int] = {}
        self._subscriptions: dict[IConnection, int] = {}
        self._user_subscriptions: dict[str, int] = {}
        self.check: Callable[[Principal], None] = lambda _principal: None
        self.admit: Callable[[str, int], None] = lambda _user, _count: None
        self.admit_subscriptions: Callable[[str, int], None] = lambda _user, _count: None
        self._protocols: dict[str, int] = dict.fromkeys(("mqtt", "sse", "websocket"), 0)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[IConnection]:
        return iter(list(self._open))

    def count(self, home: Namespace) -> int:
        """How many connections there are of clients at home in ``home``."""
        return self._homes.get(home, 0)

    def notice(self, user: str, members: dict[str, object]) -> None:
        """Tell the peers of a user's connections something."""
        if user in self._users:
            for connection, principal in list(self._open.items()):
                if principal.user == user and INoticed.providedBy(connection):
                    connection.notice(members)

    def of_user(self, user: str) -> int:
        """How many connections there are of a user's clients."""
        return self._users.get(user, 0)

    def subscriptions_of_user(self, user: str) -> int:
        """How many subscriptions these have."""
        return self._user_subscriptions.get(user, 0)

    def subscribe(self, connection: IConnection, count: int, *, known: bool = False) -> None:
        """Note how many subscriptions a connection has from now on; one that is not here has none.

        :param known: whether they were permitted before, on another connection.
        :raises TooManySubscriptions: if the user may not have so many more; then nothing changes.
        """
        principal = self._open.get(connection)
        if principal is None:
            return
        more = count - self._subscriptions.get(connection, 0)
        total = self.subscriptions_of_user(principal.user) + more
        if more > 0 and not known:
            self.admit_subscriptions(principal.user, total)
        self._subscriptions[connection] = count
        _set(self._user_subscriptions, principal.user, total)

    def protocols(self) -> dict[str, int]:
        """How many connections there are by their protocols."""
        return dict(self._protocols)

    def add(self, connection: IConnection, principal: Principal) -> None:
        """Count a connection in, or give it another principal (after its token was refreshed).

        :raises TooManyConnections: if the limit is reached, of this node or of the user.
        :raises InvalidToken, AccountSuspended: if the principal's leave has ended.
        """
        self.check(principal)
        known = self._open.get(connection)
        if known is None and len(self._open) >= self._limit:
            raise TooManyConnections(f"this node serves at most {self._limit} connections")
        if known is None or known.user != principal.user:
            self.admit(principal.user, self.of_user(principal.user) + 1)
        subscriptions = self._subscriptions.get(connection, 0)
        self.remove(connection)
        self._open[connection] = principal
        self._homes[principal.home] = self.count(principal.home) + 1
        self._users[principal.user] = self.of_user(principal.user) + 1
        if subscriptions:
            self._subscriptions[connection] = subscriptions
            _set(self._user_subscriptions, principal.user, self.subscriptions_of_user(principal.user) + subscriptions)
        self._protocols[connection.protocol] = self._protocols.get(connection.protocol, 0) + 1

    def remove(self, connection: IConnection) -> None:
        principal = self._open.pop(connection, None)
        if principal is None:
            return
        self._protocols[connection.protocol] -= 1
        _set(self._homes, principal.home, self.count(principal.home) - 1)
        _set(self._users, principal.user, self.of_user(principal.user) - 1)
        subscriptions = self._subscriptions.pop(connection, 0)
        if subscriptions:
            _set(self._user_subscriptions, principal.user, self.subscriptions_of_user(principal.user) - subscriptions)

    def end(self, reason: Refused | None, concerned: Callable[[Principal], bool] | None = None) -> None:
        """End the connections whose principal is ``concerned``, or all."""
        for connection, principal in list(self._open.items()):
            if concerned is None or concerned(principal):
                connection.end(reason)
