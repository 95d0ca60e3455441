"""Keeping a follower of a queue's log where the log is, whatever happens to the connection.

What the stream republishes has no gaps between its sequences.  If there is one, or after the connection was lost, the
stream is read from there on, while what comes is held back; then the two are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.bus import wire
from flowgate.bus.grouping import consumed_at
from flowgate.bus.link import Link
from flowgate.bus.queue_reading import (
    ENTRY,
    GONE,
    MESSAGE,
    POINTER,
    Heads,
    LogReader,
    Pointer,
    entry_head,
    out_subject,
    read_chunks,
)
from flowgate.bus.reading import History
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, NotFound, ProtocolViolation, Refused
from flowgate.gate import Gate
from flowgate.interfaces import IQueueFollower
from flowgate.message import LogEntry

_HELD_BYTES: Final = 16 * 1024 * 1024  # what is held back while the log is read; more is dropped, and read again
_ENTRY_BYTES: Final = 200  # what an entry costs beside its head
_PIECE: Final = 128  # entries that are given in one turn of the reactor
_LATE_SECONDS: Final = 0.05
_LATE_LOOKS: Final = 100  # after so many the replica that answers is too far behind
_STARTS: Final = 20  # as often a log is read anew because a checkpoint was kept meanwhile

_Found = tuple[int, LogEntry | None]
"""A sequence, with its entry unless it is a part of a checkpoint."""


class Following:
    """One follower of one log.

    :ivar newest: the newest checkpoint that was heard of.
    :ivar known: the place of the checkpoint that was the newest at the last restart; the owner may set it.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        link: Link,
        reader: LogReader,
        history: History,
        syncs: Gate,
        follower: IQueueFollower,
        removed: Callable[[], None],
    ) -> None:
        """Describe it; :meth:`begin` sets it going.

        :param syncs: lets so many logs be read at the same time.
        :param removed: called when the queue is there no more, before the follower is told.
        """
        self._reactor = reactor
        self._link = link
        self._reader = reader
        self._history = history
        self._syncs = syncs
        self._follower = follower
        self._removed = removed
        self._prefix = len(reader.root) + 1
        self._out_prefix = len(out_subject(reader.root)) + 1
        self._subscription = b""
        self._opened: Deferred[None] | None = None
        self._sync: Deferred[None] | None = None
        self._live = False  # what comes is given at once
        self._ended = False
        self._fresh = True  # the follower's state is not one that the log has had
        self._sequence = 0  # the follower has everything up to here
        self._promised = self._overdue = 0  # what must come, and what must have come by the next tick
        self._wants_look = False
        self._looking: Deferred[None] | None = None
        self._held: list[_Found] = []
        self._held_bytes = 0
        self._overrun = False
        self.newest = Pointer()
        self.known = 0

    # -- coming and going

    def begin(self) -> Deferred[None]:
        """Follow the log.

        :returns: a Deferred that fires when the follower has everything.
        """
        opened = self._opened = Deferred(self._give_up)
        self._subscription = self._link.subscribe(f"{out_subject(self._reader.root)}.>", self._arrived)
        self.resume()
        if not self._link.up:
            self._opened = None
            opened.errback(BusUnavailable())
        return opened

    def _give_up(self, _: Deferred[None]) -> None:
        self._opened = None
        self.end()

    def end(self) -> None:
        """Follow the log no more."""
        self._ended = True
        self._live = False
        self._link.unsubscribe(self._subscription)
        self._held = []
        for under_way in (self._sync, self._looking):
            if under_way is not None:
                under_way.cancel()

    def remove(self) -> None:
        """The queue is there no more: tell the follower, and follow no more."""
        if self._ended:
            return
        opened, self._opened = self._opened, None
        self.end()
        self._removed()
        if opened is not None:
            opened.errback(NotFound("there is no such queue"))
            return
        try:
            self._follower.gone()
        except Exception:
            self._log.failure("a follower of a queue's log failed")

    def pause(self) -> None:
        """The link is down."""
        self._live = False
        self._held = []
        if self._sync is not None:
            self._sync.cancel()

    def resume(self) -> None:
        """Come to where the log is now, unless that is under way."""
        if self._sync is None and not self._ended and self._link.up:
            self._live = False
            self._sync = self._syncs.run(lambda: Deferred.fromCoroutine(self._synchronise()))
            self._sync.addCallbacks(self._synced, self._unsynced)

    def _synced(self, _: None) -> None:
        self._sync = None
        self._wants_look = True  # in a cluster it may take a moment until all servers know that we listen
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.callback(None)

    def _unsynced(self, failure: Failure) -> None:
        self._sync = None
        error = failure.value
        if self._ended:
            return
        if isinstance(error, NotFound):
            self.remove()
            return
        if not isinstance(error, Refused | CancelledError):
            self._log.failure("a queue's log cannot be read", failure)
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.errback(error if isinstance(error, Refused) else BusUnavailable())
        # Whoever was open before tries again at the next tick, or when the link comes back.

    # -- time

    def tick(self) -> None:
        """Once a second while the link is up: see that everything comes."""
        if not self._live:
            self.resume()
            return
        if self._overdue > self._sequence:
            self._log.info("a queue's log is read on: something that was stored did not come")
            self.resume()
            return
        self._overdue = self._promised
        if self._wants_look and self._looking is None:
            self._wants_look = False
            looking = self._looking = Deferred.fromCoroutine(self._look())
            looking.addErrback(self._unseen)

    def look_soon(self) -> None:
        """Ask at the next tick where the log is."""
        self._wants_look = True

    def promise(self, sequence: int) -> None:
        """An entry was stored: it must come soon."""
        if sequence > self._promised:
            self._promised = sequence

    async def _look(self) -> None:
        try:
            self.promise((await self._reader.state()).last)
        finally:
            self._looking = None

    def _unseen(self, failure: Failure) -> None:
        if isinstance(failure.value, NotFound):
            self.remove()
        elif not isinstance(failure.value, BusUnavailable | CancelledError | ProtocolViolation):
            self._log.failure("a queue's log cannot be looked at", failure)

    # -- what comes

    def learn(self, pointer: Pointer) -> None:
        """Hear of a checkpoint."""
        if pointer.place > self.newest.place:
            self.newest = pointer

    def _arrived(self, messages: list[Message]) -> None:
        found: list[_Found] = []
        live, gone = self._live, False
        for _, subject, _, raw, payload in messages:
            kind = subject[self._out_prefix :]
            if kind == GONE:
                gone = True
                break
            try:
                sequence, time = wire.stored_at(raw)
                if kind == MESSAGE:
                    found.append((sequence, LogEntry(sequence, time, entry_head(raw), payload if live else None)))
                elif kind == ENTRY:
                    found.append((sequence, LogEntry(sequence, time, entry_head(raw))))
                else:
                    found.append((sequence, None))
                    if kind == POINTER:
                        self.learn(Pointer.parse(sequence, payload))
            except (ProtocolViolation, ValueError, KeyError, TypeError):
                self._log.warn(
                    "a message on {subject} is not of a queue's log", subject=subject.decode("utf-8", "replace")
                )
        if live:
            done = self._advance(found)
            if done < len(found) and self._live:
                self._log.info("a queue's log is read on: something is missing")
                self.resume()
                self._hold(found[done:])
        else:
            self._hold(found)
        if gone:
            self.remove()

    def _hold(self, found: list[_Found]) -> None:
        if self._sync is None:
            return  # it is read later, from where the follower is
        if not self._held:
            self._held_bytes = 0
        self._held += found
        self._held_bytes += sum(_ENTRY_BYTES + (len(entry.head) if entry is not None else 0) for _, entry in found)
        if self._held_bytes > _HELD_BYTES:
            self._held = []
            self._overrun = True

    def _advance(self, found: Sequence[_Found]) -> int:
        """Give what comes next.

        :returns: how much of ``found`` lies before the first gap.
        """
        at, done = self._sequence, 0
        entries: list[LogEntry] = []
        for sequence, entry in found:
            if sequence > at:
                if sequence != at + 1:
                    break
                at = sequence
                if entry is not None:
                    entries.append(entry)
            done += 1
        self._sequence = at
        self._give(entries)
        return done

    def _give(self, entries: list[LogEntry]) -> None:
        if entries and not self._ended:
            try:
                self._follower.entries(entries)
            except Exception:
                self._log.failure("a follower of a queue's log failed")

    # -- reading what is stored

    async def _synchronise(self) -> None:
        for _ in range(_STARTS):
            if await self._read_on():
                return
        raise BusUnavailable("a queue's log grows faster than it is read")

    async def _read_on(self) -> bool:
        """Give what is stored now, and then what came meanwhile.

        :returns: whether nothing is missing.
        """
        self._overrun = False
        self._promised = self._overdue = 0
        state = await self._reader.state()
        pointer = await self._reader.pointer()
        shorter = state.last < self._sequence  # the log lost its end, with the power of its server
        if shorter:
            self.newest = Pointer()
        self.learn(pointer)
        start = self._sequence + 1
        if self._fresh or shorter or pointer.upto > self._sequence:
            checkpoint = None
            if pointer.place:
                checkpoint = await read_chunks(self._history, pointer)
                if checkpoint is None:
                    return False
            start = 1
            self._check()
            self._fresh = True
            self._sequence = 0
            self.known = pointer.place
            self._follower.restart(checkpoint, pointer.upto)
        return await self._pass(start, state.last, pointer) and await self._join()

    async def _pass(self, start: int, last: int, pointer: Pointer) -> bool:
        """Give all entries from ``start`` to ``last`` at least, by their heads.

        :returns: whether none of them was trimmed before it was read.
        """
        at, late = start - 1, 0
        if at < last:
            heads = Heads(self._reactor, self._link, self._reader.stream)
            try:
                await heads.begin(start)
                pull = heads.more()
                while at < last:
                    messages, end = await pull
                    if not end:
                        pull = heads.more()
                    if await self._overtaken(pointer, at):
                        return False
                    at = await self._passed(messages, at, pointer.upto)
                    if end and at < last:
                        if await self._reader.newest() <= at:
                            if await self._overtaken(pointer, at):
                                return False
                            break  # there is nothing between
                        late += 1
                        if late > _LATE_LOOKS:
                            raise BusUnavailable("a replica of a queue's log is far behind")
                        await deferLater(self._reactor, _LATE_SECONDS)
                        pull = heads.more()
            finally:
                heads.close()
        self._sequence = max(at, last)
        self._fresh = False
        return True

    async def _overtaken(self, pointer: Pointer, at: int) -> bool:
        """Whether what was read behind ``at`` may lack something: entries are trimmed after a checkpoint was kept."""
        newest = await self._reader.pointer()
        return newest.place != pointer.place and newest.upto > at

    async def _passed(self, messages: list[Message], at: int, upto: int) -> int:
        for start in range(0, len(messages), _PIECE):
            entries: list[LogEntry] = []
            for message in messages[start : start + _PIECE]:
                at, time = consumed_at(message)
                kind = message[1][self._prefix :]
                if kind == MESSAGE or (kind == ENTRY and at > upto):
                    entries.append(LogEntry(at, time, entry_head(message[3])))
            if at >= upto:
                self._sequence = at
                self._fresh = False
            self._give(entries)
            await self._turn()
        return at

    async def _join(self) -> bool:
        """Give what came meanwhile.

        :returns: whether there was no gap.
        """
        while self._held and not self._overrun:
            held, self._held = self._held, []
            for start in range(0, len(held), _PIECE):
                piece = held[start : start + _PIECE]
                done = self._advance(piece)
                if done < len(piece):
                    self._held = held[start + done :] + self._held
                    return False
                await self._turn()
        self._check()
        self._live = not self._overrun
        return self._live

    async def _turn(self) -> None:
        """Let others have their turn."""
        await deferLater(self._reactor, 0)
        self._check()

    def _check(self) -> None:
        if self._ended:  # by what the follower did when it was given something
            raise CancelledError
