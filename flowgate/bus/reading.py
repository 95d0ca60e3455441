"""Reading the stream by pages (batched direct get), and finding out what is no longer there to be read."""

from __future__ import annotations

import json
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall

from flowgate.bus import wire
from flowgate.bus.grouping import Grouper, fetched_at, fetched_subject
from flowgate.bus.link import Link
from flowgate.bus.stream import StreamSettings, StreamState, full_subjects, stream_info
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable
from flowgate.message import Run

PAGE_MESSAGES = 1000
PAGE_BYTES = 256 * 1024
_ANSWER_SECONDS = 5.0
_LOOKUPS_AT_ONCE = 64
_PAGES_AT_ONCE = 32


@attrs.frozen(slots=True)
class Page:
    """A part of history.

    :ivar runs: in stream order.
    :ivar more: whether more was there when the page was read.
    """

    runs: list[Run]
    more: bool


class _Fetch:
    """One batched direct get under way."""

    def __init__(self, reactor: Any, link: Link, subject: str, body: dict[str, object]) -> None:
        self._link = link
        self._token = link.token()
        self._messages: list[Message] = []
        self.done: Deferred[tuple[list[Message], bool]] = Deferred(lambda _: self._close())
        self._timer: IDelayedCall = reactor.callLater(_ANSWER_SECONDS, self._timed_out)
        link.open_inbox(self._token, self._answered, self._lost)
        reply = f"{link.inbox}.{self._token}".encode()
        link.write(wire.publish(subject.encode(), json.dumps(body).encode(), reply))

    def _close(self) -> None:
        self._link.close_inbox(self._token)
        if self._timer.active():
            self._timer.cancel()

    def _timed_out(self) -> None:
        self._close()
        self.done.errback(BusUnavailable("the message bus does not answer in time"))

    def _lost(self) -> None:
        self._close()
        self.done.errback(BusUnavailable())

    def _answered(self, messages: list[Message]) -> None:
        self._timer.reset(_ANSWER_SECONDS)
        status = wire.status(messages[-1][3])
        if not status:
            self._messages += messages
            return
        self._messages += messages[:-1]
        self._close()
        if status == 204:  # the end of the batch
            pending = int(wire.header(messages[-1][3], b"Nats-Num-Pending") or b"0")
            self.done.callback((self._messages, pending > 0))
        elif status == 404:
            self.done.callback((self._messages, False))
        else:
            self.done.errback(BusUnavailable(f"reading the stream was refused with status {status}"))


class History:
    """Reads the stream."""

    def __init__(self, reactor: Any, link: Link, settings: StreamSettings, grouper: Grouper) -> None:
        self._reactor = reactor
        self._link = link
        self._settings = settings
        self._grouper = grouper
        # However many readers begin at once: the others wait for their turn, not in the server's queues.
        self._pages = DeferredSemaphore(_PAGES_AT_ONCE)

    def _fetch(self, subject: str, start: int, limit: int) -> Deferred[tuple[list[Message], bool]]:
        body: dict[str, object] = {"seq": start, "next_by_subj": subject, "batch": limit, "max_bytes": PAGE_BYTES}
        try:
            return _Fetch(self._reactor, self._link, f"$JS.API.DIRECT.GET.{self._settings.name}", body).done
        except BusUnavailable as away:
            failed: Deferred[tuple[list[Message], bool]] = Deferred()
            failed.errback(away)
            return failed

    def page(self, subject: str, after: int, limit: int = PAGE_MESSAGES) -> Deferred[Page]:
        """Read what lies behind ``after`` on ``subject`` (wildcards allowed).

        :raises BusUnavailable: through the Deferred.
        """

        def group(answer: tuple[list[Message], bool]) -> Page:
            messages, more = answer
            return Page(self._grouper.stored(messages, fetched_at, fetched_subject), more)

        return self._pages.run(self._fetch, subject, after + 1, limit).addCallback(group)

    async def _first(self, subject: str) -> int:
        """The oldest sequence on ``subject``; 0 if there is none."""
        messages, _ = await self._fetch(subject, 1, 1)
        return fetched_at(messages[0])[0] if messages else 0

    async def newer(self, subject: str, after: int) -> bool:
        """Whether the stream's leader knows of anything behind ``after``; any replica may answer for a page."""
        body = json.dumps({"seq": after + 1, "next_by_subj": subject}).encode()
        answer = await self._link.request(f"$JS.API.STREAM.MSG.GET.{self._settings.name}", body)
        return b'"message":' in answer[4]

    async def state(self) -> StreamState:
        return await stream_info(self._link, self._settings)

    async def full_firsts(self, subject: str) -> dict[str, int]:
        """The subjects under ``subject`` that hold all they may, with the oldest sequence of each."""
        names = await full_subjects(self._link, self._settings, subject)
        firsts: dict[str, int] = {}
        for start in range(0, len(names), _LOOKUPS_AT_ONCE):
            some = names[start : start + _LOOKUPS_AT_ONCE]
            asked = [Deferred.fromCoroutine(self._first(name)) for name in some]
            answers: list[tuple[bool, Any]] = await DeferredList(asked, consumeErrors=True)
            for name, (answered, first) in zip(some, answers, strict=True):
                if not answered:
                    first.raiseException()
                firsts[name] = first
        return firsts


class Losses:
    """Notices what a reader can no longer be given.

    A subject at its limit whose oldest message lies behind the reader's cursor may have lost messages between the
    two; so may everything, if the stream's beginning does and the stream is old enough for messages to have gone by
    age.  What was seen so at an earlier look is not reported again.
    """

    def __init__(self, history: History, subject: str) -> None:
        self._history = history
        self._subject = subject
        self._first = 0
        self._firsts: dict[str, int] = {}

    async def look(self, after: int) -> int:
        """Look again.

        :param after: the reader's cursor.
        :returns: from where on history is whole; ``after`` itself if nothing more was lost.
        :raises BusUnavailable: if JetStream does not answer.
        """
        state = await self._history.state()
        whole = after
        if state.first > max(after + 1, self._first) and state.aged:
            whole = state.first - 1
        self._first = state.first
        if state.last > after:
            firsts = await self._history.full_firsts(self._subject)
            for name, first in firsts.items():
                if first > max(after + 1, self._firsts.get(name, 0)):
                    whole = max(whole, first - 1)
            self._firsts = firsts
        return whole
