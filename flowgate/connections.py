"""The open connections of this node: how many, whose, and until when."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zope.interface import Interface

from flowgate.auth.permissions import Principal
from flowgate.errors import Refused, TooManyConnections
from flowgate.topics import Namespace


class IConnection(Interface):
    """A connection that can be ended from inside the gateway."""

    def end(reason: Refused | None) -> None:
        """Tell the peer as its protocol allows, then close; ``None`` means that the gateway is going away."""


class Connections:
    """A registry of connections with the principals that they belong to."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[IConnection, Principal] = {}
        self._homes: dict[Namespace, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[IConnection]:
        return iter(list(self._open))

    def count(self, home: Namespace) -> int:
        """How many connections there are of clients at home in ``home``."""
        return self._homes.get(home, 0)

    def add(self, connection: IConnection, principal: Principal) -> None:
        """Count a connection in, or give it another principal (after its token was refreshed).

        :raises TooManyConnections: if the limit is reached.
        """
        if len(self._open) >= self._limit and connection not in self._open:
            raise TooManyConnections(f"this node serves at most {self._limit} connections")
        self.remove(connection)
        self._open[connection] = principal
        self._homes[principal.home] = self.count(principal.home) + 1

    def remove(self, connection: IConnection) -> None:
        principal = self._open.pop(connection, None)
        if principal is None:
            return
        left = self.count(principal.home) - 1
        if left:
            self._homes[principal.home] = left
        else:
            del self._homes[principal.home]

    def end(self, reason: Refused | None, concerned: Callable[[Principal], bool] | None = None) -> None:
        """End the connections whose principal is ``concerned``, or all."""
        for connection, principal in list(self._open.items()):
            if concerned is None or concerned(principal):
                connection.end(reason)
