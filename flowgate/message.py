"""What the gateway carries: runs of messages, and cursors into their history."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence

import attrs

from flowgate.errors import InvalidParameter
from flowgate.topics import Topic

_CURSOR = re.compile(r"([0-9a-z]{1,16})-(0|[1-9][0-9]{0,18})\Z")


@attrs.frozen(slots=True)
class Cursor:
    """A place in the history: everything up to and including ``sequence`` has been seen.

    ``epoch`` names the making of the stream: a cursor of another epoch points nowhere.
    """

    epoch: str
    sequence: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read ``<epoch>-<sequence>``.

        :raises InvalidParameter: if ``text`` has another shape.
        """
        found = _CURSOR.match(text)
        if found is None:
            raise InvalidParameter("a cursor has the form <epoch>-<sequence>, as in the id of a message")
        return cls(found[1], int(found[2]))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"


@attrs.frozen(slots=True)
class Stored:
    """The bus's word that a message is in the stream.

    :ivar sequence: its place there (of the first one, if it was a duplicate).
    :ivar duplicate: whether the same message id was stored before.
    """

    sequence: int
    duplicate: bool = False


class Run:
    """Consecutive messages of one publisher on one topic: the unit that every room works on.

    The payloads may stay unsplit until somebody asks for them: a run that came as MQTT packets and leaves as MQTT
    packets is never taken apart.

    :ivar topic: where the messages were published.
    :ivar count: how many they are, at least 1.
    :ivar qos: the publisher's quality of service, 0 to 2; 1 for acknowledged publishes of other protocols.
    :ivar ttl: seconds after which history forgets the messages, or ``None`` for the stream's own age.
    :ivar recorded: whether history holds (or will hold) the run, so that readers of history see it there.
    :ivar sequences: the places in the stream, one per message; empty if the run did not come from the stream.
    :ivar times: when each message was stored, in nanoseconds since 1970 UTC; empty if unknown.
    :ivar retain: whether the publisher asked for the last message to be kept as the topic's retained one.
    :ivar message_ids: one for each message, against a repetition within 5 minutes; empty if there are none.
    :ivar tag: what each of the messages carries into the stream so that they can be counted there; it is not delivered.
    :ivar last_tag: the same of the last one alone, which speaks for all: they are stored in order; not beside ``tag``,
        nor with ``message_ids``.
    """

    __slots__ = (
        "_payloads",
        "_split",
        "_wires",
        "count",
        "last_tag",
        "message_ids",
        "qos",
        "recorded",
        "retain",
        "sequences",
        "tag",
        "times",
        "topic",
        "ttl",
    )

    def __init__(
        self,
        topic: Topic,
        payloads: Sequence[bytes] | None = None,
        *,
        qos: int = 0,
        ttl: int | None = None,
        count: int | None = None,
        split: Callable[[], Sequence[bytes]] | None = None,
        recorded: bool = False,
        sequences: Sequence[int] = (),
        times: Sequence[int] = (),
        retain: bool = False,
        message_ids: Sequence[str] = (),
        tag: str = "",
    ) -> None:
        """Make a run of ``payloads``, or of ``count`` messages whose payloads ``split`` finds when needed."""
        self.topic = topic
        self.qos = qos
        self.ttl = ttl
        self.recorded = recorded
        self.sequences = sequences
        self.times = times
        self.retain = retain
        self.message_ids = message_ids
        self.tag = tag
        self.last_tag = ""
        self.count = len(payloads) if payloads is not None else (count or 0)
        self._payloads = payloads
        self._split = split
        self._wires: dict[Hashable, bytes] = {}

    @property
    def payloads(self) -> Sequence[bytes]:
        if self._payloads is None:
            assert self._split is not None, "a run has payloads or a way to find them"
            self._payloads = self._split()
        return self._payloads

    def wire(self, form: Hashable, encode: Callable[[Run], bytes]) -> bytes:
        """The run in a protocol's bytes: made by ``encode`` once per ``form``, then shared by all subscribers."""
        wire = self._wires.get(form)
        if wire is None:
            wire = self._wires[form] = encode(self)
        return wire

    def preset(self, form: Hashable, wire: bytes) -> None:
        """Say that the run already is at hand as ``wire`` in ``form``."""
        self._wires[form] = wire

    def after(self, sequence: int) -> Run | None:
        """The part of a stored run that lies behind ``sequence``, or ``None``; the run itself if all of it does."""
        if not self.sequences or self.sequences[0] > sequence:
            return self
        keep = sum(1 for one in self.sequences if one > sequence)
        if not keep:
            return None
        return Run(
            self.topic,
            self.payloads[-keep:],
            qos=self.qos,
            recorded=self.recorded,
            sequences=self.sequences[-keep:],
            times=self.times[-keep:],
            retain=self.retain,
        )

    def pieces(self, most: int) -> list[Run]:
        """The run as several of at most so many messages each; for one that does not come from the stream."""
        return [
            Run(
                self.topic,
                self.payloads[start : start + most],
                qos=self.qos,
                ttl=self.ttl,
                retain=self.retain,
                message_ids=self.message_ids[start : start + most],
                tag=self.tag or self.last_tag.partition("=")[0],
            )
            for start in range(0, self.count, most)
        ]

    def __repr__(self) -> str:
        return f"<Run {self.count} on {self.topic.shown(True)} qos={self.qos}>"


@attrs.frozen(slots=True)
class Backlog:
    """What waits for a reader that was away, within its bounds.

    :ivar after: read what lies behind this place.
    :ivar dropped: matching messages between the reader's own cursor and ``after``: the oldest, which it will not get.
    """

    after: Cursor
    dropped: int


@attrs.frozen(slots=True)
class RetainedPage:
    """A part of the retained messages that match a filter.

    :ivar runs: of one message each, ``retain`` set.
    :ivar after: give this to read the next page; ``None`` behind the last one.
    :ivar places: for each run where history has the message, or a place behind which it was published; ``None`` if
        neither is known.
    """

    runs: list[Run]
    after: int | None
    places: Sequence[Cursor | None] = ()


@attrs.frozen(slots=True)
class LogEntry:
    """An entry of a queue's log.

    :ivar sequence: its place: it grows from entry to entry, not by one each time.
    :ivar time: when it was stored, by the bus's clock, in nanoseconds since 1970 UTC.
    :ivar head: what the queue's state machine reads.
    :ivar payload: the bodies of messages, or ``None`` if it was not read along.
    """

    sequence: int
    time: int
    head: bytes
    payload: bytes | None = None


@attrs.frozen(slots=True)
class Entry:
    """A value of a store with its revision, which grows by every write."""

    value: bytes
    revision: int


@attrs.frozen(slots=True)
class JournalEntry:
    """An entry of a book.

    :ivar sequence: its place in the book; it grows from entry to entry.
    :ivar at: when it was stored, by the bus's clock, in seconds since 1970 UTC.
    :ivar owner: whom it concerns, as it was given to :meth:`IJournal.append`.
    :ivar entry_id: the one that it was written under.
    """

    sequence: int
    at: float
    owner: str
    entry_id: str
    value: bytes = attrs.field(repr=False)
