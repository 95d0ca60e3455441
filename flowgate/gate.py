"""So many things at once, and the others in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import Refused

_log = Logger()
_T = TypeVar("_T")


class _Work:
    """A call that waits, or is under way."""

    __slots__ = ("call", "result", "running")

    def __init__(self, call: Callable[[], Deferred[Any]]) -> None:
        self.call = call
        self.running: Deferred[Any] | None = None
        self.result: Deferred[Any] = Deferred(self._cancel)

    def _cancel(self, _: Deferred[Any]) -> None:
        if self.running is not None:
            self.running.cancel()


def shielded(work: Deferred[_T]) -> Deferred[_T]:
    """Wait for something that goes on although nobody waits any more.

    :returns: a Deferred of what ``work`` fires, or fails with.  To cancel it leaves ``work`` alone; a failure of which
        nobody can be told then is logged, unless it is a refusal.
    """
    waiting: Deferred[_T] = Deferred()

    def done(result: _T | Failure) -> None:
        if not waiting.called:
            waiting.callback(result)  # with a failure it fails
        elif isinstance(result, Failure) and not isinstance(result.value, Refused):
            _log.failure("something failed for which nobody waits any more", result)

    work.addBoth(done)
    return waiting


class Gate:
    """Lets at most ``limit`` calls be under way; the others begin in the order in which they came.

    Unlike :class:`twisted.internet.defer.DeferredSemaphore` it does not recurse: however many calls wait, they may all
    end at once, as they do when what they need goes away.
    """

    __slots__ = ("_ended", "_free", "_serving", "_waiting")

    def __init__(self, limit: int = 1) -> None:
        self._free = limit
        self._waiting: deque[_Work] = deque()
        self._ended: deque[tuple[_Work, object]] = deque()
        self._serving = False

    def run(self, call: Callable[[], Deferred[_T]]) -> Deferred[_T]:
        """Call ``call`` in its turn.

        Cancelling the Deferred cancels the call, or keeps it from being made.

        :returns: a Deferred of what the call's Deferred fires, or fails with.
        """
        work = _Work(call)
        self._waiting.append(work)
        self._serve()
        return work.result

    def _end(self, outcome: object, work: _Work) -> None:
        self._free += 1
        work.running = None
        self._ended.append((work, outcome))
        self._serve()

    def _serve(self) -> None:
        """Tell ends and make calls, one by one: whatever that leads to in here only adds to what there is to do."""
        if self._serving:
            return
        self._serving = True
        try:
            while self._ended or (self._free and self._waiting):
                if self._ended:
                    self._tell(*self._ended.popleft())
                    continue
                work = self._waiting.popleft()
                if not work.result.called:  # else it was cancelled
                    self._free -= 1
                    work.running = maybeDeferred(work.call)
                    work.running.addBoth(self._end, work)
        finally:
            self._serving = False

    @staticmethod
    def _tell(work: _Work, outcome: object) -> None:
        if work.result.called:
            return  # it was cancelled, and the call ended all the same
        if isinstance(outcome, Failure):
            work.result.errback(outcome)
        else:
            work.result.callback(outcome)
