"""Handlers under way."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class Call:
    """Runs a coroutine whose result and whose errors nobody waits for.

    ``Deferred.fromCoroutine`` makes two more Deferreds and a context for each, which costs as much as a short handler.
    """

    __slots__ = ("_awaited", "_cancelled", "_coroutine")

    def __init__(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        self._coroutine = coroutine
        self._awaited: Deferred[Any] | None = None
        self._cancelled = False

    def go_on(self, result: object = None) -> None:
        """Run until the coroutine is done, or awaits something."""
        self._awaited = None
        try:
            if isinstance(result, Failure):
                awaited = result.throwExceptionIntoGenerator(self._coroutine)  # type: ignore[no-untyped-call]
            else:
                awaited = self._coroutine.send(None)  # it takes the result from the Deferred itself
        except StopIteration:
            return
        self._awaited = awaited
        awaited.addBoth(self.go_on)
        if self._cancelled:
            self.cancel()

    def cancel(self) -> None:
        """Cancel what is awaited, now or next."""
        self._cancelled = True
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.cancel()
