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

from flowgate.bus.overrun import NO_DOUBTS, Doubts
from flowgate.bus.reading import Page, Source
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


class State(Enum):
    """What a feed is at."""

    CATCHING_UP = "reads pages"
    LIVE = "takes what the tail brings"
    STOPPED = "gives no more"


@implementer(IFeed)
class Feed:
    """One reader's way through history and on."""

    __slots__ = (
        "_after",
        "_awaited",
        "_buffer",
        "_buffer_bytes",
        "_buffer_messages",
        "_checked",
        "_context",
        "_epoch",
        "_from_earliest",
        "_giving",
        "_live_from",
        "_missed",
        "_paused",
        "_reader",
        "_resumed",
        "_source",
        "_state",
        "_tail",
        "_unproven",
        "_working",
    )
    _log = Logger()

    def __init__(self, feeds: Feeds, tail: Tail[Any], source: Source, reader: IReader, after: int) -> None:
        """Make a feed that rests until :meth:`begin` or :meth:`go_live`; what the tail brings waits so long."""
        self._context = feeds
        self._tail = tail
        self._source = source
        self._reader = reader
        self._after = after
        self._epoch = feeds.epoch
        self._state = State.CATCHING_UP
        self._paused = False
        self._giving = False
        self._buffer: deque[Run] | None = None  # an empty one takes more memory than the rest of a feed
        self._buffer_messages = 0
        self._buffer_bytes = 0
        self._missed = False  # what the tail brought was dropped: pages have to be read again
        self._checked = -1  # the tail's place when losses were looked for
        self._from_earliest = False  # what had gone before the first look is not missing
        self._live_from = 0  # pages have told of all losses up to here
        self._unproven = False  # nobody has looked yet whether the cursor lies within the stream
        self._awaited: Deferred[Any] | None = None
        self._resumed: Deferred[None] | None = None
        self._working = False

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._epoch, self._after)

    # -- beginning and ending

    def begin(self, state: StreamState | None, after: Cursor | None) -> None:
        """Start to read behind ``after``; without one, what the tail brings from now on.

        :param state: what the stream holds, or ``None`` to find out together with what is gone.
        """
        if self._state is State.STOPPED:
            return
        if after is None:
            self.go_live()
            return
        self._from_earliest = not after.sequence
        self._unproven = state is None
        if state is not None and (after.epoch != state.epoch or after.sequence > state.last):
            self._restart(state)
        self._work()

    def _restart(self, state: StreamState) -> None:
        """The cursor points nowhere: say so, and read all there is."""
        self._epoch = state.epoch
        self._after = 0
        self._from_earliest = True
        self._clear()
        self._reader.gap(Cursor(state.epoch, max(state.first - 1, 0)))

    def skip(self, after: int) -> None:
        """Take everything up to ``after`` as given."""
        self._after = after

    def go_live(self) -> None:
        """Take what the tail brings."""
        if self._state is State.CATCHING_UP:
            self._state = State.LIVE
            self._live_from = max(self._after, self._tail.given)
            self._drain()

    def reopened(self, state: StreamState, remade: bool) -> None:
        """The bus came back: look for what the tail did not bring."""
        if self._state is State.STOPPED:
            return
        live = self._state is State.LIVE
        self._checked = -1
        self._after = self.cursor.sequence
        self._state = State.CATCHING_UP
        if remade:
            self._restart(state)
        if live:
            self._work()
        else:
            self._missed = True

    def stop(self) -> None:
        if self._state is State.STOPPED:
            return
        self._after = self.cursor.sequence
        self._state = State.STOPPED
        self._clear()
        self._tail.remove(self)
        if self._awaited is not None:
            self._awaited.cancel()

    def end(self, reason: Refused) -> None:
        """Stop, and tell the reader why."""
        if self._state is not State.STOPPED:
            self.stop()
            self._reader.ended(reason)

    # -- what the tail brings

    def tailed(self, runs: list[Run], doubts: Doubts | None = NO_DOUBTS) -> None:
        """Take the newest messages, or keep them until the reader is there.

        :param doubts: what may be missing before them; ``None`` if only pages can tell.
        """
        if doubts is NO_DOUBTS:
            whole = 0
        elif doubts is None:
            self._miss()
            return
        else:
            whole = max(self._whole(doubts, run) for run in runs)
        if self._state is State.LIVE and not self._paused and not self._buffer and not self._giving:
            if whole > self._live_from:
                self._live_from = whole
                self._reader.gap(Cursor(self._epoch, whole))
            for index, run in enumerate(runs):
                self._give(run)
                if self._paused or self._state is not State.LIVE:
                    self._keep(runs[index + 1 :])
                    break
        elif whole > self._live_from:
            self._miss()
        else:
            self._keep(runs)

    def _whole(self, doubts: Doubts, run: Run) -> int:
        """From where on nothing is missing that the reader wants of the topic of ``run``."""
        return doubts.of(run)

    def _miss(self) -> None:
        """Have pages read instead of what the tail brought."""
        if self._state is not State.STOPPED:
            self._after = self.cursor.sequence
            self._clear()
            self._missed = True
            if not self._giving:
                self._drain()

    def _keep(self, runs: list[Run]) -> None:
        if not runs or self._missed or self._state is State.STOPPED:
            return
        if self._buffer is None:
            self._after = self.cursor.sequence
        self._fill(runs)
        if self._buffer_messages > FEED_MESSAGES or self._buffer_bytes > FEED_BYTES:
            self._clear()
            self._missed = True

    def _fill(self, runs: list[Run]) -> None:
        if self._buffer is None:
            self._buffer = deque()
        for run in runs:
            self._buffer.append(run)
            self._buffer_messages += run.count
            self._buffer_bytes += sum(map(len, run.payloads))

    def _clear(self) -> None:
        self._buffer = None
        self._buffer_messages = self._buffer_bytes = 0

    def _give(self, run: Run) -> None:
        part = run if run.sequences[0] > self._after else run.after(self._after)
        if part is None or self._state is State.STOPPED:
            return
        self._after = part.sequences[-1]
        self._giving = True
        try:
            if not self._reader.read(part):
                self._paused = True
        finally:
            self._giving = False

    def resume(self) -> None:
        if not self._paused or self._state is State.STOPPED:
            return
        self._paused = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)
        elif self._state is State.LIVE and not self._giving:
            self._drain()

    def _drain(self) -> None:
        while self._buffer and not self._paused and self._state is State.LIVE:
            run = self._buffer.popleft()
            self._buffer_messages -= run.count
            self._buffer_bytes -= sum(map(len, run.payloads))
            self._give(run)
        if not self._buffer:
            self._buffer = None
        if self._missed and not self._paused and self._state is State.LIVE:
            self._state = State.CATCHING_UP
            self._work()

    # -- reading pages

    def _work(self) -> None:
        if not self._working and self._state is State.CATCHING_UP:
            self._working = True
            Deferred.fromCoroutine(self._catch_up()).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        self._working = False
        if self._state is State.STOPPED and isinstance(failure.value, CancelledError):
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
        while self._paused and self._state is not State.STOPPED:
            self._resumed = Deferred()
            await self._wait(self._resumed)

    async def _catch_up(self) -> None:
        while self._state is State.CATCHING_UP:
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
        context, source, after, epoch = self._context, self._source, self._after, self._epoch
        seen = self._tail.last
        page = await self._wait(source.page(after))
        if self._unproven or self._checked < self._tail.last:
            # After the page was read: what it lacks was lost before now.  Without new messages nothing more is lost.
            look = await self._wait(Deferred.fromCoroutine(source.look(after, page)))
            if epoch != self._epoch:
                return False
            if self._unproven and after > look.state.last:
                self._unproven = False
                self._restart(look.state)
                return False
            self._unproven = False
            self._checked = seen
            if look.whole > after and not self._from_earliest:
                self._reader.gap(Cursor(epoch, look.whole))
            self._from_earliest = False
        await self._give_page(page, epoch)
        if page.more or self._missed or self._state is State.STOPPED or epoch != self._epoch:
            return False
        if context.settings.replicas > 1:
            # A replica that lags behind may have answered.
            return not await self._wait(Deferred.fromCoroutine(source.newer(self._after)))
        return True

    async def _give_page(self, page: Page, epoch: str) -> None:
        for run in page.runs:
            if epoch != self._epoch or self._state is State.STOPPED:
                return
            wanted = self._wanted(run)
            if wanted is None:
                self._after = run.sequences[-1]
            else:
                self._give(wanted)
                await self._ready()

    def _wanted(self, run: Run) -> Run | None:
        """What of a page's run the reader wants now."""
        return run
