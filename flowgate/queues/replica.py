"""One queue on one node: the state machine, and what this node has to do with it.

Whatever the node wants of the queue is a command.  Commands that come while others are on their way go together in one
entry of the log, so the more there is to do, the less each costs.  A receive that finds nothing waits here, and becomes
a command once there is something to be had.
"""

# mypy: disallow-untyped-calls=False
# (Failure has no annotations)
from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Final, TypeAlias

import attrs
import orjson
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.errors import BusUnavailable, Conflict, Internal, NotFound, RateLimited, Refused
from flowgate.interfaces import IQueueFollower, IQueueLog
from flowgate.message import LogEntry
from flowgate.queues.bodies import Bodies, join, split
from flowgate.queues.held import Grant, Handout, entry_of
from flowgate.queues.machine import MAX_IN_FLIGHT, MAX_MOVES, QueueMachine
from flowgate.queues.model import is_fifo
from flowgate.topics import Namespace

MAX_RECEIVERS: Final = 10_000
"""Receives that wait at one queue on one node; beyond it they are refused."""
MAX_WAITING: Final = 10_000
"""Commands of one queue on one node that wait to be written; beyond it they are refused."""
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024

_HEAD_BYTES: Final = 40 * 1024
_PAYLOAD_BYTES: Final = 1536 * 1024
_COMMANDS: Final = 500
_GIVEN_UP: Final = 1_000
_FLYING: Final = 2
_CHECKPOINT_ENTRIES: Final = 16_384
_CHECKPOINT_BYTES: Final = 64 * 1024 * 1024
_RECORDS_PER_ENTRY: Final = 2  # of the state; so many are saved at most for each entry that came since the last time
_LINES: Final = 4  # of a checkpoint that are made before other work goes on
_RETRY_ENTRIES: Final = 1_024
_AGAIN_SECONDS: Final = 0.005
_EARLY_SECONDS: Final = 0.001
_MOVE_SECONDS: Final = 10
_MOVES_SECONDS: Final = 1.0  # for which a receive goes on to look behind messages that were received too often
_SECOND: Final = 1_000_000_000

GONE: Final = "there is no such queue"


Soon: TypeAlias = Callable[[Callable[[], None]], None]


def at_once(call: Callable[[], None]) -> None:
    """Call something now."""
    call()


@attrs.define(slots=True, eq=False)
class _Command:
    text: bytes
    blob: bytes | None
    result: Deferred[Any]


@attrs.define(slots=True, eq=False)
class _Receiver:
    """A receive."""

    number: int
    limit: int
    text: bytes
    answer: Deferred[Handout]
    deadline: float
    timeout: IDelayedCall | None = None
    over: bool = False
    """Whether nobody waits for it any longer: the time is over, or the receiver has gone."""
    gone: bool = False


@implementer(IQueueFollower)
class Replica:
    """One open queue.

    :ivar namespace: whose queue it is.
    :ivar name: the queue's.
    :ivar machine: the queue's state, as far as this node knows.
    :ivar used: when it was last used, by the clock.
    """

    _log = Logger()

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        clock: IReactorTime,
        now: Callable[[], float],
        bodies: Bodies,
        mover: Callable[[Replica, Sequence[Grant]], Deferred[None]],
        gone: Callable[[Replica], None],
        max_in_flight: int = MAX_IN_FLIGHT,
        soon: Soon = at_once,
    ) -> None:
        """Prepare a replica; :meth:`begin` follows once its log is open.

        :param clock: for waiting.
        :param now: seconds since 1970 UTC.
        :param bodies: keeps payloads at hand.
        :param mover: moves messages that were received too often, and says so in commands.
        :param gone: is told that the queue was removed.
        :param soon: calls something when all that has come by now is taken in, so that it can go together.
        """
        self.namespace = namespace
        self.name = name
        self.machine = QueueMachine(is_fifo(name), max_in_flight)
        self.used = clock.seconds()
        self.log: IQueueLog | None = None
        self._clock = clock
        self._now = now
        self._bodies = bodies
        self._mover = mover
        self._gone = gone
        self._soon = soon
        self._turning = False
        self._writer = secrets.token_hex(4)
        self._number = 0
        self._offset = 0  # of the bus's clock to ours, in nanoseconds
        self._inbox: deque[LogEntry] = deque()
        self._applying = False
        self._batch: deque[_Command] = deque()
        self._batch_bytes = 0
        self._flying: dict[int, tuple[int, list[_Command]]] = {}  # when they were written, by our clock
        self._given_up: dict[int, None] = {}  # entries that may come yet; what they take goes back then
        self._receivers: deque[_Receiver] = deque()
        self._came = 0  # receivers, ever
        self._asked = 0
        self._not_before = 0.0
        self._timer: IDelayedCall | None = None
        self._timer_at = 0.0
        self._moving: set[int] = set()
        self._move_timer: IDelayedCall | None = None
        self._tail = self._tail_bytes = 0
        self._tail_most = _CHECKPOINT_ENTRIES + secrets.randbelow(_CHECKPOINT_ENTRIES // 4)
        self._saving = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it follows its log no more."""
        return self._closed

    @property
    def idle(self) -> bool:
        """Whether nothing is under way and nobody waits."""
        under_way = self._batch or self._flying or self._asked or self._saving or self._moving or self.machine.moving
        return not (under_way or self._receivers)

    def bus_now(self) -> int:
        """What the bus's clock says, as far as we know: nanoseconds since 1970 UTC."""
        return int(self._now() * _SECOND) + self._offset

    @property
    def largest(self) -> int:
        """Most bytes of a body that an entry takes."""
        return 0 if self.log is None else self.log.largest - _HEAD_BYTES - 1024

    def touch(self) -> None:
        """Learn that the queue is used."""
        self.used = self._clock.seconds()

    def begin(self, log: IQueueLog) -> None:
        """Use the log, which is open."""
        self.log = log
        self._look()

    def close(self, reason: Refused | None = None) -> None:
        """Follow the queue no more; whoever still waits is told ``reason``."""
        if self._closed:
            return
        self._closed = True
        if self.log is not None:
            self.log.close()
        for timer in (self._timer, self._move_timer):
            if timer is not None and timer.active():
                timer.cancel()
        self._fail_all(reason or BusUnavailable("the gateway is going away"))
        self._bodies.forget(self)

    def _fail_all(self, reason: Refused) -> None:
        self._fail_flying(reason)
        batch, self._batch, self._batch_bytes = self._batch, deque(), 0
        for command in batch:
            _errback(command.result, reason)
        receivers, self._receivers = self._receivers, deque()
        for receiver in receivers:
            self._answer(receiver, reason)

    def _fail_flying(self, reason: Refused) -> None:
        flying, self._flying = self._flying, {}
        self._give_up(*flying)
        for _, commands in flying.values():
            for command in commands:
                _errback(command.result, reason)

    def _give_up(self, *numbers: int) -> None:
        """Remember entries of which nobody waits to hear any more."""
        self._given_up.update(dict.fromkeys(numbers))
        while len(self._given_up) > _GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    # -- IQueueFollower

    def restart(self, checkpoint: bytes | None, upto: int) -> None:
        self._inbox.clear()
        try:
            self.machine.restart(checkpoint)
        except (ValueError, LookupError, TypeError):
            refusal = Conflict("the state of the queue was saved by another version of the gateway, or is damaged")
            self._gone(self)
            self.close(refusal)
            raise refusal from None
        self._bodies.forget(self)
        self._tail = self._tail_bytes = 0
        # Their entries may lie before the checkpoint, and nothing will tell.
        self._fail_flying(BusUnavailable())
        if self._batch:
            self._clock.callLater(0, self._look)

    def entries(self, entries: Sequence[LogEntry]) -> None:
        self._inbox.extend(entries)
        if self._applying:
            return  # what we are doing led to them
        self._applying = True
        try:
            while self._inbox:
                done: list[tuple[_Command, Any]] = []
                while self._inbox:
                    self._apply(self._inbox.popleft(), done)
                for command, result in done:
                    if not command.result.called:
                        command.result.callback(result)
        finally:
            self._applying = False
        self._look()

    def gone(self) -> None:
        self._gone(self)
        self.close(NotFound(GONE))

    def _apply(self, entry: LogEntry, done: list[tuple[_Command, Any]]) -> None:
        if not entry.head:
            return
        machine = self.machine
        writer, number = "", 0
        live = entry.sequence > machine.upto
        try:
            writer, number, commands = orjson.loads(entry.head)
            results = machine.apply(entry.sequence, entry.time, commands)
        except Exception:
            # All nodes fail here in the same way, so they still agree.
            self._log.failure("the entry {sequence} of a queue cannot be applied", sequence=entry.sequence)
            if writer == self._writer:
                for command in self._flying.pop(number, (0, ()))[1]:
                    _errback(command.result, Internal())
            return
        if not live:
            return
        self._tail += 1
        if entry.payload:
            self._tail_bytes += len(entry.payload)
            if machine.holds(entry.sequence):
                self._bodies.keep(self, entry.sequence, entry.payload)
        for sequence in machine.freed:
            self._bodies.drop(self, sequence)
        machine.freed.clear()
        for command in commands:
            if command[0] == "t":
                self._tail = machine.upto - command[1]
                self._tail_bytes = 0
            elif command[0] == "p":
                self._bodies.forget(self)
        if writer != self._writer:
            return
        flying = self._flying.pop(number, None)
        if flying is not None:
            written, mine = flying
            self._measure(entry.time, written)
            done += zip(mine, results, strict=True)
            return
        if number in self._given_up:  # else it was answered, before the state began anew
            del self._given_up[number]
            for result in results:
                if isinstance(result, Handout):
                    self._give_back(result.grants)

    def _measure(self, time: int, written: int) -> None:
        """Learn of the bus's clock from an entry of ours: it was stored after it was written, and before now."""
        least, most = time - int(self._now() * _SECOND), time - written
        self._offset = max(least, min(self._offset, most))

    # -- commands

    def command(self, *command: Any, blob: bytes | None = None) -> Deferred[Any]:
        """Write a command.

        :param command: as :class:`QueueMachine` has it.
        :param blob: the body that belongs to it.
        :returns: a Deferred of its result, fired once it is stored and applied.
        :raises BusUnavailable: through the Deferred; it may or may not be stored.
        :raises NotFound: through the Deferred, if the queue is gone.
        :raises RateLimited: through the Deferred, if too many commands wait already.
        """
        return self._command(orjson.dumps(command), blob)

    def _command(self, text: bytes, blob: bytes | None = None) -> Deferred[Any]:
        if self._closed or self.log is None:
            return fail(BusUnavailable())
        if len(self._batch) >= MAX_WAITING or self._batch_bytes > MAX_WAITING_BYTES:
            return fail(RateLimited("too much is under way at this queue"))
        command = _Command(text, blob, Deferred())
        self._batch.append(command)
        self._batch_bytes += len(text) + (len(blob) if blob else 0)
        if len(self._flying) < _FLYING and not self._turning:
            self._turning = True
            self._soon(self._end_of_turn)
        return command.result

    def _end_of_turn(self) -> None:
        self._turning = False
        if not self._closed and len(self._flying) < _FLYING:
            self._flush()

    def _flush(self) -> None:
        """Write what waits, as much as one entry takes."""
        log = self.log
        assert log is not None
        while self._batch and len(self._flying) < _FLYING:
            room = min(_PAYLOAD_BYTES, self.largest)
            commands: list[_Command] = []
            head = payload = 0
            while self._batch and len(commands) < _COMMANDS:
                command = self._batch[0]
                size = len(command.blob) + 4 if command.blob is not None else 0
                if commands and (head + len(command.text) > _HEAD_BYTES or payload + size > room):
                    break
                commands.append(self._batch.popleft())
                head += len(command.text) + 1
                payload += size
            self._batch_bytes -= head - len(commands) + payload - 4 * sum(1 for one in commands if one.blob is not None)
            self._number += 1
            number = self._number
            self._flying[number] = int(self._now() * _SECOND), commands
            text = b'["%b",%d,[%b]]' % (self._writer.encode(), number, b",".join(one.text for one in commands))
            blobs = join([one.blob for one in commands if one.blob is not None])
            log.append(text, blobs).addErrback(self._not_written, number)

    def _not_written(self, failure: Failure, number: int) -> None:
        _, commands = self._flying.pop(number, (0, ()))
        if commands:
            self._give_up(number)
        for command in commands:
            if not command.result.called:
                command.result.errback(failure)
        if not self._closed and len(self._flying) < _FLYING:
            self._flush()

    # -- receiving

    def receive(
        self,
        limit: int,
        visibility: int,
        wait: float,
        max_receives: int = 0,
        retention: int = 0,
        attempt: str | None = None,
    ) -> Deferred[Handout]:
        """Take up to ``limit`` messages.  Cancelling the Deferred ends the wait; nothing is taken then.

        :param visibility: milliseconds.
        :param wait: seconds to wait for a first message.
        :returns: a Deferred of :class:`Handout`, whose ``moving`` were moved.
        """
        if self._closed:
            return fail(BusUnavailable())
        if len(self._receivers) >= MAX_RECEIVERS:
            return fail(RateLimited("too many receivers wait at this queue"))
        text = orjson.dumps(("r", limit, visibility, max_receives, retention, attempt))
        answer: Deferred[Handout] = Deferred(lambda _: self._leave(receiver))
        self._came += 1
        receiver = _Receiver(self._came, limit, text, answer, self._clock.seconds() + wait)
        if attempt is not None or (not self._receivers and self._offers() > 0):
            self._ask(receiver)
        elif wait <= 0:
            return succeed(Handout(full=self.machine.full(self.bus_now())))
        else:
            receiver.timeout = self._clock.callLater(wait, self._expire, receiver)
            self._receivers.append(receiver)
            self._look()
        return answer

    def _offers(self) -> int:
        return self.machine.available(self.bus_now()) - self._asked

    def _ask(self, receiver: _Receiver) -> None:
        self._asked += receiver.limit
        self._command(receiver.text).addCallbacks(
            self._handed_out, self._not_handed_out, callbackArgs=(receiver,), errbackArgs=(receiver,)
        )

    def _handed_out(self, handout: Handout, receiver: _Receiver) -> None:
        self._asked -= receiver.limit
        if handout.moving:
            self.move(handout.moving).addBoth(lambda _: self._given(handout, receiver))
        else:
            self._given(handout, receiver)

    def _given(self, handout: Handout, receiver: _Receiver) -> None:
        if receiver.gone:
            self._give_back(handout.grants)
        elif handout.moving and not handout.grants and self._clock.seconds() < receiver.deadline + _MOVES_SECONDS:
            self._ask(receiver)  # they were in the way of others
        elif handout.grants or receiver.over or self._clock.seconds() >= receiver.deadline:
            self._answer(receiver, handout)
        elif not self._closed:
            now = self._clock.seconds()
            self._not_before = now + _AGAIN_SECONDS
            if receiver.timeout is None:
                receiver.timeout = self._clock.callLater(receiver.deadline - now, self._expire, receiver)
            before = sum(1 for _ in takewhile(lambda one: one.number < receiver.number, self._receivers))
            self._receivers.insert(before, receiver)
        else:
            self._answer(receiver, BusUnavailable())
        if not self._applying:
            self._look()

    def _not_handed_out(self, failure: Failure, receiver: _Receiver) -> None:
        self._asked -= receiver.limit
        if not receiver.gone:
            self._answer(receiver, failure)

    def _answer(self, receiver: _Receiver, outcome: Handout | Refused | Failure) -> None:
        if receiver.timeout is not None and receiver.timeout.active():
            receiver.timeout.cancel()
        if receiver.answer.called:
            return
        if isinstance(outcome, Handout):
            receiver.answer.callback(outcome)
        else:
            receiver.answer.errback(outcome)

    def _expire(self, receiver: _Receiver) -> None:
        receiver.over = True
        if receiver in self._receivers:  # else it is asking, and the answer is on its way
            self._receivers.remove(receiver)
            self._answer(receiver, Handout())

    def _leave(self, receiver: _Receiver) -> None:
        receiver.gone = receiver.over = True
        if receiver.timeout is not None and receiver.timeout.active():
            receiver.timeout.cancel()
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    def _give_back(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            self.give_back(grant)

    def give_back(self, grant: Grant) -> None:
        """Undo a receive whose receiver has gone: as if it had not been."""
        self.command("u", grant.place, grant.number).addErrback(self._not_given_back)

    def _not_given_back(self, failure: Failure) -> None:
        failure.trap(Refused)  # then it comes back when its visibility ends

    def _look(self) -> None:
        """Go on: write what waits, serve who waits, save what is to be saved."""
        if self._closed or self.log is None:
            return
        if self._batch and len(self._flying) < _FLYING:
            self._flush()
        if self._receivers:
            self._serve()
        if self.machine.moving:
            self._watch_moves()
        if not self._saving and self._overdue():
            self.checkpoint()

    def _overdue(self) -> bool:
        """Whether the state is to be saved: the more there is of it, the less often."""
        much = self._tail > self._tail_most or self._tail_bytes > _CHECKPOINT_BYTES
        return much and self._tail > self.machine.weight // _RECORDS_PER_ENTRY

    def _serve(self) -> None:
        now = self._clock.seconds()
        if now >= self._not_before:
            while self._receivers and self._offers() > 0:
                self._ask(self._receivers.popleft())
            if not self._receivers:
                return
            turn = self.machine.next_turn()
            if turn is None:
                return
            at = now + max(_EARLY_SECONDS, (turn - self.bus_now()) / _SECOND + _EARLY_SECONDS)
        else:
            at = self._not_before
        if self._timer is not None and self._timer.active():
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._clock.callLater(max(0.0, at - now), self._look)

    # -- bodies

    def fetch(self, grants: Sequence[Grant]) -> Deferred[list[bytes | None]]:
        """The bodies of messages; ``None`` for what is gone.

        :raises BusUnavailable: through the Deferred.
        """
        bodies: list[bytes | None] = []
        missing: list[int] = []
        for grant in grants:
            sequence, index = entry_of(grant.place)
            payload = self._bodies.get(self, sequence)
            if payload is None:
                missing.append(sequence)
                bodies.append(None)
            else:
                bodies.append(split(payload, index))
        if not missing:
            return succeed(bodies)
        if self.log is None:
            return fail(BusUnavailable())

        def found(payloads: dict[int, bytes]) -> list[bytes | None]:
            for at, grant in enumerate(grants):
                sequence, index = entry_of(grant.place)
                if bodies[at] is None and sequence in payloads:
                    bodies[at] = split(payloads[sequence], index)
            return bodies

        return self.log.read(list(dict.fromkeys(missing))).addCallback(found)

    # -- dead letters

    def move(self, grants: Sequence[Grant]) -> Deferred[bool]:
        """Have messages moved to the dead-letter queue that were received too often.

        :returns: a Deferred of whether that was done.
        """
        places = {one.place for one in grants}
        self._moving |= places

        def done(result: Any) -> bool:
            self._moving -= places
            if not isinstance(result, Failure):
                return True
            # After an outage they stay on their way, and this node or another tries again.
            if result.check(Refused) is None:
                self._log.failure("messages could not be moved to the dead-letter queue", result)
            if self.machine.moving and not self._closed:
                self._watch_moves()
            return False

        return self._mover(self, grants).addBoth(done)

    def _watch_moves(self) -> None:
        """Look now and then after messages that nobody moves: their node died, or the bus was away."""
        if self._move_timer is None or not self._move_timer.active():
            pause = _MOVE_SECONDS * (1 + secrets.randbelow(100) / 100)
            self._move_timer = self._clock.callLater(pause, self._move_left)

    def _move_left(self) -> None:
        before = self.bus_now() - _MOVE_SECONDS * _SECOND
        left = [p for p, since in self.machine.moving.items() if since <= before and p not in self._moving][:MAX_MOVES]
        if left:
            moved = self.move([grant for place in left if (grant := self.machine.grant(place)) is not None])
            moved.addCallback(lambda whole: self._move_left() if whole and not self._closed else None)
        elif self.machine.moving:
            self._watch_moves()

    # -- checkpoints

    def checkpoint(self) -> Deferred[None]:
        """Save the state of now, and have the log let go of what is no longer needed."""
        if self._saving or self.log is None or self._closed:
            return succeed(None)
        self._saving = True
        return Deferred.fromCoroutine(self._save(self.log)).addErrback(self._not_saved)

    async def _save(self, log: IQueueLog) -> None:
        machine = self.machine
        upto, first, dead = machine.upto, machine.first, machine.dead()
        lines: list[bytes] = []
        try:
            for line in machine.snapshot():
                lines.append(line)
                if len(lines) % _LINES == 0:
                    await deferLater(self._clock, 0)
            if await log.save(b"\n".join(lines), upto):
                await log.trim(upto, first, dead)
                await self.command("t", upto)
            else:
                self._tail = self._tail_bytes = 0  # another node was faster
        finally:
            self._saving = False

    def _not_saved(self, failure: Failure) -> None:
        self._tail = max(0, self._tail_most - _RETRY_ENTRIES)
        self._tail_bytes = 0
        if failure.check(Refused) is None:
            self._log.failure("the state of a queue could not be saved", failure)


def _errback(result: Deferred[Any], reason: Refused) -> None:
    if not result.called:
        result.errback(reason)
