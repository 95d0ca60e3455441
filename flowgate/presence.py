"""Who is subscribed, to those who ask: joins and leaves of clients, on all nodes together.

Only clients that ask for it are counted, and told of each other.  They meet in a *room*: a namespace and a filter, as
it was written; filters that overlap are different rooms.

**A short absence is not told.**  A client that has gone stays in its rooms for :data:`LINGER_SECONDS`.  If a connection
with the same token joins meanwhile, on any node that has heard of it, then it takes the other's place, with its name.

**At most once.**  What a node has to tell the others it collects for a moment.  Its reports are numbered, and each
names the first one of the telling that left nothing out, its *base*, as those of :mod:`flowgate.figures` do: a node
that has missed one says so, and is told everything anew.  A node that is silent for long is taken for dead, and its
clients leave.  Every room has a budget of frames: beyond that its watchers are told the number of clients alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import blake2s
from itertools import islice
from typing import Any, Protocol
from uuid import uuid4

import attrs
import orjson
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from flowgate.auth.permissions import Principal
from flowgate.gateway import Interest
from flowgate.interfaces import IPeers
from flowgate.payloads import timestamp
from flowgate.reports import Heard, Telling, in_parts
from flowgate.topics import Namespace

_log = Logger()

LINGER_SECONDS = 1.0
"""How long a client that has gone is still there."""
GATHER_SECONDS = 0.1
"""How long changes are collected before the other nodes are told."""
TELL_SECONDS = 10.0
"""How often the other nodes are told that this one lives."""
SILENT_SECONDS = 35.0
"""A node that is not heard for so long is taken for dead."""
ANEW_SECONDS = 1.0
"""The least time between two tellings of everything."""

MAX_CHANGES = 1000
"""Joins and leaves of one room that are told in one second."""
MAX_FRAMES = 20_000
"""Frames of one room that tell of joins and leaves in one second, on one node."""
MAX_SHOWN = 200
"""Clients that one answer names."""
MAX_CLIENTS = 100_000
"""Places in rooms of one other node that are remembered; whoever is beyond that is missing."""
MAX_LINGERING = 100_000
"""Places that are kept for clients that have gone; beyond that the oldest are given up early."""

_REPORTED_AT_ONCE = 100
"""Changes in one report: that makes 400 KiB, if the filters are the longest and nothing but control characters."""
_VERB = "presence"


@attrs.frozen(slots=True)
class Client:
    """A connection, as others see it.

    :ivar id: random; it says nothing about the token or the key.
    :ivar since: when it came, in seconds since 1970 UTC.
    """

    id: str
    user: str
    app: str
    since: float

    def shown(self) -> dict[str, str]:
        since = timestamp(int(self.since * 1e9))
        return {"client": self.id, "user": self.user, "app": self.app, "since": since}


class Change:
    """What the watchers of a room are told.

    :ivar event: ``join``, ``leave``, or ``None`` for a change of the number alone.
    :ivar client: who has come or gone.
    :ivar count: how many there are now.
    """

    __slots__ = ("_wires", "client", "count", "event")

    def __init__(self, event: str | None, client: Client | None, count: int) -> None:
        self.event = event
        self.client = client
        self.count = count
        self._wires: dict[Hashable, bytes] = {}

    def wire(self, form: Hashable, encode: Callable[[Change], bytes]) -> bytes:
        """The change in a protocol's bytes, made once per ``form``."""
        wire = self._wires.get(form)
        if wire is None:
            wire = self._wires[form] = encode(self)
        return wire


class Watcher(Protocol):
    """A connection that is told of others."""

    def present(self, name: str, change: Change) -> None:
        """Learn of a change; never raise.

        :param name: the filter as the client wrote it.
        """


_Key = tuple[Namespace, str]
_Place = tuple[_Key, str]


class _Member:
    """A client in a room.

    :ivar nodes: how often it has subscribed, by the node that says so; empty if it has gone.
    :ivar left: until when it is kept then.
    """

    __slots__ = ("client", "left", "nodes")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.nodes: dict[str, int] = {}
        self.left = 0.0


class _Room:
    """Who is there, and who of this node wants to know.

    :ivar watchers: by the name that they use; each is also a member.
    :ivar begun: when the second began that ``changes`` and ``frames`` are counted in.
    :ivar muted: whether only the number is told, at the end of the second.
    """

    __slots__ = ("begun", "changes", "frames", "members", "muted", "watchers")

    def __init__(self) -> None:
        self.members: dict[str, _Member] = {}
        self.watchers: dict[str, dict[Watcher, None]] = {}
        self.begun = 0.0
        self.changes = 0
        self.frames = 0
        self.muted = False


@attrs.frozen(slots=True)
class Move:
    """One client that has come into a room of a node, or gone.

    :ivar here: whether it is there now.
    :ivar mark: what a connection with the same token would have too, if the connection has ended; else empty.
    """

    namespace: Namespace
    filter: str
    client: Client
    here: bool
    mark: str = ""

    @property
    def place(self) -> _Place:
        return (self.namespace, self.filter), self.client.id

    def _values(self) -> tuple[object, ...]:
        client = self.client
        where = (self.namespace.user, self.namespace.app, self.filter)
        return (*where, client.id, client.user, client.app, client.since, self.here, self.mark)

    @classmethod
    def _read(cls, values: Any) -> Move:
        user, app, filter_, id_, of_user, of_app, since, here, mark = values
        if not all(isinstance(one, str) for one in (user, app, filter_, id_, of_user, of_app, mark)):
            raise ValueError("a name is not a text")
        if not isinstance(here, bool) or isinstance(since, bool) or not isinstance(since, int | float):
            raise ValueError("a number is not one")
        if not 0 <= since < 2**33:
            raise ValueError("a time is out of range")
        return cls(Namespace(user, app), filter_, Client(id_, of_user, of_app, since), here, mark)


@attrs.frozen(slots=True)
class Report:
    """What one node tells the others.

    :ivar number: grows by one with every report; 0 for the last one of a node that stops.
    :ivar base: the number of the report that began to tell everything.
    :ivar again: nodes of which the teller has missed something.
    """

    node: str
    number: int
    base: int
    again: Sequence[str]
    moves: Sequence[Move]

    def encode(self) -> bytes:
        moves = [move._values() for move in self.moves]
        return orjson.dumps([self.node, self.number, self.base, list(self.again), moves])

    @classmethod
    def decode(cls, payload: bytes) -> Report:
        """Read what :meth:`encode` wrote.

        :raises ValueError: if it is something else.
        """
        found = orjson.loads(payload)  # its error is a ValueError
        try:
            node, number, base, again, moves = found
            if not isinstance(node, str) or type(number) is not int or type(base) is not int:
                raise ValueError("a member has another type")
            if not isinstance(again, list) or not isinstance(moves, list):
                raise ValueError("a member is no list")
            return cls(node, number, base, [str(name) for name in again], [Move._read(move) for move in moves])
        except TypeError as error:
            raise ValueError(f"not a report of presence: {error!r}") from None


class _Node(Heard):
    """What another node has told.

    :ivar places: where it has clients.
    """

    __slots__ = ("places",)

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[_Place, None] = {}


def _mark(principal: Principal) -> str:
    """What two connections with one token have in common, and does not tell the token's id."""
    return blake2s(principal.token_id.encode(), digest_size=12).hexdigest()


def _random_id() -> str:
    return uuid4().hex[:16]


class Presence:
    """The rooms of all nodes, as this one knows them."""

    def __init__(
        self,
        peers: IPeers,
        clock: IReactorTime,
        now: Callable[[], float],
        new_id: Callable[[], str] = _random_id,
    ) -> None:
        """Prepare; other nodes are neither told nor heard before :meth:`start`.

        :param clock: in the reactor's seconds.
        :param now: seconds since 1970 UTC.
        :param new_id: makes a name for a client that nobody had before.
        """
        self._peers = peers
        self._clock = clock
        self._now = now
        self._new_id = new_id
        self._rooms: dict[_Key, _Room] = {}
        self._own: dict[_Place, Client] = {}
        self._lingering: deque[tuple[float, _Key, str, str]] = deque()
        self._held: dict[str, dict[str, tuple[Client, float]]] = {}
        self._muted: dict[_Key, None] = {}
        self._timers: dict[str, IDelayedCall] = {}
        self._nodes: dict[str, _Node] = {}
        self._moves: dict[_Place, Move] = {}
        self._number = 0
        self._base = 0
        self._anew = True
        self._anew_at = -ANEW_SECONDS
        self._telling = Telling(peers, clock, _VERB, TELL_SECONDS, self._tick, self._heard)

    def start(self) -> None:
        """Tell and hear other nodes from now on."""
        self._telling.start()

    def stop(self) -> None:
        """Tell no more; the other nodes need not wait for this one's silence."""

        def last() -> bytes:
            if self._moves and not self._anew:
                self._tell()  # who has gone, so that they can come back elsewhere
            return Report(self._peers.node, 0, 0, (), ()).encode()

        self._telling.stop(last)
        while self._timers:
            self._timers.popitem()[1].cancel()

    def _later(self, name: str, delay: float, call: Callable[[], None]) -> None:
        """Have ``call`` made once, unless it is already to come."""

        def due() -> None:
            del self._timers[name]
            call()

        if name not in self._timers:
            self._timers[name] = self._clock.callLater(delay, due)

    # -- for the connections of this node

    def client(self, principal: Principal) -> Client:
        """Name a connection that joins its first room: anew, or as the one with the same token that has just gone."""
        held = self._held.get(_mark(principal))
        if held:
            return self._take_held(_mark(principal), next(iter(held)))
        return Client(self._new_id(), principal.user, principal.app, self._now())

    def join(self, watcher: Watcher, client: Client, name: str, interest: Interest) -> int:
        """Let a client in, and tell its connection of others from now on.

        :param name: the filter as the client wrote it.
        :returns: how many there are now.
        """
        key = (interest.namespace, interest.filter)
        room = self._come(key, client, self._peers.node)  # before it watches: nobody is told of themselves
        room.watchers.setdefault(name, {})[watcher] = None
        place = (key, client.id)
        if place not in self._own:
            self._own[place] = client
            self._moved(Move(*key, client, True))
        return len(room.members)

    def leave(
        self, watcher: Watcher, client: Client, name: str, interest: Interest, ended: Principal | None = None
    ) -> None:
        """Take back one :meth:`join`.

        :param ended: whose connection it was, if it has ended: another one with the same token may take its place.
        """
        key = (interest.namespace, interest.filter)
        room = self._rooms.get(key)
        watchers = None if room is None else room.watchers.get(name)
        if room is None or watchers is None or watcher not in watchers:
            return
        del watchers[watcher]
        if not watchers:
            del room.watchers[name]
        mark = "" if ended is None else _mark(ended)
        if self._go(key, client.id, self._peers.node, mark):
            self._own.pop((key, client.id), None)
            self._moved(Move(*key, client, False, mark))

    def who(self, interest: Interest) -> tuple[int, list[Client]]:
        """How many clients there are, and the first :data:`MAX_SHOWN` of them."""
        room = self._rooms.get((interest.namespace, interest.filter))
        if room is None:
            return 0, []
        return len(room.members), [member.client for member in islice(room.members.values(), MAX_SHOWN)]

    # -- rooms

    def _come(self, key: _Key, client: Client, node: str) -> _Room:
        room = self._rooms.setdefault(key, _Room())
        member = room.members.get(client.id)
        if member is None:
            member = room.members[client.id] = _Member(client)
            self._tell_watchers(key, room, "join", client)
        member.nodes[node] = member.nodes.get(node, 0) + 1
        return room

    def _go(self, key: _Key, id_: str, node: str, mark: str) -> bool:
        """Take back one :meth:`_come`; return whether the node has the client no more."""
        room = self._rooms.get(key)
        member = None if room is None else room.members.get(id_)
        if member is None or node not in member.nodes:
            return False
        member.nodes[node] -= 1
        if member.nodes[node]:
            return False
        del member.nodes[node]
        if not member.nodes:
            member.left = self._clock.seconds() + LINGER_SECONDS
            if len(self._lingering) >= MAX_LINGERING:
                self._part(*self._lingering.popleft())
            self._lingering.append((member.left, key, id_, mark))
            if mark:
                self._held.setdefault(mark, {})[id_] = (member.client, member.left)
            self._later("part", LINGER_SECONDS, self._part_due)
        return True

    def _part_due(self) -> None:
        now = self._clock.seconds()
        while self._lingering and self._lingering[0][0] <= now:
            self._part(*self._lingering.popleft())
        if self._lingering:
            self._later("part", self._lingering[0][0] - now, self._part_due)

    def _part(self, left: float, key: _Key, id_: str, mark: str) -> None:
        """The time of a client that has gone is over, unless it has come back."""
        held = self._held.get(mark, {}).get(id_)
        if held is not None and held[1] <= left:
            self._take_held(mark, id_)
        room = self._rooms.get(key)
        member = None if room is None else room.members.get(id_)
        if room is None or member is None or member.nodes or member.left != left:
            return
        del room.members[id_]
        self._tell_watchers(key, room, "leave", member.client)
        if not room.members and not room.watchers:
            self._rooms.pop(key, None)

    def _take_held(self, mark: str, id_: str) -> Client:
        held = self._held[mark]
        client, _ = held.pop(id_)
        if not held:
            del self._held[mark]
        return client

    def _tell_watchers(self, key: _Key, room: _Room, event: str, client: Client) -> None:
        if not room.watchers or room.muted:
            return
        now = self._clock.seconds()
        if now - room.begun >= 1:
            room.begun, room.changes, room.frames = now, 0, 0
        frames = sum(map(len, room.watchers.values()))
        if room.changes >= MAX_CHANGES or (room.changes and room.frames + frames > MAX_FRAMES):
            room.muted = True
            self._muted[key] = None
            self._later("count", 1, self._tell_counts)
            return
        room.changes += 1
        room.frames += frames
        self._send(room, Change(event, client, len(room.members)))

    def _tell_counts(self) -> None:
        """A second of too many changes is over."""
        muted, self._muted = self._muted, {}
        for key in muted:
            room = self._rooms.get(key)
            if room is not None:
                room.muted = False
                self._send(room, Change(None, None, len(room.members)))

    @staticmethod
    def _send(room: _Room, change: Change) -> None:
        """Tell all watchers; whoever is told may leave at that, and take others along."""
        for name, watchers in list(room.watchers.items()):
            for watcher in list(watchers):
                if watcher in watchers:
                    watcher.present(name, change)

    # -- other nodes

    def _moved(self, move: Move) -> None:
        if not self._peers.alone:
            self._moves[move.place] = move
            if self._telling.running:
                self._later("tell", GATHER_SECONDS, self._tell)

    def _tick(self) -> None:
        silent = self._clock.seconds() - SILENT_SECONDS
        for name in [name for name, node in self._nodes.items() if node.heard <= silent]:
            self._forget(name)
        self._tell()

    def _tell(self) -> None:
        if self._peers.alone:
            return
        now = self._clock.seconds()
        moves, self._moves = self._moves, {}
        if self._anew and now - self._anew_at >= ANEW_SECONDS:
            # First who has just gone: another node may have to give the place to somebody.
            gone = [move for move in moves.values() if not move.here]
            if gone:
                self._report(gone)
            self._anew, self._anew_at = False, now
            self._base = self._number + 1
            self._report(Move(*key, client, True) for (key, _), client in self._own.items())
        else:
            self._report(moves.values())
        if self._anew and self._telling.running:
            self._later("tell", ANEW_SECONDS, self._tell)

    def _report(self, moves: Iterable[Move]) -> None:
        again = [name for name, node in self._nodes.items() if not node.complete]
        for part in in_parts(moves, _REPORTED_AT_ONCE):
            self._number += 1
            self._peers.tell(_VERB, Report(self._peers.node, self._number, self._base, again, part).encode())

    def _heard(self, payload: bytes) -> None:
        try:
            report = Report.decode(payload)
        except ValueError as error:
            _log.error("what another node says of its clients cannot be read: {error}", error=error)
            return
        if not report.number:
            self._forget(report.node)
            return
        node = self._nodes.get(report.node)
        if node is None:
            node = self._nodes[report.node] = _Node()
            self._anew = True  # it has just come, or was cut off: it will need everything
        elif self._peers.node in report.again:
            self._anew = True
        if self._anew and self._telling.running:
            self._later("tell", GATHER_SECONDS, self._tell)
        self._take(node, report)

    def _take(self, node: _Node, report: Report) -> None:
        if node.note(report.number, report.base, self._clock.seconds()):
            # Everything follows; it follows so soon that nobody is seen to leave who is still there.
            self._vacate(report.node, node)
        if not node.complete and self._telling.running:
            self._later("again", ANEW_SECONDS, self._tell)
        for move in report.moves:
            place = move.place
            if not move.here:
                if node.places.pop(place, 0) is None:
                    self._go(*place, report.node, move.mark)
            elif place not in node.places and len(node.places) < MAX_CLIENTS:
                node.places[place] = None
                self._come(place[0], move.client, report.node)

    def _vacate(self, name: str, node: _Node) -> None:
        places, node.places = node.places, {}
        for key, id_ in places:
            self._go(key, id_, name, "")

    def _forget(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:
            self._vacate(name, node)
