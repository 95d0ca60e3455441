"""Warnings that a fault of the bus would repeat for every message."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

_SECONDS = 10.0


class Warnings:
    """Logs one warning in ten seconds, and leaves out the others."""

    def __init__(self, log: Logger, clock: IReactorTime) -> None:
        self._log = log
        self._clock = clock
        self._last: float | None = None

    def warn(self, text: str, detail: str) -> None:
        """:param text: with ``{detail}`` where that is to stand."""
        now = self._clock.seconds()
        if self._last is None or now - self._last >= _SECONDS:
            self._last = now
            self._log.warn(text, detail=detail)
