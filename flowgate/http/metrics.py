"""``/metrics``."""

from __future__ import annotations

from typing import Final

from twisted.internet.address import IPv4Address, IPv6Address

from flowgate.http.answers import Answer, Route
from flowgate.http.operators import AdminToken
from flowgate.http.request import Request
from flowgate.metrics.collecting import CONTENT_TYPE, Exposition

_BY_PROXY: Final = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")


class Metrics:
    """Shows the figures of this node to Prometheus."""

    def __init__(self, exposition: Exposition, admin: AdminToken, open_to_all: bool = False) -> None:
        """Prepare.

        :param open_to_all: whether nobody is asked for the admin token; else only programs on this machine are not.
        """
        self._exposition = exposition
        self._admin = admin
        self._open = open_to_all

    def routes(self) -> list[Route]:
        return [Route("GET", "/metrics", self.metrics, brief=True)]

    async def metrics(self, request: Request) -> Answer:
        if not self._open and not _is_local(request):
            self._admin.admit(request)
        return Answer(200, self._exposition.text(), CONTENT_TYPE.encode())


def _is_local(request: Request) -> bool:
    """Whether a program on this machine asks, and not somebody elsewhere through a proxy on it."""
    if any(request.values(name) for name in _BY_PROXY):
        return False
    peer = request.client
    if isinstance(peer, IPv4Address):
        return peer.host.startswith("127.")
    return isinstance(peer, IPv6Address) and peer.host in ("::1", "::ffff:127.0.0.1")
