"""A value in the store that one node owns, and writes again and again."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import BusUnavailable, Conflict, Internal, Refused
from flowgate.interfaces import IStore
from flowgate.message import Entry
from flowgate.subscriber import Turn

_log = Logger()

LATER_SECONDS = 1.0
"""How long a change that nobody waits for may stay unwritten."""
_RETRY_SECONDS = 1.0


class Kept:
    """Writes a value whenever it has changed: one write at a time, each of the newest value.

    What changes during one write goes together into the next, so a busy owner costs no more than a quiet one.  Every
    write names the revision before it.  If somebody else has written meanwhile, the value is theirs: ``lost`` is
    called, once, with ``None``, and nothing more is written; with a reason if the store does not take the value.  While
    the bus is away the write is tried again; a write whose fate is unknown is recognized by ``mine``.

    :ivar revision: of what is stored, as far as it is known; 0 if nothing is.
    """

    __slots__ = (
        "_bucket",
        "_clock",
        "_encode",
        "_flushing",
        "_key",
        "_later",
        "_lost",
        "_mine",
        "_over",
        "_retry",
        "_store",
        "_turn",
        "_waiting",
        "_wanted",
        "_writing",
        "revision",
    )

    def __init__(
        self,
        store: IStore,
        bucket: str,
        key: str,
        revision: int,
        encode: Callable[[], bytes],
        mine: Callable[[bytes], bool],
        lost: Callable[[Refused | None], None],
        turn: Turn,
        clock: IReactorTime,
    ) -> None:
        """Take over a value.

        :param revision: of what is stored; 0 if nothing is.
        :param encode: gives the value of now.
        :param mine: whether a stored value was written by this owner.
        :param turn: a write begins when it is flushed, so that all that one read changes is one write.
        """
        self._store = store
        self._bucket = bucket
        self._key = key
        self._encode = encode
        self._mine = mine
        self._lost: Callable[[Refused | None], None] | None = lost
        self._turn = turn
        self._clock = clock
        self._waiting: list[Callable[[], None]] = []
        self._wanted = False
        self._flushing = False
        self._writing = False
        self._retry: IDelayedCall | None = None
        self._later: IDelayedCall | None = None
        self._over: Deferred[None] | None = None
        self.revision = revision

    @property
    def settled(self) -> bool:
        """Whether what is stored is all that was to be written."""
        return not (self._wanted or self._writing or self._retry is not None)

    def changed(self, then: Callable[[], None] | None = None) -> None:
        """Write the value that is there when this read's work is done.

        :param then: called once that is stored; never, if the value is lost to somebody else.
        """
        if self._lost is None:
            return
        if then is not None:
            self._waiting.append(then)
        self._wanted = True
        if not self._flushing and not self._writing and self._retry is None:
            self._flushing = True
            self._turn.add(self)

    def changed_a_little(self) -> None:
        """Write the value within a second: losing this change would cost only work done twice."""
        if self._later is None and not self._wanted and self._lost is not None:
            self._later = self._clock.callLater(LATER_SECONDS, self._now)

    def _now(self) -> None:
        self._later = None
        self.changed()
        self._turn.flush()

    def flush(self) -> None:
        """Begin to write; called by the turn."""
        self._flushing = False
        self._retry = None
        if self._writing or not self._wanted or self._lost is None:
            return
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._wanted = False
        waiting, self._waiting = self._waiting, []
        self._writing = True
        try:
            value = self._encode()
        except Exception:
            _log.failure("what is kept of {bucket} {key} cannot be told", bucket=self._bucket, key=self._key)
            self._give_up(Internal())
            return
        written = self._store.put(self._bucket, self._key, value, self.revision)
        written.addCallbacks(self._written, self._not_written, callbackArgs=(waiting,), errbackArgs=(waiting,))
        written.addErrback(self._broken)

    def _written(self, revision: int, waiting: list[Callable[[], None]]) -> None:
        if self._lost is None:
            return
        self.revision = revision
        self._writing = False
        for then in waiting:
            then()
        self._go_on()

    def _go_on(self) -> None:
        if self._wanted:
            self.changed()
        elif self._over is not None:
            over, self._over = self._over, None
            over.callback(None)

    def _not_written(self, failure: Failure, waiting: list[Callable[[], None]]) -> Deferred[None] | None:
        if isinstance(failure.value, BusUnavailable):
            # It may be stored all the same: then the next attempt meets a revision of our own.
            self._again(waiting)
            return None
        if isinstance(failure.value, Conflict):
            return self._store.get(self._bucket, self._key).addCallbacks(
                self._compare, self._not_written, callbackArgs=(waiting,), errbackArgs=(waiting,)
            )
        reason = failure.value
        if not isinstance(reason, Refused) or reason.status == Internal.status:
            _log.failure("{bucket} {key} cannot be kept", failure, bucket=self._bucket, key=self._key)
            reason = Internal()
        self._give_up(reason)
        return None

    def _compare(self, entry: Entry | None, waiting: list[Callable[[], None]]) -> None:
        if entry is not None and self._mine(entry.value):
            self.revision = entry.revision  # an earlier attempt did arrive
            self._again(waiting)
        else:
            self._give_up(None)

    def _again(self, waiting: list[Callable[[], None]]) -> None:
        if self._lost is None:
            return
        self._waiting = waiting + self._waiting
        self._writing = False
        self._wanted = True
        self._retry = self._clock.callLater(_RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self.flush()
        self._turn.flush()

    def _broken(self, failure: Failure) -> None:
        _log.failure("{bucket} {key} cannot be kept", failure, bucket=self._bucket, key=self._key)
        self._give_up(Internal())

    def _give_up(self, reason: Refused | None) -> None:
        lost = self._lost
        self.abandon()
        if lost is not None:
            lost(reason)

    def abandon(self) -> None:
        """Write no more, from now on; what waits for a write is forgotten."""
        self._lost = None
        self._waiting = []
        self._wanted = False
        self._writing = False
        for call in (self._retry, self._later):
            if call is not None and call.active():
                call.cancel()
        self._retry = self._later = None
        over, self._over = self._over, None
        if over is not None:
            over.callback(None)

    def finish(self) -> Deferred[None]:
        """Write what has changed and is not written yet.

        :returns: a Deferred, fired once it is stored, or lost to somebody else.
        """
        over: Deferred[None] = Deferred()
        if self._lost is None or not (self._wanted or self._writing or self._later is not None):
            over.callback(None)
            return over
        self._over = over
        if self._later is not None:
            self.changed()
        self._turn.flush()
        return over
