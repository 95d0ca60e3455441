"""How late the reactor is."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flowgate.metering import Histogram

INTERVAL: Final = 0.25
"""Seconds between two looks."""


class LoopLag:
    """Asks to be called again and again, and measures how much later that happens.

    Whatever is late for this timer is late for every client: one call keeps the reactor for so long, or the machine
    gives it no time.
    """

    def __init__(self, clock: IReactorTime, measured: Histogram) -> None:
        """Prepare.

        :param clock: the reactor.
        :param measured: takes seconds.
        """
        self._clock = clock
        self._measured = measured
        self._due = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Measure from now on."""
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._look)

    def _look(self) -> None:
        self._measured.observe(max(0.0, self._clock.seconds() - self._due))
        self.start()

    def stop(self) -> None:
        """Measure no more."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
