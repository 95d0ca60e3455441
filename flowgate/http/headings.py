"""What every answer begins with."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

GENERAL = (
    (b"Server", b"flowgate"),
    (b"Cache-Control", b"no-store"),
    # Bearer tokens need no credentials mode, so every origin may ask: nothing is sent along by the browser itself.
    (b"Access-Control-Allow-Origin", b"*"),
)
"""What every answer says, unless it says something else under the same name."""

EXPOSED = b"RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, Flow-Last-Event-ID, X-Request-Id"
"""What a page of another origin may read."""

_GENERAL_LINES = b"".join(b"%b: %b\r\n" % field for field in GENERAL)


class Headings:
    """The status line and the general header fields of answers, made once a second.

    :param now: seconds since 1970 UTC.
    """

    __slots__ = ("_made", "_now", "_second", "date")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._second = -1
        self._made: dict[int, bytes] = {}
        self.date = b""

    def get(self, status: int, old: bool) -> bytes:
        """Everything that is the same in all answers with this status now.

        :param old: whether the client speaks HTTP/1.0.
        """
        second = int(self._now())
        if second != self._second:
            self._second = second
            self.date = formatdate(second, usegmt=True).encode()
            self._made.clear()
        heading = self._made.get(-status if old else status)
        if heading is None:
            heading = b"HTTP/1.%d %d %b\r\nDate: %b\r\n%b" % (
                not old,
                status,
                HTTPStatus(status).phrase.encode(),
                self.date,
                _GENERAL_LINES,
            )
            self._made[-status if old else status] = heading
        return heading
