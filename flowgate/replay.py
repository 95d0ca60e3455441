"""Giving a new subscription what is retained, without losing anything that is published meanwhile.

Three things can go wrong between the retained messages and the live ones, and none of them may:

* A message is *missed*: published before the subscription held, and read before it was among the retained ones.  What
  this node publishes the gateway waits for (:mod:`flowgate.retaining`); what other nodes have under way is found by
  reading once more, a second later, what came behind the last page.
* An *older* message follows a newer one: a page was read before it was replaced.  So topics whose new message was
  given live meanwhile are remembered, and left out.
* A message comes *twice*, among the retained ones and from the subscription's history.  Where the subscriber reads
  history, it says which ones will come that way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.errors import BusUnavailable, Internal, Refused
from flowgate.gateway import Gateway, Interest
from flowgate.message import Cursor, RetainedPage, Run
from flowgate.topics import Topic, matches

_log = Logger()
_T = TypeVar("_T")

LATE_SECONDS = 1.0
"""When to look once more: later than any node needs between history and the retained messages."""

MAX_TOPICS = 10_000
"""Topics on which new messages may be given meanwhile; a subscriber that reads too slowly for that is cut off."""


class Place(NamedTuple):
    """How far a replay has come: which of its interests it reads, and behind which retained message."""

    interest: int
    after: int


BEGINNING = Place(0, 0)


class Replay:
    """Reads the retained messages of some filters at the pace of one subscriber."""

    def __init__(
        self,
        gateway: Gateway,
        interests: Sequence[Interest],
        clock: IReactorTime,
        behind: Callable[[], bool],
        give: Callable[[Run, bool, Place | None], None],
        over: Callable[[Refused | None], None],
        expected: Callable[[Topic, Cursor], bool] | None = None,
        begin: Place = BEGINNING,
        ended: Callable[[], None] | None = None,
    ) -> None:
        """Be ready; from now on :meth:`live` is to be told what the subscriber is given.

        :param interests: what is subscribed to; what matches several is given for the first one.
        :param behind: tells whether the subscriber reads too slowly to be given more before :meth:`resume` is called.
        :param give: called with a run of one message, whether its full name is shown, and from where on a replay would
            give what follows (``None`` behind the last one).
        :param over: called once: with ``None`` when all was given, except for what a late look may bring; or with why
            no more comes.
        :param expected: tells whether a message with this place in history is going to come from there.
        :param begin: where to begin.
        :param ended: called once nothing more can come, unless :meth:`stop` was, or ``over`` with a reason.
        """
        self._gateway = gateway
        self._interests = interests
        self._clock = clock
        self._behind = behind
        self._give = give
        self._over: Callable[[Refused | None], None] | None = over
        self._expected = expected
        self._begin = begin
        self._ended = ended
        self._reached = [begin.after if index == begin.interest else 0 for index in range(len(interests))]
        self._seen: set[Topic] = set()
        self._paused: Deferred[None] | None = None
        self._awaited: Deferred[Any] | None = None
        self._stopped = False

    def start(self) -> None:
        """Read; the subscription holds."""
        Deferred.fromCoroutine(self._read()).addErrback(self._failed)

    def resume(self) -> None:
        """Give more: the subscriber has caught up."""
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)

    def stop(self) -> None:
        """Give no more, from now on; a second call does nothing."""
        self._stopped = True
        self._over = None
        self._seen.clear()
        if self._awaited is not None:
            self._awaited.cancel()

    def live(self, run: Run) -> bool:
        """Learn of messages that are being given as live ones.

        :returns: whether that could be remembered; if not the subscriber is too slow.
        """
        topic = run.topic
        if not run.retain or self._stopped or topic in self._seen or not self._matches(topic, self._interests):
            return True
        if len(self._seen) >= MAX_TOPICS:
            return False
        self._seen.add(topic)
        return True

    @staticmethod
    def _matches(topic: Topic, interests: Sequence[Interest]) -> bool:
        return any(one.namespace == topic.namespace and matches(one.filter, topic.name) for one in interests)

    # -- reading

    async def _wait(self, deferred: Deferred[_T]) -> _T:
        self._awaited = deferred
        try:
            return await deferred
        finally:
            self._awaited = None

    async def _read(self) -> None:
        first, last = self._begin.interest, len(self._interests) - 1
        for index in range(first, last + 1):
            await self._read_pages(index, self._reached[index], Place(index + 1, 0) if index < last else None)
        over, self._over = self._over, None
        if over is not None:
            over(None)
        while not self._stopped:
            await self._wait(deferLater(self._clock, LATE_SECONDS))
            try:
                for index in range(first, last + 1):
                    await self._read_pages(index, self._reached[index], None)
            except BusUnavailable:
                continue  # what was put before it went is still to be seen
            break
        if not self._stopped and self._ended is not None:
            self._ended()
        self.stop()

    async def _read_pages(self, index: int, after: int | None, end: Place | None) -> None:
        """Give what is behind ``after`` of one interest.

        :param end: the place behind all of it.
        """
        while after is not None and not self._stopped:
            page = await self._wait(self._gateway.retained(self._interests[index], after))
            await self._give_page(index, page, end)
            after = page.after

    async def _give_page(self, index: int, page: RetainedPage, end: Place | None) -> None:
        interest = self._interests[index]
        places: Sequence[Cursor | None] = page.places if self._expected is not None else ()
        final = page.runs[-1] if page.runs and page.after is None else None
        for number, run in enumerate(page.runs):
            while self._behind() and not self._stopped:
                self._paused = Deferred()
                await self._wait(self._paused)
            if self._stopped:
                return
            sequence = run.sequences[0]
            if not self._known(index, run.topic, places[number] if places else None):
                self._give(run, interest.full, end if run is final else Place(index, sequence))
            self._reached[index] = sequence

    def _known(self, index: int, topic: Topic, place: Cursor | None) -> bool:
        """Whether the subscriber has, or gets, this message or a newer one in another way."""
        if topic in self._seen:
            return True
        if place is not None and self._expected is not None and self._expected(topic, place):
            return True
        return self._matches(topic, self._interests[:index])

    def _failed(self, failure: Failure) -> None:
        reason = failure.value
        if self._stopped and isinstance(reason, CancelledError):
            return
        over = self._over
        self.stop()
        if not isinstance(reason, Refused):
            _log.failure("reading retained messages failed", failure)
            reason = Internal()
        if over is not None:
            over(reason)
