"""Reading the stream by pages (batched direct get), and finding out what is no longer there to be read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from flowgate.bus import wire
from flowgate.bus.grouping import Grouper, fetched_at, fetched_subject
from flowgate.bus.link import Link, NoResponders, decode_json
from flowgate.bus.stream import StreamSettings, StreamState, full_subjects, stream_info
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable
from flowgate.gate import Gate
from flowgate.message import Run

PAGE_MESSAGES = 1000
PAGE_BYTES = 256 * 1024
_ANSWER_SECONDS = 5.0
_LOOKUPS_AT_ONCE = 64
_PAGES_AT_ONCE = 32
_T = TypeVar("_T")


async def all_of(deferreds: Iterable[Deferred[_T]]) -> list[_T]:
    """Wait for all, and raise what the first of them failed with."""
    answers: list[tuple[bool, Any]] = await DeferredList(deferreds, consumeErrors=True)
    for answered, result in answers:
        if not answered:
            result.raiseException()
    return [result for _, result in answers]


@attrs.frozen(slots=True)
class Page:
    """A part of history.

    :ivar runs: in stream order.
    :ivar more: whether more was there when the page was read.
    :ivar suspects: subjects under which so many messages lay behind the page's beginning that a topic there may have
        lost some: it loses a message only while it holds as many newer ones as it may.
    """

    runs: list[Run]
    more: bool
    suspects: Sequence[str] = ()


@attrs.frozen(slots=True)
class Look:
    """What was found out about losses.

    :ivar state: what the stream holds.
    :ivar whole: from where on history is whole; the reader's cursor if nothing more was lost.
    """

    state: StreamState
    whole: int


class Source(Protocol):
    """Where a feed finds what lies behind its cursor."""

    def page(self, after: int) -> Deferred[Page]:
        """Read what lies behind ``after``, at least as far as the tail has come.

        :raises BusUnavailable: through the Deferred.
        """

    async def look(self, after: int, page: Page) -> Look:
        """Look for what ``page``, read behind ``after``, lacks because it is gone.

        :raises BusUnavailable: if JetStream does not answer.
        """

    async def newer(self, after: int) -> bool:
        """Whether the stream's leader knows of anything behind ``after`` that a replica lacked when it gave a page."""


class TooMuchAtOnce(BusUnavailable):
    """The last messages of so many subjects are not given by one request."""


_REFUSALS = {413: TooMuchAtOnce, 503: NoResponders}


class _Fetch:
    """One batched direct get under way."""

    def __init__(self, reactor: Any, link: Link, subject: str, body: dict[str, object]) -> None:
        self._link = link
        self._token = link.token()
        self._messages: list[Message] = []
        self.done: Deferred[tuple[list[Message], int]] = Deferred(lambda _: self._close())
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
            self.done.callback((self._messages, pending))
        elif status == 404:
            self.done.callback((self._messages, 0))
        else:
            refusal = _REFUSALS.get(status, BusUnavailable)
            self.done.errback(refusal(f"reading the stream was refused with status {status}"))


def fetch(reactor: Any, link: Link, stream: str, body: dict[str, object]) -> Deferred[tuple[list[Message], bool]]:
    """Read some messages of a stream by one batched direct get.

    :param body: the request, as the JetStream API writes it.
    :returns: a Deferred of the messages, and of whether more was there.
    :raises TooMuchAtOnce: through the Deferred.
    :raises NoResponders: through the Deferred, if there is no such stream, or it has no leader now.
    :raises BusUnavailable: through the Deferred, if the link is or gets lost, or there is no answer in time.
    """
    return _counted(reactor, link, stream, body).addCallback(lambda answer: (answer[0], answer[1] > 0))


def _counted(reactor: Any, link: Link, stream: str, body: dict[str, object]) -> Deferred[tuple[list[Message], int]]:
    """As :func:`fetch`, with the count of messages that follow."""
    if not link.up:
        return fail(BusUnavailable())
    return _Fetch(reactor, link, f"$JS.API.DIRECT.GET.{stream}", body).done


class History:
    """Reads the stream."""

    def __init__(self, reactor: Any, link: Link, settings: StreamSettings, grouper: Grouper) -> None:
        self._reactor = reactor
        self._link = link
        self._settings = settings
        self._grouper = grouper
        # However many readers begin at once: the others wait for their turn, not in the server's queues.
        self._pages = Gate(_PAGES_AT_ONCE)
        self._state_wanted: dict[Deferred[StreamState], None] = {}
        self._state_asked = False

    def _fetch(self, subject: str, start: int, limit: int, size: int) -> Deferred[tuple[list[Message], int]]:
        body: dict[str, object] = {"seq": start, "next_by_subj": subject, "batch": limit, "max_bytes": size}
        return _counted(self._reactor, self._link, self._settings.name, body)

    def messages(self, subject: str, after: int, limit: int, size: int) -> Deferred[tuple[list[Message], int]]:
        """Read what lies behind ``after`` on ``subject`` (wildcards allowed), as one moment had it.

        :param limit: at most so many messages.
        :param size: no message more once there are so many bytes.
        :returns: a Deferred of the messages, and of how many followed then (it may tell too many, not too few).
        :raises BusUnavailable: through the Deferred.
        """
        return self._pages.run(lambda: self._fetch(subject, after + 1, limit, size))

    def page(self, subject: str, after: int, limit: int = PAGE_MESSAGES) -> Deferred[Page]:
        """Read what lies behind ``after`` on ``subject`` (wildcards allowed).

        :raises BusUnavailable: through the Deferred.
        """

        def group(answer: tuple[list[Message], int]) -> Page:
            messages, pending = answer
            suspects = [subject] if len(messages) + pending >= self._settings.per_topic else []
            return Page(self.group(messages), pending > 0, suspects)

        return self.messages(subject, after, limit, PAGE_BYTES).addCallback(group)

    def group(self, messages: list[Message]) -> list[Run]:
        """Make runs of what :meth:`messages` read."""
        return self._grouper.stored(messages, fetched_at, fetched_subject)

    async def _first(self, subject: str) -> int:
        """The oldest sequence on ``subject``; 0 if there is none."""
        if self._settings.replicas > 1:
            return await self.following(subject, 0)
        messages, _ = await self._fetch(subject, 1, 1, PAGE_BYTES)
        return fetched_at(messages[0])[0] if messages else 0

    async def following(self, subject: str, after: int) -> int:
        """The next sequence behind ``after`` that the stream's leader knows of; 0 if there is none.

        For a page any replica may answer.
        """
        body = json.dumps({"seq": after + 1, "next_by_subj": subject}).encode()
        answer = decode_json(await self._link.request(f"$JS.API.STREAM.MSG.GET.{self._settings.name}", body))
        return int(answer["message"]["seq"]) if "message" in answer else 0

    def state(self) -> Deferred[StreamState]:
        """What the stream holds, at a moment after this call; those who ask at the same time are told together.

        :raises BusUnavailable: through the Deferred.
        """
        wanted: Deferred[StreamState] = Deferred(lambda deferred: self._state_wanted.pop(deferred, None))
        self._state_wanted[wanted] = None
        if not self._state_asked:
            self._ask_state()
        return wanted

    def _ask_state(self) -> None:
        told, self._state_wanted = self._state_wanted, {}
        self._state_asked = True

        def tell(result: StreamState | Failure) -> None:
            self._state_asked = False
            if self._state_wanted:
                self._ask_state()
            for wanted in told:
                if not wanted.called:  # else it was cancelled
                    wanted.callback(result)  # a Failure is passed on as one

        Deferred.fromCoroutine(stream_info(self._link, self._settings)).addBoth(tell)

    async def full_firsts(self, subject: str) -> dict[str, int]:
        """The subjects under ``subject`` that hold all they may, with the oldest sequence of each."""
        names = await full_subjects(self._link, self._settings, subject)
        firsts: dict[str, int] = {}
        for start in range(0, len(names), _LOOKUPS_AT_ONCE):
            some = names[start : start + _LOOKUPS_AT_ONCE]
            asked = [Deferred.fromCoroutine(self._first(name)) for name in some]
            firsts.update(zip(some, await all_of(asked), strict=True))
        return firsts

    async def firsts_if_full(self, subjects: Sequence[str]) -> list[int]:
        """The oldest sequence on each subject (without wildcards) that holds all it may; 0 if it does not.

        :raises BusUnavailable: if JetStream does not answer.
        """
        firsts: list[int] = []
        for start in range(0, len(subjects), _LOOKUPS_AT_ONCE):
            some = subjects[start : start + _LOOKUPS_AT_ONCE]
            firsts += await all_of([Deferred.fromCoroutine(self._first_if_full(subject)) for subject in some])
        return firsts

    async def _first_if_full(self, subject: str) -> int:
        if self._settings.replicas > 1:  # only the leader is sure to know of now
            full = await full_subjects(self._link, self._settings, subject)
            return await self.following(subject, 0) if full else 0
        messages, pending = await self._fetch(subject, 1, 1, 1)
        return fetched_at(messages[0])[0] if 1 + pending >= self._settings.per_topic and messages else 0

    async def fetch(self, sequences: Sequence[int]) -> dict[int, Run]:
        """See :meth:`IBus.fetch`.

        :raises BusUnavailable: if JetStream does not answer.
        """
        found = await self.at_sequences(sequences)
        return {sequence: self.group([message])[0] for sequence, message in found.items()}

    async def at_sequences(self, sequences: Sequence[int]) -> dict[int, Message]:
        """The messages with some sequences, as direct gets give them; without those that are not there.

        :raises BusUnavailable: if JetStream does not answer.
        """
        wanted = list(dict.fromkeys(sequence for sequence in sequences if sequence > 0))
        found: dict[int, Message] = {}
        for start in range(0, len(wanted), _LOOKUPS_AT_ONCE):
            some = wanted[start : start + _LOOKUPS_AT_ONCE]
            messages = await all_of([Deferred.fromCoroutine(self._message(sequence)) for sequence in some])
            found.update((at, message) for at, message in zip(some, messages, strict=True) if message is not None)
        return found

    async def _message(self, sequence: int) -> Message | None:
        name, body = self._settings.name, json.dumps({"seq": sequence}).encode()
        message = await self._link.request(f"$JS.API.DIRECT.GET.{name}", body)
        status = wire.status(message[3])
        if not status:
            return message
        if status != 404:
            raise BusUnavailable(f"reading the stream was refused with status {status}")
        if self._settings.replicas == 1:
            return None
        # A replica that lags behind may have answered.
        answer = decode_json(await self._link.request(f"$JS.API.STREAM.MSG.GET.{name}", body))
        stored = answer.get("message")
        if stored is None:
            return None
        head, payload = (base64.b64decode(stored.get(part, "")) for part in ("hdrs", "data"))
        place = f"Nats-Subject: {stored['subject']}\r\nNats-Sequence: {sequence}\r\nNats-Time-Stamp: {stored['time']}"
        head = b"%b%b\r\n\r\n" % (head[:-2] or wire.HEADER_LINE, place.encode())  # as a direct get writes them
        return b"", b"", b"", head, payload


def _all_of_it(_subject: str) -> int:
    return 0


class Losses:
    """Notices what a reader can no longer be given.

    A subject at its limit whose oldest message lies behind the reader's cursor may have lost messages between the
    two; so may everything, if the stream's beginning does and the stream is old enough for messages to have gone by
    age.  What was seen so at an earlier look is not reported again.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._first = 0
        self._firsts: dict[str, dict[str, int]] = {}

    async def look(
        self,
        after: int,
        suspects: Sequence[str],
        since: int = 0,
        since_on: Callable[[str], int] = _all_of_it,
    ) -> Look:
        """Look again.

        :param after: the reader's cursor.
        :param suspects: as :attr:`Page.suspects` of what was read behind it.
        :param since: what has this sequence or a lower one is not missed.
        :param since_on: the same for one subject.
        :raises BusUnavailable: if JetStream does not answer.
        """
        state = await self._history.state()
        whole = after
        if state.first > max(max(after, since) + 1, self._first) and state.aged:
            whole = state.first - 1
        self._first = state.first
        before, self._firsts = self._firsts, {}
        for suspect in suspects:
            firsts = self._firsts[suspect] = await self._history.full_firsts(suspect)
            known = before.get(suspect, {})
            for name, first in firsts.items():
                if first > max(max(after, since_on(name)) + 1, known.get(name, 0)):
                    whole = max(whole, first - 1)
        return Look(state, whole)


class SubjectSource:
    """What lies behind a cursor on one subject."""

    def __init__(self, history: History, subject: str) -> None:
        self._history = history
        self._subject = subject
        self._losses = Losses(history)

    def page(self, after: int) -> Deferred[Page]:
        return self._history.page(self._subject, after)

    async def look(self, after: int, page: Page) -> Look:
        return await self._losses.look(after, page.suspects)

    async def newer(self, after: int) -> bool:
        return await self._history.following(self._subject, after) > 0
