"""What is counted of requests, and the line that each may have in the log."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from flowgate.http.answers import Route
from flowgate.http.request import Request
from flowgate.metering import Histogram, Meter

_log = Logger()

NOWHERE: Final = "none"
"""The route of requests that led to none."""

_SHOWN_PATH: Final = 200


class Requests:
    """Measures the requests of one site.

    :ivar received: counts bytes that clients sent.
    :ivar sent: counts bytes that they were sent.
    """

    def __init__(self, meter: Meter, *, log: bool = False) -> None:
        """Prepare.

        :param log: whether each request has a line in the log.
        """
        self.received = meter.counter("received_bytes", "http")
        self.sent = meter.counter("sent_bytes", "http")
        self._meter = meter
        self._log = log
        self._took: dict[tuple[Route | None, int], Histogram] = {}

    def answered(self, request: Request, status: int) -> None:
        """The answer to ``request`` begins."""
        seconds = request.seconds()
        route = request.route
        took = self._took.get((route, status // 100))
        if took is None:
            took = self._begin(route, status // 100)
        took.observe(seconds)
        if request.refused:
            self._meter.add("refusals", ("http" if route is None else route.protocol, request.refused))
        if self._log:
            self._write(request, status, seconds)

    def _begin(self, route: Route | None, kind: int) -> Histogram:
        labels = (NOWHERE, NOWHERE) if route is None else (route.method, route.path)
        took = self._meter.histogram("http_request_duration_seconds", (*labels, f"{kind}xx"))
        self._took[route, kind] = took
        return took

    @staticmethod
    def _write(request: Request, status: int, seconds: float) -> None:
        # Without the query: a token may stand there.
        path = request.path[:_SHOWN_PATH].decode("ascii", "backslashreplace")
        _log.info(
            "request {request_id}: {method} {path} from {client}: {status} after {milliseconds} ms",
            request_id=request.request_id,
            method=request.method.decode("ascii", "backslashreplace"),
            path=path,
            client=getattr(request.client, "host", "a Unix socket"),
            status=status,
            milliseconds=round(seconds * 1000, 1),
        )
