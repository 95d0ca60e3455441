"""NATS messages of one read, made into runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import overload

from flowgate.bus.names import CAST, LOG, OUT, subject_topic
from flowgate.bus.wire import Message, header, headers, stored_at, stored_sequence
from flowgate.errors import ProtocolViolation
from flowgate.message import Run
from flowgate.topics import Topic

TAG = b"Fg-Tag"  # not one of those that are looked for in each message
_OURS = b"\r\nFlowgate-"
_QOS_2 = b"\r\nFlowgate-QoS: 2\r\n"
_RETAIN = b"\r\nFlowgate-Retain: 1\r\n"

Place = Callable[[Message], tuple[int, int]]
"""Tells sequence and time (nanoseconds since 1970 UTC) of a stored message."""


@lru_cache(maxsize=1000)
def flag_headers(qos: int, ttl: int | None, retain: bool, tag: str = "") -> bytes:
    """The headers that a message travels with; most need none."""
    found: list[tuple[str, str]] = []
    if qos == 2:
        found.append(("Flowgate-QoS", "2"))
    if retain:
        found.append(("Flowgate-Retain", "1"))
    if ttl is not None:
        found.append(("Nats-TTL", str(ttl)))
    if tag:
        found.append((TAG.decode(), tag))
    return headers(found) if found else b""


_PLAIN = (1, False)


def _flags(head: bytes) -> tuple[int, bool]:
    """Quality of service and wish for retention of an acknowledged message."""
    if _OURS in head:
        return (2 if _QOS_2 in head else 1), _RETAIN in head
    return _PLAIN


class _Places:
    """The places of a run's messages; read from the headers when somebody asks, since most subscribers do not."""

    __slots__ = ("_read", "heads")

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self._read: tuple[list[int], list[int]] | None = None

    def read(self, which: int) -> list[int]:
        if self._read is None:
            places = [stored_at(head) for head in self.heads]
            self._read = [sequence for sequence, _ in places], [time for _, time in places]
            self.heads.clear()
        return self._read[which]

    def __len__(self) -> int:
        return len(self.heads if self._read is None else self._read[0])


class _Numbers(Sequence[int]):
    """The sequences, or the times, of some places."""

    __slots__ = ("_places", "_which")

    def __init__(self, places: _Places, which: int) -> None:
        self._places = places
        self._which = which

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        return self._places.read(self._which)[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._places.read(self._which))


class _LateTimes(Sequence[int]):
    """The times of some messages; read when somebody asks, since most subscribers do not."""

    __slots__ = ("_place", "_times", "messages")

    def __init__(self, place: Place) -> None:
        self._place = place
        self._times: list[int] | None = None
        self.messages: list[Message] = []

    def _read(self) -> list[int]:
        if self._times is None:
            self._times = [self._place(message)[1] for message in self.messages]
            self.messages.clear()
        return self._times

    def __len__(self) -> int:
        return len(self.messages if self._times is None else self._times)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        return self._read()[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._read())


class Grouper:
    """Makes runs of messages; remembers what subjects stand for.

    The memory is bounded: when it is full it is thrown away whole, which costs one parse per subject in use.
    """

    def __init__(self, remembered: int = 16_384) -> None:
        self._remembered = remembered
        self._known: dict[bytes, tuple[str, Topic]] = {}

    def known_as(self, subject: bytes) -> tuple[str, Topic]:
        """The root and the topic that ``subject`` stands for; see :func:`~flowgate.bus.names.subject_topic`."""
        known = self._known.get(subject)
        if known is None:
            if len(self._known) >= self._remembered:
                self._known.clear()
            known = self._known[subject] = subject_topic(subject)
        return known

    def arrived(self, messages: list[Message]) -> list[Run]:
        """Group what came by subscription: republished by the stream, or straight from another node."""
        runs: list[Run] = []
        last = b""
        root = ""
        last_flags = _PLAIN
        payloads: list[bytes] = []
        heads: list[bytes] = []
        for _, subject, _, head, payload in messages:
            known = subject == last
            if not known:
                root, topic = self.known_as(subject)
                last = subject
            if root == OUT:
                flags = _flags(head)
                if not known or flags != last_flags:
                    last_flags = flags
                    payloads, places = [], _Places()
                    heads = places.heads
                    sequences, times = _Numbers(places, 0), _Numbers(places, 1)
                    qos, retain = flags
                    run = Run(topic, payloads, qos=qos, recorded=True, sequences=sequences, times=times, retain=retain)
                    runs.append(run)
                heads.append(head)
            else:
                flags = _flags(head) if head else _PLAIN
                if not known or flags != last_flags:
                    last_flags = flags
                    payloads = []
                    runs.append(Run(topic, payloads, recorded=root != CAST, retain=flags[1]))
            payloads.append(payload)
        for run in runs:
            run.count = len(run.payloads)
        return runs

    def stored(self, messages: list[Message], place: Place, subject_of: Callable[[Message], bytes]) -> list[Run]:
        """Group what was read from the stream.

        :param place: where a message says its place.
        :param subject_of: where a message says its subject.
        """
        runs: list[Run] = []
        last = b""
        last_flags = _PLAIN
        payloads: list[bytes] = []
        sequences: list[int] = []
        sequence_of = _SEQUENCES[place]
        times = _LateTimes(place)
        for message in messages:
            subject = subject_of(message)
            head = message[3]
            flags = _flags(head) if head else _PLAIN
            if subject != last or flags != last_flags:
                last, last_flags = subject, flags
                payloads, sequences, times = [], [], _LateTimes(place)
                root, topic = self.known_as(subject)
                qos = flags[0] if root == LOG else 0
                run = Run(topic, payloads, qos=qos, recorded=True, sequences=sequences, times=times, retain=flags[1])
                runs.append(run)
            payloads.append(message[4])
            sequences.append(sequence_of(message))
            times.messages.append(message)
        for run in runs:
            run.count = len(run.payloads)
        return runs


def _acknowledgement(message: Message) -> list[bytes]:
    """Stream sequence, consumer sequence, time, and how many more are to come."""
    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, or with domain and
    # account before the stream and a random token at the end (nats-server ADR-15)
    tokens = message[2].split(b".")
    return tokens[5:9] if len(tokens) == 9 else tokens[7:11]


def consumed_at(message: Message) -> tuple[int, int]:
    """Sequence and time of a message that a consumer delivered, from its acknowledgement subject."""
    try:
        sequence, _, time, _ = _acknowledgement(message)
        return int(sequence), int(time)
    except ValueError:
        raise ProtocolViolation("a consumer delivered a message without its place") from None


def consumer_place(message: Message) -> tuple[int, int]:
    """The place of a message among those that its consumer delivers, from 1, and how many follow already."""
    try:
        _, place, _, pending = _acknowledgement(message)
        return int(place), int(pending)
    except ValueError:
        raise ProtocolViolation("a consumer delivered a message without its place") from None


def fetched_at(message: Message) -> tuple[int, int]:
    """Sequence and time of a message from a direct get."""
    return stored_at(message[3])


def fetched_subject(message: Message) -> bytes:
    """Subject of a message from a direct get."""
    return header(message[3], b"Nats-Subject")


def delivered_subject(message: Message) -> bytes:
    """Subject of a message that a consumer delivered."""
    return message[1]


def fetched_sequence(message: Message) -> int:
    """Sequence of a message from a direct get."""
    return stored_sequence(message[3])


def consumed_sequence(message: Message) -> int:
    """Sequence of a message that a consumer delivered."""
    try:
        return int(_acknowledgement(message)[0])
    except (ValueError, IndexError):
        raise ProtocolViolation("a consumer delivered a message without its place") from None


_SEQUENCES: dict[Place, Callable[[Message], int]] = {fetched_at: fetched_sequence, consumed_at: consumed_sequence}
