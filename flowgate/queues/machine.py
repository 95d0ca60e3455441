"""The state of one queue: what its log makes of it.

Every node applies the same entries in the same order, with the times that the bus gave them, and so has the same
state.  Nothing here may depend on anything else: no clock, no chance, no order of a set.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import orjson

from flowgate.queues.held import (
    HIDDEN,
    Accepted,
    Done,
    Grant,
    Group,
    Handout,
    Message,
    State,
    UnknownCommands,
    place_of,
)
from flowgate.queues.remembered import Origins, Remembered

MAX_IN_FLIGHT: Final = 120_000
"""Messages of one queue that are with receivers."""
MAX_MESSAGES_IN_ENTRY: Final = 1024
MAX_MOVES: Final = 50
"""Messages that one receive has moved to the dead-letter queue: its receiver waits for that."""


_SECOND: Final = 1_000_000_000
_MS: Final = 1_000_000
_VERSION: Final = 1
_RECORDS: Final = 5_000  # of a checkpoint in one line
_SLACK: Final = 1024  # stale records that a line or a heap may hold, besides as many as there are good ones


def _padded(command: Sequence[Any]) -> list[Any]:
    return [*command, *[None] * (10 - len(command))]


class QueueMachine:
    """The state machine of one queue.

    Commands are JSON arrays that begin with their verb:

    * ``["s", size, delay, group, dedup, id, origin, sent, receives, first]`` send (what is missing at the end is null);
      ``delay`` in milliseconds; ``dedup`` the deduplication key; ``origin`` names where it comes from, once for ever;
    * ``["r", limit, visibility, max_receives, retention, attempt]`` receive; milliseconds, 0 for no limit, seconds;
    * ``["d", place, number]`` delete; ``["v", place, number, visibility]`` change visibility;
    * ``["u", place, number]`` take back a receive whose receiver has gone;
    * ``["m", place]`` it is in the dead-letter queue; ``["b", place]`` it could not be moved there;
    * ``["p"]`` purge; ``["x", retention]`` let go of what is too old;
    * ``["t", upto]`` the log has let go of what :meth:`dead` said at the entry ``upto``.
    """

    def __init__(self, fifo: bool, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self.fifo = fifo
        self.max_in_flight = max_in_flight
        self._reset()

    def _reset(self) -> None:
        self.upto = 0
        self.now = 0
        self.visible = self.in_flight = self.delayed = self.bytes = 0
        self.offered = 0
        """Visible messages that a receive could be given now: of groups that are not blocked."""
        self.moving: dict[int, int] = {}
        """Messages on their way to the dead-letter queue, with the time since when."""
        self.freed: list[int] = []
        """Entries whose messages have all gone, since somebody emptied this list."""
        self._messages: dict[int, Message] = {}
        self._touched: dict[int, Message] = {}  # those of which their entries no longer say everything
        self._order: deque[int] = deque()  # places as they came; some are gone
        self._aged: list[tuple[int, int]] = []  # heap of (sent, place) of those that were sent before they came here
        self._groups: dict[str, Group] = {}
        self._marked: dict[str, Group] = {}  # those of which their messages do not say when they were served
        self._rotation: list[tuple[int, str]] = []  # heap of groups that have something to offer, perhaps
        self._served = 0
        self._hidden: list[tuple[int, int]] = []  # heap of (turn, place) of delayed ones and those in flight, perhaps
        self._left: dict[int, int] = {}  # messages left of entries that had several
        self._holes: set[int] = set()  # places that are gone, of entries that are not
        self._dead: dict[int, int] = {}  # entries whose messages are all gone, and at which entry the last one went
        self._dedup: Remembered[list[Any]] = Remembered()  # place and id of the first message, by deduplication id
        self._attempts: Remembered[list[list[int]]] = Remembered()  # place, number and turn of each message handed out
        self._origins = Origins()
        self._saved: dict[int, list[Any]] = {}  # of a checkpoint whose messages are still to come
        self._saved_groups: dict[str, int] = {}
        self._saved_first = 0
        self._recall: dict[str, Callable[[list[Any]], None]] = {
            "groups": self._saved_groups.update,
            "touched": self._recall_touched,
            "moving": self.moving.update,
            "holes": self._holes.update,
            "dead": self._dead.update,
            "dedup": self._dedup.recall,
            "origins": self._origins.recall,
            "attempts": self._attempts.recall,
        }
        self._verbs: dict[str, Callable[..., Any]] = {
            "r": self._receive,
            "d": self._delete,
            "v": self._change,
            "u": self._undo,
            "m": self._moved,
            "b": self._back,
            "p": self._purge,
            "x": self._expire,
            "t": self._trimmed,
        }

    # -- entries

    def apply(self, sequence: int, time: int, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Apply an entry.

        :param sequence: its place in the log.
        :param time: when it was stored, nanoseconds since 1970 UTC; a clock that goes back stands still here.
        :returns: for each command: :class:`Accepted`, :class:`Handout`, :class:`Done`, or ``None``.
        :raises UnknownCommands: if there are such; all of the entry is done then that can be.
        """
        if sequence <= self.upto:
            self._base(sequence, time, commands)
            return []
        self.upto = sequence
        if time > self.now:
            self.now = time
            if self._hidden and self._hidden[0][0] <= time:
                self._advance()
        results: list[Any] = []
        index = 0
        unknown: Exception | None = None
        for command in commands:
            try:
                verb = command[0]
                if verb == "s":
                    index += 1
                    results.append(self._send(sequence, index - 1, time, command))
                else:
                    results.append(self._verbs[verb](*command[1:]))
            except (LookupError, TypeError, ValueError) as error:
                unknown = error
        if index and index != self._count_alive(sequence, index):
            self._entry_has_holes(sequence, index)
        elif index > 1:
            self._left[sequence] = index
        self._sweep()
        if unknown is not None:
            raise UnknownCommands from unknown
        return results

    def _count_alive(self, sequence: int, count: int) -> int:
        start = sequence << 10
        messages = self._messages
        if count == 1:
            return 1 if start in messages else 0
        return sum(1 for place in range(start, start + count) if place in messages)

    def _entry_has_holes(self, sequence: int, count: int) -> None:
        """Some messages of an entry are gone as soon as it is applied: repetitions, or purged by the same entry."""
        places = [place_of(sequence, index) for index in range(count)]
        gone = [place for place in places if place not in self._messages]
        if len(gone) == count:
            self._dead[sequence] = sequence
        else:
            self._holes.update(gone)
            self._left[sequence] = count - len(gone)

    # -- time

    def _advance(self) -> None:
        """Make visible what is due."""
        hidden, now, messages = self._hidden, self.now, self._messages
        while hidden and hidden[0][0] <= now:
            turn, place = heapq.heappop(hidden)
            message = messages.get(place)
            if message is not None and message.turn == turn and message.state in HIDDEN:
                self._leave(message)
                self._show(message)

    def next_turn(self) -> int | None:
        """When the next message becomes visible; ``None`` if none is hidden."""
        hidden, messages = self._hidden, self._messages
        while hidden:
            turn, place = hidden[0]
            message = messages.get(place)
            if message is not None and message.turn == turn and message.state in HIDDEN:
                return turn
            heapq.heappop(hidden)
        return None

    def _due(self, now: int) -> Iterator[Message]:
        """What becomes visible by ``now`` but is not yet applied to be so."""
        hidden, stack, seen = self._hidden, [0], set()
        while stack:
            at = stack.pop()
            if at < len(hidden) and hidden[at][0] <= now:
                turn, place = hidden[at]
                stack += (2 * at + 1, 2 * at + 2)
                message = self._messages.get(place)
                if message is None or message.turn != turn or place in seen:
                    continue
                if message.state in HIDDEN:
                    seen.add(place)
                    yield message

    # -- lines

    def _group(self, key: str, place: int) -> Group:
        """The group of a message that is added at ``place``."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key, place)
        group.count += 1
        return group

    def _show(self, message: Message) -> None:
        """Put a message, which is nowhere, among the visible ones; ``turn`` is set."""
        message.state = State.VISIBLE
        group = message.group
        self.visible += 1
        group.visible += 1
        heapq.heappush(group.line, (0 if self.fifo else message.turn, message.place))
        if len(group.line) > _SLACK + 2 * group.visible:
            self._sweep_line(group)
        if not (self.fifo and group.in_flight):
            self.offered += 1
            if not group.waiting:
                self._wait(group)

    def _wait(self, group: Group) -> None:
        group.waiting = True
        heapq.heappush(self._rotation, (group.served, group.key))

    def _hide(self, message: Message, state: State, turn: int) -> None:
        """Put a message, which is nowhere, among the delayed ones or those in flight."""
        message.state = state
        message.turn = turn
        heapq.heappush(self._hidden, (turn, message.place))
        if state is State.DELAYED:
            self.delayed += 1
            return
        self.in_flight += 1
        group = message.group
        group.in_flight += 1
        if self.fifo and group.in_flight == 1:
            self.offered -= group.visible

    def _leave(self, message: Message) -> None:
        """Take a message away from where it is; it is nowhere then."""
        group = message.group
        state = message.state
        if state is State.VISIBLE:
            self.visible -= 1
            group.visible -= 1
            if not (self.fifo and group.in_flight):
                self.offered -= 1
        elif state is State.DELAYED:
            self.delayed -= 1
        elif state is State.FLIGHT:
            self.in_flight -= 1
            group.in_flight -= 1
            if self.fifo and not group.in_flight:
                self.offered += group.visible
                if group.visible and not group.waiting:
                    self._wait(group)
        else:
            del self.moving[message.place]

    def _forget(self, message: Message) -> None:
        """Remove a message for good."""
        self._leave(message)
        place = message.place
        del self._messages[place]
        self._touched.pop(place, None)
        self.bytes -= message.size
        group = message.group
        group.count -= 1
        if not group.count:
            del self._groups[group.key]  # what the rotation holds of it is passed over
            self._marked.pop(group.key, None)
            group.waiting = False
        elif place == group.began:
            self._marked[group.key] = group
        sequence = place >> 10
        if sequence == self.upto:
            return  # counted when all of the entry is applied
        left = self._left.get(sequence)
        if left is None:
            self._dead[sequence] = self.upto
            self.freed.append(sequence)
        elif left == 1:
            del self._left[sequence]
            self._dead[sequence] = self.upto
            self.freed.append(sequence)
            if self._holes:
                self._holes.difference_update(range(sequence << 10, (sequence << 10) + MAX_MESSAGES_IN_ENTRY))
        else:
            self._left[sequence] = left - 1
            self._holes.add(place)

    def _trim_order(self) -> None:
        order, messages = self._order, self._messages
        while order and order[0] not in messages:
            order.popleft()

    def _sweep(self) -> None:
        """Throw away what lines and heaps still hold of messages that are elsewhere, where that is the most of it."""
        messages = self._messages
        if len(self._hidden) > _SLACK + 2 * (self.delayed + self.in_flight):
            places = {place: messages[place] for _, place in self._hidden if place in messages}
            self._hidden = [(one.turn, one.place) for one in places.values() if one.state in HIDDEN]
            heapq.heapify(self._hidden)
        if len(self._order) > _SLACK + 2 * len(messages):
            self._order = deque(place for place in self._order if place in messages)
        if len(self._aged) > _SLACK + 2 * len(messages):
            self._aged = [(sent, place) for sent, place in self._aged if place in messages]
            heapq.heapify(self._aged)
        if len(self._rotation) > _SLACK + 2 * len(self._groups):
            self._rotation = [(one.served, one.key) for one in self._groups.values() if one.waiting]
            heapq.heapify(self._rotation)

    def _sweep_line(self, group: Group) -> None:
        held = {place: self._messages.get(place) for _, place in group.line}
        group.line = [
            (0 if self.fifo else one.turn, place)
            for place, one in held.items()
            if one is not None and one.state is State.VISIBLE
        ]
        heapq.heapify(group.line)

    # -- commands

    def _send(self, sequence: int, index: int, time: int, command: Sequence[Any]) -> Accepted:
        _, size, delay, group, dedup, id_, origin, sent, receives, first = _padded(command)
        place = place_of(sequence, index)
        now = self.now
        if dedup is not None:
            known = self._dedup.get(dedup, now)
            if known is not None:
                return Accepted(known[0], known[1] or "")
            self._dedup.put(dedup, [place, id_], now)
        if origin is not None and not self._origins.add(origin, now):
            return Accepted(0, "")
        message = self._make(place, now, size, delay or 0, group or "", sent, receives, first)
        if now != time:
            self._touched[place] = message
        return Accepted(place)

    def _make(
        self, place: int, now: int, size: int, delay: int, group: str, sent: int | None, receives: int, first: int
    ) -> Message:
        """Add a new message."""
        turn = now + delay * _MS
        message = Message(place, now if sent is None else sent, turn, size, self._group(group, place))
        message.receives = receives or 0
        message.first = first or 0
        self._add(message, State.DELAYED if delay else State.VISIBLE, sent is not None)
        return message

    def _add(self, message: Message, state: State, aged: bool) -> None:
        """Take in a message whose ``turn`` is set.

        :param aged: whether it was sent elsewhere before, so that places do not tell its age.
        """
        place = message.place
        self._messages[place] = message
        self._order.append(place)
        if aged:
            heapq.heappush(self._aged, (message.sent, place))
        self.bytes += message.size
        if state is State.VISIBLE:
            self._show(message)
        elif state is State.MOVING:
            message.state = state
        else:
            self._hide(message, state, message.turn)

    def _receive(
        self, limit: int, visibility: int, max_receives: int = 0, retention: int = 0, attempt: str | None = None
    ) -> Handout:
        now = self.now
        if retention:
            self._expire(retention)
        turn = now + visibility * _MS
        if attempt is not None:
            again = self._attempted(attempt, turn)
            if again is not None:
                return Handout(again)
        grants: list[Grant] = []
        moving: list[Grant] = []
        shown: list[Message] = []
        rotation = self._rotation
        full = self.in_flight >= self.max_in_flight
        while rotation and len(grants) < limit and len(moving) < MAX_MOVES and not full:
            served, key = heapq.heappop(rotation)
            group = self._groups.get(key)
            if group is None or not group.waiting or group.served != served:
                continue  # it came to its end, and another of the same name is perhaps in its place
            group.waiting = False
            if self.fifo and group.in_flight:
                continue
            took = False
            while group.visible and len(grants) < limit and len(moving) < MAX_MOVES and not full:
                message = self._first(group)
                if max_receives and message.receives >= max_receives:
                    moving.append(self._grant(message))
                    message.state = State.MOVING
                    self._touched[message.place] = message
                    self.moving[message.place] = now
                    continue
                message.receives += 1
                message.taken = now
                self._touched[message.place] = message
                if not message.first:
                    message.first = now
                grants.append(self._grant(message))
                took = True
                if visibility:
                    shown.append(message) if self.fifo else self._hide(message, State.FLIGHT, turn)
                    full = self.in_flight + (len(shown) if self.fifo else 0) >= self.max_in_flight
                else:
                    shown.append(message)
                if not self.fifo:
                    break
            if took:
                group.served = self._served = max(self._served + 1, self.upto << 10)
                self._marked[group.key] = group
            if self.fifo and visibility:
                # Together at the end: the first would block the others of this receive.
                for message in shown:
                    self._hide(message, State.FLIGHT, turn)
                shown.clear()
            if group.visible and not (self.fifo and group.in_flight):
                self._wait(group)
        for message in shown:
            message.turn = now
            self._show(message)
        if attempt is not None and grants:
            self._attempts.put(attempt, [[one.place, one.number, turn] for one in grants], now)
        return Handout(grants, moving, full)

    def _first(self, group: Group) -> Message:
        """Take the first visible message out of a group that has one."""
        line, messages = group.line, self._messages
        while True:
            key, place = heapq.heappop(line)
            message = messages.get(place)
            if message is not None and message.state is State.VISIBLE and (self.fifo or message.turn == key):
                self._leave(message)
                message.state = State.FLIGHT  # or the line may bring it again, if it has it twice
                return message

    @staticmethod
    def _grant(message: Message) -> Grant:
        return Grant(message.place, message.receives, message.sent, message.first, message.group.key)

    def _attempted(self, attempt: str, turn: int) -> list[Grant] | None:
        """The same messages again, if the attempt is known and nothing was done with them."""
        known = self._attempts.get(attempt, self.now)
        if known is None:
            return None
        found = []
        for place, number, given in known:
            message = self._messages.get(place)
            if message is None or message.state is not State.FLIGHT:
                break
            if (message.receives, message.turn) != (number, given):
                break
            found.append(message)
        if len(found) < len(known):
            self._attempts.drop(attempt)
            return None
        for message in found:
            message.turn = turn
            heapq.heappush(self._hidden, (turn, message.place))
        self._attempts.replace(attempt, [[place, number, turn] for place, number, _ in known])
        return [self._grant(message) for message in found]

    def _delete(self, place: int, number: int) -> Done:
        message = self._messages.get(place)
        if message is None:
            return Done.GONE
        if self.fifo and (message.state is not State.FLIGHT or message.receives != number):
            return Done.EXPIRED
        self._forget(message)  # also on its way to the dead-letter queue: it need not arrive there
        return Done.DONE

    def _change(self, place: int, number: int, visibility: int) -> Done:
        message = self._messages.get(place)
        if message is None or message.state is State.MOVING:
            return Done.GONE
        if self.fifo and (message.state is not State.FLIGHT or message.receives != number):
            return Done.EXPIRED
        self._leave(message)
        self._touched[place] = message
        if visibility:
            self._hide(message, State.FLIGHT, self.now + visibility * _MS)
        else:
            message.turn = self.now
            self._show(message)
        return Done.DONE

    def _undo(self, place: int, number: int) -> Done:
        message = self._messages.get(place)
        if message is None or message.receives != number or message.state is not State.FLIGHT:
            return Done.GONE
        self._leave(message)
        message.receives -= 1
        if not message.receives:
            message.first = message.taken = 0
        message.turn = self.now
        self._show(message)
        return Done.DONE

    def _moved(self, place: int) -> Done:
        message = self._messages.get(place)
        if message is None or message.state is not State.MOVING:
            return Done.GONE
        self._forget(message)
        return Done.DONE

    def _back(self, place: int) -> Done:
        message = self._messages.get(place)
        if message is None or message.state is not State.MOVING:
            return Done.GONE
        self._leave(message)
        message.turn = self.now
        self._show(message)
        return Done.DONE

    def _purge(self) -> None:
        # All at once: one by one would take its time.  What the log holds up to here lies before ``first`` now.
        for held in (self._messages, self._touched, self._groups, self._marked, self.moving, self._left, self._holes):
            held.clear()
        for line in (self._order, self._aged, self._hidden, self._rotation):
            line.clear()
        self.visible = self.in_flight = self.delayed = self.bytes = self.offered = 0

    def _trimmed(self, upto: int) -> None:
        self._dead = {sequence: died for sequence, died in self._dead.items() if died > upto}

    def _expire(self, retention: int) -> None:
        """Let go of what was sent more than ``retention`` seconds ago."""
        oldest = self.now - retention * _SECOND
        order, messages, aged = self._order, self._messages, self._aged
        while order:
            message = messages.get(order[0])
            if message is not None:
                if message.sent > oldest:
                    break
                self._forget(message)
            order.popleft()
        while aged and aged[0][0] <= oldest:
            message = messages.get(heapq.heappop(aged)[1])
            if message is not None:
                self._forget(message)

    # -- looking

    def __len__(self) -> int:
        return len(self._messages) - len(self.moving)

    def find(self, place: int) -> Message | None:
        """The message at a place, if it is still there."""
        return self._messages.get(place)

    def grant(self, place: int) -> Grant | None:
        """What a receive of the message at a place would have said last, if it is still there."""
        message = self._messages.get(place)
        return None if message is None else self._grant(message)

    def holds(self, sequence: int) -> bool:
        """Whether the log still needs the entry's messages."""
        return sequence << 10 in self._messages or sequence in self._left

    def full(self, now: int) -> bool:
        """Whether as many messages are in flight at ``now`` as may be."""
        if self.in_flight < self.max_in_flight:
            return False
        return self.in_flight - sum(one.state is State.FLIGHT for one in self._due(now)) >= self.max_in_flight

    def available(self, now: int) -> int:
        """How many messages a receive could be given at ``now``, about: one blocked group makes it too high."""
        if self.full(now):
            return 0
        if not self._hidden or self._hidden[0][0] > now:
            return self.offered
        return self.offered + sum(1 for _ in self._due(now))

    def counts(self, now: int, retention: int) -> tuple[int, int, int]:
        """Visible, in flight, delayed, as they are at ``now``; without what is too old.

        What is on its way to the dead-letter queue is in flight.
        """
        visible, in_flight, delayed = self.visible, self.in_flight + len(self.moving), self.delayed
        for message in self._due(now):
            if message.state is State.DELAYED:
                delayed -= 1
            else:
                in_flight -= 1
            visible += 1
        for message in self._too_old(now, retention):
            if message.state is State.VISIBLE or (message.turn <= now and message.state is not State.MOVING):
                visible -= 1
            elif message.state is State.DELAYED:
                delayed -= 1
            else:
                in_flight -= 1
        return visible, in_flight, delayed

    def _too_old(self, now: int, retention: int) -> Iterator[Message]:
        """What was sent more than ``retention`` seconds ago."""
        oldest = now - retention * _SECOND
        seen = set()
        for place in self._order:
            message = self._messages.get(place)
            if message is not None:
                if message.sent > oldest:
                    break
                seen.add(place)
                yield message
        for sent, place in self._aged:
            message = self._messages.get(place)
            if sent <= oldest and message is not None and place not in seen:
                seen.add(place)
                yield message

    def oldest(self) -> int | None:
        """When the oldest message was sent; ``None`` if there is none."""
        self._trim_order()
        while self._aged and self._aged[0][1] not in self._messages:
            heapq.heappop(self._aged)
        times = [self._messages[self._order[0]].sent] if self._order else []
        times += [self._aged[0][0]] if self._aged else []
        return min(times, default=None)

    def peek(self, now: int, limit: int) -> list[Grant]:
        """Visible messages in the order in which they came, without handing them out."""
        found: list[Grant] = []
        for place in self._order:
            message = self._messages.get(place)
            if message is None or message.state is State.MOVING:
                continue
            if message.state is State.VISIBLE or message.turn <= now:
                found.append(self._grant(message))
                if len(found) == limit:
                    break
        return found

    # -- checkpoints

    @property
    def first(self) -> int:
        """The first entry that holds a message which is still there; the next one to come if there is none."""
        self._trim_order()
        return self._order[0] >> 10 if self._order else self.upto + 1

    def dead(self) -> list[int]:
        """Entries behind :attr:`first` with messages that are all gone, which the log may let go of."""
        first = self.first
        return [sequence for sequence in self._dead if sequence >= first]

    @property
    def weight(self) -> int:
        """About how many records a checkpoint has."""
        return len(self._touched) + len(self._dedup) + len(self._origins) + len(self._marked) + len(self._dead)

    def snapshot(self) -> Iterator[bytes]:
        """Everything that the messages' own entries do not say, as it is when this is called: lines to be joined.

        They are made one by one, so that other work can go on between them.
        """
        head = {
            "version": _VERSION,
            "upto": self.upto,
            "now": self.now,
            "served": self._served,
            "first": self.first,
        }
        # Shallow copies of what does not change; the rest is copied whole.
        records: dict[str, list[Any]] = {
            "groups": [(key, self._marked[key].served) for key in sorted(self._marked)],
            "touched": [
                (one.place, one.sent, one.turn, one.receives, one.first, one.taken, int(one.state))
                for _, one in sorted(self._touched.items())
            ],
            "moving": list(self.moving.items()),
            "holes": sorted(self._holes),
            "dead": [(sequence, self._dead[sequence]) for sequence in self.dead()],
            "dedup": self._dedup.rows(self.now),
            "origins": self._origins.rows(),
            "attempts": self._attempts.rows(self.now),
        }
        return self._lines(head, records)

    @staticmethod
    def _lines(head: dict[str, int], records: dict[str, list[Any]]) -> Iterator[bytes]:
        yield orjson.dumps(head)
        for name, rows in records.items():
            for start in range(0, len(rows), _RECORDS):
                yield orjson.dumps((name, rows[start : start + _RECORDS]))

    def checkpoint(self) -> bytes:
        """The whole :meth:`snapshot`."""
        return b"\n".join(self.snapshot())

    def restart(self, checkpoint: bytes | None) -> None:
        """Begin anew: from nothing, or from a :meth:`checkpoint`; the message entries up to there follow.

        :raises ValueError: if it is of a version that this one does not know.
        """
        self._reset()
        if checkpoint is None:
            return
        head, *lines = checkpoint.split(b"\n")
        saved = orjson.loads(head)
        if saved["version"] != _VERSION:
            raise ValueError("a checkpoint of another version")
        self.upto, self.now, self._served = saved["upto"], saved["now"], saved["served"]
        self._saved_first = saved["first"]
        for line in lines:
            name, rows = orjson.loads(line)
            self._recall[name](rows)

    def _recall_touched(self, rows: list[Any]) -> None:
        self._saved.update((row[0], row) for row in rows)

    def _base(self, sequence: int, time: int, commands: Sequence[Sequence[Any]]) -> None:
        """Take the messages of an entry that lies behind the checkpoint."""
        if sequence < self._saved_first or sequence in self._dead:
            return
        index = alive = 0
        for command in commands:
            if command[0] != "s":
                continue
            place = place_of(sequence, index)
            index += 1
            if place in self._holes:
                continue
            alive += 1
            self._restore(place, time, command)
        if index > 1 and alive:
            self._left[sequence] = alive

    def _restore(self, place: int, time: int, command: Sequence[Any]) -> None:
        _, size, delay, key, _, _, _, sent, receives, first = _padded(command)
        saved = self._saved.pop(place, None)
        group = self._group(key or "", place)
        if group.count == 1 and group.key in self._saved_groups:
            group.served = self._saved_groups[group.key]
            self._marked[group.key] = group
        if saved is None:
            turn = time + (delay or 0) * _MS
            message = Message(place, time if sent is None else sent, turn, size, group)
            message.receives, message.first = receives or 0, first or 0
            state = State.VISIBLE if turn <= self.now else State.DELAYED
        else:
            message = Message(place, saved[1], saved[2], size, group)
            message.receives, message.first, message.taken = saved[3:6]
            self._touched[place] = message
            state = State(saved[6])
        self._add(message, state, sent is not None)
