"""The one lane by which a node's messages enter the stream.

Whatever is queued goes out in parcels: one write to the server, and for its acknowledged messages one fast batch with
one acknowledgement (nats-server ADR-50).  While as many parcels as allowed are under way, new messages wait, so the
parcels grow with the load and an idle lane adds no delay.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from flowgate.bus import wire
from flowgate.bus.grouping import flag_headers
from flowgate.bus.link import Link
from flowgate.bus.names import LIVE, LOG, topic_subject
from flowgate.bus.warnings import Warnings
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, MessageTooLarge, Refused
from flowgate.message import Run, Stored
from flowgate.topics import Topic

PARCEL_MESSAGES = 1000
PARCEL_BYTES = 1024 * 1024
_ANSWER_SECONDS = 5.0
_HEADER_ROOM = 1024  # what the headers of one message may take of the server's max_payload
_SINGLY = 4000  # messages under way outside of batches; the stream refuses whatever waits behind 10,000
_UNCERTAIN = 10_000  # message ids that are remembered because nobody knows whether they were stored
_TOO_LARGE_FOR_STREAM = 10054
# Ask for few flow messages: what is under way is bounded by the parcels.  The server makes it 500 at most.
_FLOW = "65535"
_STORED = re.compile(rb'\{"stream":"[^"]*", ?"seq":([0-9]+)\}\Z')  # what JetStream answers as a rule


class _Job:
    """A run (or single message) on its way."""

    __slots__ = ("failed", "open_parcels", "position", "run", "single", "stored", "subject", "taken")

    def __init__(self, run: Run, subject: bytes, stored: Deferred[None] | None, single: _Single | None = None) -> None:
        self.run = run
        self.subject = subject
        self.stored = stored  # None: nobody waits, the messages travel unacknowledged
        self.single = single
        self.position = 0  # messages that are written
        self.open_parcels = 0
        self.taken = False  # all messages are written
        self.failed = False


class _Single:
    """A message that wants its own place in the stream, and its headers."""

    __slots__ = ("deadline", "head", "message_id", "result", "run", "size")

    def __init__(self, head: bytes, run: Run, result: Deferred[Stored], message_id: str | None = None) -> None:
        self.head = head
        self.message_id = message_id
        self.run = run
        self.size = len(run.payloads[0])
        self.result = result
        self.deadline = 0.0


class _Many:
    """Messages that travel one by one, and want their places.

    :ivar answers: what became of each; ``None`` as long as that is not known.
    :ivar left: how many have no answer yet.
    """

    __slots__ = ("answers", "count", "deadline", "left", "result", "runs", "size", "token", "written")

    def __init__(self, runs: Sequence[Run], largest: int, token: str) -> None:
        self.runs = runs
        self.token = token
        self.deadline = 0.0
        self.written = 0
        sizes = [len(payload) for run in runs for payload in run.payloads]
        self.count = len(sizes)
        self.size = sum(sizes)
        self.answers: list[Stored | Refused | None] = [None] * self.count
        self.left = self.count
        if max(sizes, default=0) > largest:
            for place, size in enumerate(sizes):
                if size > largest:
                    self.answers[place] = _too_large(largest)
                    self.left -= 1
        self.result: Deferred[list[Stored | Refused]] = Deferred()


class _Parcel:
    """What one write took along and one acknowledgement is to confirm."""

    __slots__ = ("bytes", "count", "deadline", "expected", "jobs", "token")

    def __init__(self, token: str, deadline: float) -> None:
        self.token = token
        self.deadline = deadline
        self.jobs: list[tuple[_Job, int]] = []  # with the place in the batch of the job's last message
        self.expected = 0  # messages in the batch
        self.count = 0  # all messages, for the bounds
        self.bytes = 0


class Publisher:
    """Queues, writes and accounts for everything that is to be stored."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        link: Link,
        drained: Callable[[], None],
        settled: Callable[[], None],
        stored: Callable[[list[Run]], None] | None = None,
        *,
        parcels: int = 4,
        queue_messages: int = 65_536,
        queue_bytes: int = 8 * 1024 * 1024,
        measured: Callable[[float], None] | None = None,
    ) -> None:
        """Make a lane; it is open only between :meth:`open` and :meth:`close`.

        :param drained: called when :attr:`congested` goes back to false.
        :param settled: called after Deferreds were fired without the link having brought anything.
        :param stored: called with the runs that the stream has acknowledged and did not have before, in order, before
            their publishers are told.
        :param parcels: parcels that may be under way at once.
        :param queue_messages: messages, queued and under way, from which on the lane calls itself congested; at
            four times as many it refuses.
        :param queue_bytes: the same in bytes.
        :param measured: called with the seconds from a write until it was acknowledged, once for all that is
            acknowledged together.
        """
        self._reactor = reactor
        self._link = link
        self._drained = drained
        self._settled = settled
        self._stored = stored
        self._most_parcels = parcels
        self._queue_messages = queue_messages
        self._queue_bytes = queue_bytes
        self._measured = measured
        self._queue: deque[_Job | _Many] = deque()
        self._parcels: dict[str, _Parcel] = {}
        self._singles: dict[bytes, _Single] = {}  # by their numbers below their inbox, open while there are any
        self._single_inbox = ""
        self._last_single = 0
        self._manys: dict[str, _Many] = {}
        self._singly = 0  # messages under way outside of batches
        self._uncertain: dict[str, bool] = {}
        self._held_messages = 0
        self._held_bytes = 0
        self._turn: IDelayedCall | None = None
        self._watch: IDelayedCall | None = None
        self._warnings = Warnings(self._log, reactor)
        self._open = False
        self._max_payload = 0
        self.congested = False

    @property
    def held(self) -> tuple[int, int]:
        """Messages that are queued or under way, and their bytes."""
        return self._held_messages, self._held_bytes

    # -- opening and closing

    def open(self) -> None:
        """Take messages from now on."""
        self._open = True
        self._max_payload = int(self._link.info.get("max_payload", 1024 * 1024)) - _HEADER_ROOM

    def close(self) -> None:
        """Take no more; whatever has no acknowledgement yet fails, since its fate is unknown."""
        self._open = False
        for call in (self._turn, self._watch):
            if call is not None and call.active():
                call.cancel()
        self._turn = self._watch = None
        parcels, self._parcels = self._parcels, {}
        singles, self._singles = self._singles, {}
        manys, self._manys = self._manys, {}
        queue, self._queue = self._queue, deque()
        self._singly = 0
        away = BusUnavailable()
        for parcel in parcels.values():
            self._link.close_inbox(parcel.token)
            for job, _ in parcel.jobs:
                self._fail(job, away)
        if singles:
            self._link.close_inbox(self._single_inbox)
        for single in singles.values():
            self._doubt(single.message_id)
            single.result.errback(away)
        for many in manys.values():
            self._link.close_inbox(many.token)
            self._tell_many(many, away)
        for waiting in queue:
            if isinstance(waiting, _Many):
                waiting.result.errback(away)
                continue
            if waiting.single is not None:
                waiting.single.result.errback(away)
            self._fail(waiting, away)
        self._held_messages = self._held_bytes = 0
        self._release(0, 0)

    # -- taking

    def publish(self, run: Run) -> Deferred[None]:
        """Store a run; see :meth:`IBus.publish`."""
        stored: Deferred[None] = Deferred()
        refusal = self._refusal(max(map(len, run.payloads), default=0))
        if refusal is not None:
            stored.errback(refusal)
        elif not run.count:
            stored.callback(None)
        else:
            self._put_run(_Job(run, topic_subject(LOG, run.topic), stored))
        return stored

    def record(self, run: Run) -> bool:
        """Have a run kept and passed on without an answer; tell whether that is going to be tried."""
        if not run.count or self._refusal(max(map(len, run.payloads))) is not None:
            return False
        self._put_run(_Job(run, topic_subject(LIVE, run.topic), None))
        return True

    def publish_one(
        self,
        topic: Topic,
        payload: bytes,
        qos: int,
        message_id: str | None = None,
        *,
        ttl: int | None = None,
        retain: bool = False,
        tag: str = "",
    ) -> Deferred[Stored]:
        """Store one message and learn its place; see :meth:`IBus.publish_one`."""
        result: Deferred[Stored] = Deferred()
        refusal = self._refusal(len(payload))
        if refusal is not None:
            result.errback(refusal)
            return result
        run = Run(topic, [payload], qos=qos, ttl=ttl, retain=retain, tag=tag)
        head = _head(run)
        private = None
        if message_id is not None:
            private = private_id(topic, message_id)
            head = _with_id(head, private)
        single = _Single(head, run, result, private)
        self._put(_Job(run, topic_subject(LOG, topic), None, single), 1, single.size)
        return result

    def publish_many(self, runs: Sequence[Run]) -> Deferred[list[Stored | Refused]]:
        """Store messages one by one and learn the place of each; see :meth:`IBus.publish_many`.

        A batch is acknowledged as a whole, and between its messages there may be some of other nodes: only what
        travels by itself is told its place.  That costs the server little (a fifth more, for small messages); what it
        would cost here, one inbox and one Deferred for all of them save.
        """
        refusal = self._refusal(0)
        if refusal is not None:
            return fail(refusal)
        many = _Many(runs, self._max_payload, self._link.token())
        if not many.left:
            return succeed([answer for answer in many.answers if answer is not None])
        self._put(many, many.count, many.size)
        return many.result

    def _refusal(self, largest: int) -> Refused | None:
        if not self._open:
            return BusUnavailable()
        if largest > self._max_payload:
            return _too_large(self._max_payload)
        if self._held_messages >= 4 * self._queue_messages or self._held_bytes >= 4 * self._queue_bytes:
            return BusUnavailable("too many messages wait for the message bus")
        return None

    def _put_run(self, job: _Job) -> None:
        self._put(job, job.run.count, sum(map(len, job.run.payloads)))

    def _put(self, job: _Job | _Many, messages: int, size: int) -> None:
        self._queue.append(job)
        self._held_messages += messages
        self._held_bytes += size
        if not self.congested and (self._held_messages > self._queue_messages or self._held_bytes > self._queue_bytes):
            self.congested = True
        if not self._parcels and not self._singly and self._turn is None:
            self._flush()
        elif self._turn is None and len(self._parcels) < self._most_parcels and self._singly < _SINGLY:
            # While anything is under way, what a turn brings goes together.
            self._turn = self._reactor.callLater(0, self._turn_ended)

    def _turn_ended(self) -> None:
        self._turn = None
        self._flush()

    # -- writing

    def _flush(self) -> None:
        while self._queue and self._open and len(self._parcels) < self._most_parcels and self._singly < _SINGLY:
            self._send_parcel()

    def _go_on(self) -> None:
        """Write what waited for fewer messages to be under way, with all that this turn makes room for."""
        if self._queue and self._turn is None:
            self._turn = self._reactor.callLater(0, self._turn_ended)

    def _send_parcel(self) -> None:
        token = self._link.token()
        reply = f"{self._link.inbox}.{token}.{_FLOW}.fail.".encode()
        parcel = _Parcel(token, self._reactor.seconds() + _ANSWER_SECONDS)
        parts: list[bytes] = []
        number = 0  # the place in the batch
        first = last = -1  # where in parts the batch begins and ends
        live: tuple[int, _Job, bytes, bytes] | None = None
        alone: tuple[_Job, bytes, bytes] | None = None
        queue = self._queue
        while queue and parcel.count < PARCEL_MESSAGES and parcel.bytes < PARCEL_BYTES:
            job = queue[0]
            if isinstance(job, _Many):
                if self._singly >= _SINGLY:
                    break
                queue.popleft()
                self._send_many(job, parts)
                live = None
                continue
            run = job.run
            if job.single is not None:
                if number and run.retain:
                    break  # a client may have messages of the batch before it, which must be acknowledged first
                if self._singly >= _SINGLY:
                    break
                queue.popleft()
                self._send_single(job, job.single, parts)
                live = None
                continue
            start = job.position
            payloads = run.payloads
            if start or run.count > PARCEL_MESSAGES - parcel.count:
                payloads = payloads[start : start + PARCEL_MESSAGES - parcel.count]
            size = sum(map(len, payloads))
            if size > PARCEL_BYTES - parcel.bytes:
                payloads, size = _fitting(payloads, PARCEL_BYTES - parcel.bytes)
            job.position = start + len(payloads)
            job.taken = job.position >= run.count
            if job.taken:
                queue.popleft()
            parcel.count += len(payloads)
            parcel.bytes += size
            head = _head(run)
            overhead = len(head)
            if job.stored is None:
                if head:
                    parts += [wire.publish(job.subject, payload, b"", head) for payload in payloads]
                else:
                    line = b"PUB %b " % job.subject
                    parts += [b"%b%d\r\n%b\r\n" % (line, len(payload), payload) for payload in payloads]
                if run.last_tag and job.taken:
                    head = _head(run, run.last_tag)
                    parts[-1] = wire.publish(job.subject, payloads[-1], b"", head)
                live = len(parts) - 1, job, payloads[-1], head
                continue
            ids = run.message_ids
            if first < 0:
                first = len(parts)
                alone = job, payloads[0], _with_id(head, private_id(run.topic, ids[start])) if ids else head
            if ids:
                line = b"HPUB %b %b" % (job.subject, reply)
                heads = [_with_id(head, private_id(run.topic, one)) for one in ids[start : job.position]]
                parts += [
                    b"%b%d.1.$FI %d %d\r\n%b%b\r\n" % (line, n, len(own), len(own) + len(payload), own, payload)
                    for n, (payload, own) in enumerate(zip(payloads, heads, strict=True), number + 1)
                ]
            elif head:
                line = b"HPUB %b %b" % (job.subject, reply)
                parts += [
                    b"%b%d.1.$FI %d %d\r\n%b%b\r\n" % (line, n, overhead, overhead + len(payload), head, payload)
                    for n, payload in enumerate(payloads, number + 1)
                ]
            else:
                line = b"PUB %b %b" % (job.subject, reply)
                parts += [
                    b"%b%d.1.$FI %d\r\n%b\r\n" % (line, n, len(payload), payload)
                    for n, payload in enumerate(payloads, number + 1)
                ]
            number += len(payloads)
            last = len(parts) - 1
            if run.last_tag and job.taken:
                head = _head(run, run.last_tag)
                subject = b"%b%d.1.$FI" % (reply, number)
                parts[last] = wire.publish(job.subject, payloads[-1], subject, head)
                if number == 1:
                    alone = job, payloads[-1], head
            job.open_parcels += 1
            parcel.jobs.append((job, number))
        parcel.expected = number
        if number == 1 and alone is not None:
            # A batch of one costs the server more than a message by itself.
            parts[first] = self._asking(*alone, token)
        elif number:
            # With the random reply prefix, so that nothing in a subject or payload can be meant instead.
            parts[first] = parts[first].replace(b"%b1.1.$FI" % reply, b"%b1.0.$FI" % reply, 1)
            parts[last] = parts[last].replace(b"%b%d.1.$FI" % (reply, number), b"%b%d.2.$FI" % (reply, number), 1)
        elif live is not None:
            # Nobody waits for these, but the lane must know when the stream has taken them in.
            index, job, payload, head = live
            parts[index] = self._asking(job, payload, head, token)
        if number or live is not None:
            self._parcels[token] = parcel
            self._link.open_inbox(token, self._answered)
        elif parcel.count:
            self._release(parcel.count, parcel.bytes)
        if self._watch is None:
            self._watch = self._reactor.callLater(1.0, self._look)
        self._link.write(b"".join(parts))

    def _asking(self, job: _Job, payload: bytes, head: bytes, token: str) -> bytes:
        """A message of a run that travels by itself and asks for an acknowledgement."""
        return wire.publish(job.subject, payload, f"{self._link.inbox}.{token}".encode(), head)

    def _send_single(self, job: _Job, single: _Single, parts: list[bytes]) -> None:
        single.deadline = self._reactor.seconds() + _ANSWER_SECONDS
        if not self._singles:
            self._single_inbox = self._link.token()
            self._link.open_inbox(self._single_inbox, self._singles_answered)
        self._last_single += 1
        number = b"%d" % self._last_single
        self._singles[number] = single
        self._singly += 1
        reply = f"{self._link.inbox}.{self._single_inbox}.".encode() + number
        parts.append(wire.publish(job.subject, job.run.payloads[0], reply, single.head))

    def _send_many(self, many: _Many, parts: list[bytes]) -> None:
        many.deadline = self._reactor.seconds() + _ANSWER_SECONDS
        many.written = many.left
        self._manys[many.token] = many
        self._singly += many.written
        self._link.open_inbox(many.token, self._many_answered)
        reply = f"{self._link.inbox}.{many.token}.".encode()
        answers = many.answers
        start = 0
        for run in many.runs:
            subject = topic_subject(LOG, run.topic)
            head = _head(run)
            numbered = enumerate(run.payloads, start)
            if run.message_ids:
                line = b"HPUB %b %b" % (subject, reply)
                heads = [_with_id(head, private_id(run.topic, one)) for one in run.message_ids]
                parts += [
                    b"%b%d %d %d\r\n%b%b\r\n" % (line, at, len(own), len(own) + len(payload), own, payload)
                    for (at, payload), own in zip(numbered, heads, strict=True)
                    if answers[at] is None
                ]
            elif head:
                line, size = b"HPUB %b %b" % (subject, reply), len(head)
                parts += [
                    b"%b%d %d %d\r\n%b%b\r\n" % (line, at, size, size + len(payload), head, payload)
                    for at, payload in numbered
                    if answers[at] is None
                ]
            else:
                line = b"PUB %b %b" % (subject, reply)
                parts += [
                    b"%b%d %d\r\n%b\r\n" % (line, at, len(payload), payload)
                    for at, payload in numbered
                    if answers[at] is None
                ]
            start += run.count

    # -- answers

    def _token(self, message: Message) -> str:
        return message[1][len(self._link.inbox) + 1 :].partition(b".")[0].decode()

    def _answered(self, messages: list[Message]) -> None:
        parcel = self._parcels.get(self._token(messages[0]))
        if parcel is None:
            return
        for message in messages:
            payload = message[4]
            if payload.startswith(b'{"type":'):
                if payload.startswith(b'{"type":"ack"'):
                    continue  # flow control; the number of parcels under way is ours
                self._warnings.warn("a batch met an error: {detail}", payload[:200].decode("utf-8", "replace"))
                continue  # the batch's own acknowledgement follows, with the count of what was stored
            confirmed = 0
            detail = f"status {wire.status(message[3])}" if message[3] else ""
            if not detail:
                answer = json.loads(payload)
                error = answer.get("error")
                if error is None:
                    # Only the acknowledgement of a batch counts its messages.
                    confirmed = int(answer.get("count", parcel.expected == 1)) if parcel.expected else 0
                else:
                    detail = str(error.get("description", "unknown error"))
            self._measure(parcel.deadline)
            self._settle(parcel, confirmed, detail)
            return

    def _measure(self, deadline: float) -> None:
        """What was to be acknowledged until ``deadline`` is."""
        if self._measured is not None:
            self._measured(self._reactor.seconds() + _ANSWER_SECONDS - deadline)

    def _settle(self, parcel: _Parcel, confirmed: int, detail: str) -> None:
        del self._parcels[parcel.token]
        self._link.close_inbox(parcel.token)
        if detail or confirmed < parcel.expected:
            self._warnings.warn("messages were not stored: {detail}", detail or f"{confirmed} of {parcel.expected}")
        # Write on before telling anybody: the server has nothing to do, the tellers' work can overlap.
        self._flush()
        done: list[_Job] = []
        for job, upto in parcel.jobs:
            job.open_parcels -= 1
            if upto > confirmed:
                self._fail(job, BusUnavailable())
            elif job.taken and not job.open_parcels and not job.failed:
                done.append(job)
        self._tell_stored([job.run for job in done])
        for job in done:
            assert job.stored is not None
            job.stored.callback(None)
        self._release(parcel.count, parcel.bytes)

    def _doubt(self, message_id: str | None) -> None:
        """Remember a message that may be stored and was not delivered: it is sent again under the same id."""
        if message_id is not None and self._stored is not None:
            if len(self._uncertain) >= _UNCERTAIN:
                del self._uncertain[next(iter(self._uncertain))]
            self._uncertain[message_id] = True

    def _tell_stored(self, runs: list[Run]) -> None:
        if self._stored is not None and runs:
            for run in runs:
                run.recorded = True
            self._stored(runs)

    def _singles_answered(self, messages: list[Message]) -> None:
        """What became of the single messages that one read tells of."""
        singles = self._singles
        start = len(self._link.inbox) + len(self._single_inbox) + 2
        numbers = [message[1][start:] for message in messages]
        results = [self._answer(message) for message in messages]
        answered: list[tuple[_Single, Stored | Refused]] = []
        for number, result in zip(numbers, results, strict=True):
            single = singles.pop(number, None)
            if single is not None:
                answered.append((single, result))
        self._singly -= len(answered)
        if answered:
            self._measure(answered[0][0].deadline)
        if not singles:
            self._link.close_inbox(self._single_inbox)
        self._go_on()
        try:
            self._tell_stored(self._fresh(answered))
        finally:
            for single, result in answered:
                if isinstance(result, Stored):
                    single.result.callback(result)
                else:
                    single.result.errback(result)
            self._release(len(answered), sum(single.size for single, _ in answered))

    def _fresh(self, answered: Sequence[tuple[_Single, Stored | Refused]]) -> list[Run]:
        """What of single messages is to be delivered now, those on one topic as one run."""
        groups: list[list[Run]] = []
        last: Run | None = None
        for single, result in answered:
            if not isinstance(result, Stored):
                continue
            # A duplicate was delivered when it was new, unless its first acknowledgement never came.
            uncertain = single.message_id is not None and self._uncertain.pop(single.message_id, False)
            if result.duplicate and not uncertain:
                continue
            run = single.run
            if last is not None and _alike(last, run):
                groups[-1].append(run)
            else:
                groups.append([run])
            last = run
        return [group[0] if len(group) == 1 else _together(group) for group in groups]

    def _answer(self, message: Message) -> Stored | Refused:
        """What became of a message that travelled by itself."""
        stored = _STORED.match(message[4])
        if stored is not None:
            return Stored(int(stored[1]))
        if not message[3]:
            answer = json.loads(message[4])
            error = answer.get("error")
            if error is None:
                return Stored(int(answer["seq"]), bool(answer.get("duplicate", False)))
            if error.get("err_code") == _TOO_LARGE_FOR_STREAM:
                return MessageTooLarge()
            self._warnings.warn("a message was not stored: {detail}", str(error.get("description")))
        return BusUnavailable()

    def _many_answered(self, messages: list[Message]) -> None:
        token = self._token(messages[0])
        many = self._manys.get(token)
        if many is None:
            return
        start = len(self._link.inbox) + len(token) + 2
        answers = many.answers
        for message in messages:
            place = int(message[1][start:])
            if answers[place] is None:
                answers[place] = self._answer(message)
                many.left -= 1
        if not many.left:
            self._measure(many.deadline)
            self._end_many(many)

    def _end_many(self, many: _Many, reason: str = "") -> None:
        """All answers are there, or the rest will not come."""
        del self._manys[many.token]
        self._link.close_inbox(many.token)
        self._singly -= many.written
        self._flush()  # before anybody is told, as in _settle
        self._tell_many(many, BusUnavailable(reason))
        self._release(many.count, many.size)

    def _tell_many(self, many: _Many, otherwise: Refused) -> None:
        """Deliver what is stored and new, and tell the publisher; ``otherwise`` is the answer that is missing."""
        answers = [otherwise if answer is None else answer for answer in many.answers]
        if self._stored is not None:
            new: list[Run] = []
            start = 0
            for run in many.runs:
                new += self._new(run, answers[start : start + run.count])
                start += run.count
            self._tell_stored(new)
        many.result.callback(answers)

    def _new(self, run: Run, answers: Sequence[Stored | Refused]) -> list[Run]:
        """What of a run is to be delivered now: nothing, all of it, or a part."""
        kept: list[bytes] = []
        ids: Sequence[str | None] = run.message_ids or [None] * run.count
        for payload, message_id, answer in zip(run.payloads, ids, answers, strict=True):
            private = None if message_id is None else private_id(run.topic, message_id)
            if isinstance(answer, BusUnavailable):
                self._doubt(private)
            elif isinstance(answer, Stored):
                uncertain = private is not None and self._uncertain.pop(private, False)
                if not answer.duplicate or uncertain:
                    kept.append(payload)
        if len(kept) == run.count:
            return [run]
        return [Run(run.topic, kept, qos=run.qos, ttl=run.ttl, retain=run.retain)] if kept else []

    def _fail(self, job: _Job, reason: Refused) -> None:
        if not job.failed and job.stored is not None:
            job.failed = True
            if not job.taken:
                self._drop(job)
            for message_id in job.run.message_ids:
                self._doubt(private_id(job.run.topic, message_id))
            job.stored.errback(reason)

    def _drop(self, job: _Job) -> None:
        """Do not write the rest of a run whose beginning is lost."""
        if self._queue and self._queue[0] is job:
            self._queue.popleft()
            rest = job.run.payloads[job.position :]
            self._release(len(rest), sum(map(len, rest)))

    def _release(self, messages: int, size: int) -> None:
        self._held_messages -= messages
        self._held_bytes -= size
        if (
            self.congested
            and self._held_messages <= self._queue_messages // 2
            and self._held_bytes <= self._queue_bytes // 2
        ):
            self.congested = False
            self._drained()

    def _look(self) -> None:
        """Once a second while anything is under way: end what has waited too long."""
        self._watch = None
        now = self._reactor.seconds()
        parcels = [parcel for parcel in self._parcels.values() if parcel.deadline <= now]
        singles = [(number, single) for number, single in self._singles.items() if single.deadline <= now]
        manys = [many for many in self._manys.values() if many.deadline <= now]
        for parcel in parcels:
            if parcel.token in self._parcels:
                self._settle(parcel, 0, "no acknowledgement in time")
        for number, single in singles:
            if self._singles.pop(number, None) is not None:
                if not self._singles:
                    self._link.close_inbox(self._single_inbox)
                self._singly -= 1
                self._go_on()
                self._doubt(single.message_id)
                single.result.errback(BusUnavailable("the message bus does not answer in time"))
                self._release(1, single.size)
        for many in manys:
            if many.token in self._manys:
                self._end_many(many, "the message bus does not answer in time")
        if parcels or singles or manys:
            self._settled()
        if self._watch is None and (self._parcels or self._singly):
            self._watch = self._reactor.callLater(1.0, self._look)


def _head(run: Run, tag: str = "") -> bytes:
    """The headers that every message of a run travels with.

    :param tag: in place of what each is tagged with.
    """
    return flag_headers(run.qos, run.ttl, run.retain, tag or run.tag)


def _alike(one: Run, other: Run) -> bool:
    """Whether two messages may be delivered as one run."""
    if one.retain or other.retain or one.qos != other.qos or one.ttl != other.ttl:
        return False
    return one.topic is other.topic or one.topic == other.topic


def _together(runs: Sequence[Run]) -> Run:
    """Runs of one message each that are alike, as one."""
    return Run(runs[0].topic, [run.payloads[0] for run in runs], qos=runs[0].qos, ttl=runs[0].ttl)


def _too_large(most: int) -> MessageTooLarge:
    return MessageTooLarge(f"the message bus takes at most {most} bytes")


def private_id(topic: Topic, message_id: str) -> str:
    """A message id that no other namespace's can be equal to, as a header's value."""
    namespace = topic.namespace
    return wire.header_value(f"{namespace.user}.{namespace.app}:{message_id}")


def _with_id(head: bytes, message_id: str) -> bytes:
    """Headers with a message id among them."""
    return b"%bNats-Msg-Id: %b\r\n\r\n" % (head[:-2] or wire.HEADER_LINE, message_id.encode())


def _fitting(payloads: Any, room: int) -> tuple[list[bytes], int]:
    """As many payloads as fit into ``room`` bytes, at least one."""
    taken: list[bytes] = []
    size = 0
    for payload in payloads:
        if taken and size + len(payload) > room:
            break
        taken.append(payload)
        size += len(payload)
    return taken, size
