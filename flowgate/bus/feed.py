"""One reader's way through the stream: pages at its own pace, then what the live end brings.

A feed is registered with its tail before the first page is read and drops what it has given already, so there is
neither a gap nor a repeat.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.bus.reading import Losses
from flowgate.bus.stream import StreamState
from flowgate.errors import BusUnavailable, Internal, Refused
from flowgate.interfaces import IFeed, IReader
from flowgate.message import Cursor, Run

if TYPE_CHECKING:
    from flowgate.bus.tail import Feeds, Tail

FEED_MESSAGES = 1000
"""Messages of the live end kept for one reader that is not ready; beyond, they are dropped and read again as pages."""
FEED_BYTES = 256 * 1024
_RETRY_SECONDS = 1.0
_T = TypeVar("_T")


class _State(Enum):
    CATCHING_UP = "reads pages"
    LIVE = "takes what the tail brings"
    STOPPED = "gives no more"


@implementer(IFeed)
class Feed:
    """One reader's way through history and on."""

    _log = Logger()

    def __init__(self, feeds: Feeds, tail: Tail, reader: IReader, after: int) -> None:
        self._context = feeds
        self._tail = tail
        self._reader = reader
        self._after = after
        self._epoch = feeds.epoch
        self._state = _State.CATCHING_UP
        self._paused = False
        self._giving = False
        self._buffer: deque[Run] = deque()
        self._buffer_messages = 0
        self._buffer_bytes = 0
        self._missed = False  # what the tail brought was dropped: pages have to be read again
        self._losses = Losses(feeds.history, tail.subject)
        self._checked = -1  # the tail's place when losses were looked for
        self._from_earliest = False  # what had gone before the first look is not missing
        self._awaited: Deferred[Any] | None = None
        self._resumed: Deferred[None] | None = None
        self._working = False

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._epoch, self._after)

    # -- beginning and ending

    def begin(self, state: StreamState, after: Cursor) -> None:
        """Start to read behind ``after``."""
        if self._state is _State.STOPPED:
            return
        self._from_earliest = not after.sequence
        if after.epoch != state.epoch or after.sequence > state.last:
            self._restart(state)
        self._work()

    def _restart(self, state: StreamState) -> None:
        """The cursor points nowhere: say so, and read all there is."""
        self._epoch = state.epoch
        self._after = 0
        self._from_earliest = True
        self._clear()
        self._reader.gap(Cursor(state.epoch, max(state.first - 1, 0)))

    def go_live(self) -> None:
        """Take what the tail brings."""
        if self._state is _State.CATCHING_UP:
            self._state = _State.LIVE
            self._drain()

    def reopened(self, state: StreamState, remade: bool) -> None:
        """The bus came back: look for what the tail did not bring."""
        if self._state is _State.STOPPED:
            return
        self._checked = -1
        if remade:
            self._restart(state)
        if self._state is _State.LIVE:
            self._state = _State.CATCHING_UP
            self._work()
        else:
            self._missed = True

    def stop(self) -> None:
        if self._state is _State.STOPPED:
            return
        self._state = _State.STOPPED
        self._clear()
        self._tail.remove(self)
        if self._awaited is not None:
            self._awaited.cancel()

    def end(self, reason: Refused) -> None:
        """Stop, and tell the reader why."""
        if self._state is not _State.STOPPED:
            self.stop()
            self._reader.ended(reason)

    # -- what the tail brings

    def tailed(self, runs: list[Run]) -> None:
        """Take the newest messages, or keep them until the reader is there."""
        if self._state is _State.LIVE and not self._paused and not self._buffer and not self._giving:
            for index, run in enumerate(runs):
                self._give(run)
                if self._paused or self._state is not _State.LIVE:
                    self._keep(runs[index + 1 :])
                    break
        else:
            self._keep(runs)

    def _keep(self, runs: list[Run]) -> None:
        if self._missed or self._state is _State.STOPPED:
            return
        for run in runs:
            self._buffer.append(run)
            self._buffer_messages += run.count
            self._buffer_bytes += sum(map(len, run.payloads))
        if self._buffer_messages > FEED_MESSAGES or self._buffer_bytes > FEED_BYTES:
            self._clear()
            self._missed = True

    def _clear(self) -> None:
        self._buffer.clear()
        self._buffer_messages = self._buffer_bytes = 0

    def _give(self, run: Run) -> None:
        part = run.after(self._after)
        if part is None or self._state is _State.STOPPED:
            return
        self._after = part.sequences[-1]
        self._giving = True
        try:
            if not self._reader.read(part):
                self._paused = True
        finally:
            self._giving = False

    def resume(self) -> None:
        if not self._paused or self._state is _State.STOPPED:
            return
        self._paused = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)
        elif self._state is _State.LIVE and not self._giving:
            self._drain()

    def _drain(self) -> None:
        while self._buffer and not self._paused and self._state is _State.LIVE:
            run = self._buffer.popleft()
            self._buffer_messages -= run.count
            self._buffer_bytes -= sum(map(len, run.payloads))
            self._give(run)
        if self._missed and not self._paused and self._state is _State.LIVE:
            self._state = _State.CATCHING_UP
            self._work()

    # -- reading pages

    def _work(self) -> None:
        if not self._working:
            self._working = True
            Deferred.fromCoroutine(self._catch_up()).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        self._working = False
        if self._state is _State.STOPPED and isinstance(failure.value, CancelledError):
            return
        self._log.failure("following the stream failed", failure)
        self.end(Internal())

    async def _wait(self, deferred: Deferred[_T]) -> _T:
        self._awaited = deferred
        try:
            return await deferred
        finally:
            self._awaited = None

    async def _ready(self) -> None:
        """Wait until the reader wants more."""
        while self._paused and self._state is not _State.STOPPED:
            self._resumed = Deferred()
            await self._wait(self._resumed)

    async def _catch_up(self) -> None:
        while self._state is _State.CATCHING_UP:
            try:
                await self._ready()
                if await self._read_page():
                    break
            except BusUnavailable:
                await self._wait(self._context.within_reach())
                # Within reach, and yet no answer: do not ask again at once.
                await self._wait(deferLater(self._context.reactor, _RETRY_SECONDS))
        self._working = False
        self.go_live()

    async def _read_page(self) -> bool:
        """Read and give one page; tell whether the tail can take over."""
        missed_before, self._missed = self._missed, False
        try:
            return await self._read_page_now()
        except BusUnavailable:
            self._missed = self._missed or missed_before
            raise

    async def _read_page_now(self) -> bool:
        context, subject, after, epoch = self._context, self._tail.subject, self._after, self._epoch
        seen = self._tail.last
        page = await self._wait(context.history.page(subject, after))
        if self._checked < self._tail.last:
            # After the page was read: what it lacks was lost before now.  Without new messages nothing more is lost.
            whole = await self._wait(Deferred.fromCoroutine(self._losses.look(after)))
            self._checked = seen
            if whole > after and not self._from_earliest and epoch == self._epoch:
                self._reader.gap(Cursor(epoch, whole))
            self._from_earliest = False
        for run in page.runs:
            if epoch != self._epoch or self._state is _State.STOPPED:
                return False
            self._give(run)
            await self._ready()
        if page.more or self._missed or self._state is _State.STOPPED:
            return False
        if context.settings.replicas > 1:
            # A replica that lags behind may have answered.
            return not await self._wait(Deferred.fromCoroutine(context.history.newer(subject, self._after)))
        return True
