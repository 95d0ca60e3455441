"""Queues as values: names, configuration, messages, and every check of them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeAlias

import attrs

from flowgate.errors import InvalidParameter, MessageTooLarge, Refused

MAX_RECEIVE: Final = 10
MAX_WAIT: Final = 20
MAX_VISIBILITY: Final = 43_200
MAX_DELAY: Final = 900
MAX_BATCH: Final = 10
MAX_BATCH_BYTES: Final = 1024 * 1024
MAX_ATTRIBUTES: Final = 10
MAX_TAGS: Final = 50
MAX_REDRIVE_RATE: Final = 500

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")
_FIFO = ".fifo"
_TOKEN = re.compile(r"[!-~]{1,128}\Z")
_ATTRIBUTE_NAME = re.compile(r"(?!\.)(?!.*\.\.)[A-Za-z0-9_.-]{1,256}(?<!\.)\Z")
_ATTRIBUTE_TYPE = re.compile(r"(?:String|Number|Binary)(?:\.[^\0-\x1f]+)?\Z")
_RESERVED = re.compile(r"(?:aws|amazon)\.", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
# https://www.w3.org/TR/REC-xml/#charsets, as Amazon SQS has it
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class InvalidCharacters(InvalidParameter):
    code, title = "invalid_characters", "The message holds characters that are not allowed"


class InvalidAttribute(InvalidParameter):
    code, title = "invalid_attribute", "A message attribute is not as it should be"


class ReceiptExpired(InvalidParameter):
    code, title = "receipt_expired", "The receipt of a FIFO queue's message is no longer valid"


class InFlightLimit(Refused):
    status, code, title, default_retry_after = 429, "in_flight_limit", "Too many messages are with receivers", 1


class QueueFull(Refused):
    status, code, title, default_retry_after = 429, "queue_full", "The queue holds as many messages as it may", 1


def is_fifo(name: str) -> bool:
    """Whether a valid ``name`` is that of a FIFO queue."""
    return name.endswith(_FIFO)


def check_name(name: str) -> None:
    """Check the name of a queue.

    :raises InvalidParameter: if it is not 1–80 of ``[A-Za-z0-9_-]``; FIFO queues end in ``.fifo``, which counts.
    """
    plain = name[: -len(_FIFO)] if name.endswith(_FIFO) else name
    if len(name) > 80 or not _NAME.match(plain):
        raise InvalidParameter(
            "the name of a queue is 1 to 80 of A-Z, a-z, 0-9, '_' and '-'; that of a FIFO queue ends in '.fifo'"
        )


def check_range(name: str, value: object, least: int, most: int) -> int:
    """Check a whole number.

    :returns: ``value``.
    :raises InvalidParameter: if it is something else, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidParameter(f"{name} must be a whole number from {least} to {most}")
    return value


def check_token(name: str, value: str) -> str:
    """Check a group, a deduplication id or a receive attempt id: 1–128 printable ASCII characters, no space.

    :raises InvalidParameter: if it is something else.
    """
    if not _TOKEN.match(value):
        raise InvalidParameter(f"{name} must be 1 to 128 letters, digits and punctuation marks")
    return value


# -- configuration


@attrs.frozen(slots=True)
class DeadLetter:
    """Where messages go that were received too often.

    :ivar queue: a queue of the same namespace and kind.
    :ivar max_receives: a receive beyond so many moves the message; 1 to 1,000.
    """

    queue: str
    max_receives: int = 10


DeadLetterAllow: TypeAlias = str | tuple[str, ...]
"""``all``, ``none``, or the names of the queues whose dead letters are taken, 10 at most."""

RANGES: Final = {
    "visibility": (0, MAX_VISIBILITY),
    "delay": (0, MAX_DELAY),
    "receive_wait": (0, MAX_WAIT),
    "max_message_bytes": (1024, 1024 * 1024),
    "retention": (60, 1_209_600),
}
"""The least and the most of those members of a configuration that are whole numbers."""


def _parse_dead_letter(value: object) -> DeadLetter | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not set(value) <= {"queue", "max_receives"} or "queue" not in value:
        raise InvalidParameter('dead_letter must be {"queue": name, "max_receives": 1 to 1000}')
    queue = value["queue"]
    if not isinstance(queue, str):
        raise InvalidParameter("the queue of dead_letter must be a name")
    check_name(queue)
    return DeadLetter(queue, check_range("max_receives", value.get("max_receives", 10), 1, 1000))


def _parse_allow(value: object) -> DeadLetterAllow:
    if value in ("all", "none"):
        return str(value)
    if isinstance(value, list | tuple) and 1 <= len(value) <= 10 and all(isinstance(one, str) for one in value):
        for one in value:
            check_name(one)
        return tuple(value)
    raise InvalidParameter('dead_letter_allow must be "all", "none" or a list of 1 to 10 names of queues')


def _parse_choice(name: str, value: object, *choices: str) -> str:
    if value not in choices:
        raise InvalidParameter(f"{name} must be one of: {', '.join(choices)}")
    return str(value)


def _parse_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidParameter(f"{name} must be true or false")
    return value


def _parse_texts(name: str, value: object, longest_key: int, longest_value: int, most: int) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise InvalidParameter(f"{name} must be an object of texts")
    if len(value) > most:
        raise InvalidParameter(f"{name} has at most {most} members")
    for key, text in value.items():
        if not 1 <= len(key) <= longest_key or len(text) > longest_value:
            raise InvalidParameter(f"{name}: a key has 1 to {longest_key} characters, a value at most {longest_value}")
    return dict(value)


@attrs.frozen(slots=True)
class QueueConfig:
    """How a queue behaves; times in seconds.

    :ivar fifo: whether order is kept within groups and repetitions are recognised.
    :ivar visibility: how long a received message is hidden if the receiver does not say.
    :ivar delay: how long a new message is hidden.
    :ivar receive_wait: how long a receive waits if the receiver does not say.
    :ivar max_message_bytes: largest body and attributes together.
    :ivar retention: how long a message is kept.
    :ivar dead_letter: where messages go that were received too often.
    :ivar dead_letter_allow: whose dead letters this queue takes.
    :ivar content_dedup: FIFO: whether the SHA-256 of the body stands for an absent deduplication id.
    :ivar dedup_scope: FIFO: ``queue`` or ``group``.
    :ivar throughput_limit: FIFO: ``queue`` or ``group``; kept for SQS clients, it limits nothing here.
    :ivar tags: the owner's notes.
    :ivar aws: attributes that mean something at Amazon only (Policy, Kms…, SqsManagedSseEnabled), by SQS's names.
    """

    fifo: bool = False
    visibility: int = 30
    delay: int = 0
    receive_wait: int = 0
    max_message_bytes: int = 1024 * 1024
    retention: int = 345_600
    dead_letter: DeadLetter | None = None
    dead_letter_allow: DeadLetterAllow = "all"
    content_dedup: bool = False
    dedup_scope: str = "queue"
    throughput_limit: str = "queue"
    tags: Mapping[str, str] = attrs.field(factory=dict)
    aws: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def parse(cls, name: str, members: Mapping[str, object], base: QueueConfig | None = None) -> QueueConfig:
        """Read a configuration, or changes of ``base``; what is absent has its default (or that of ``base``).

        A member that is ``None`` has its default.

        :param name: the queue's, which says whether it is FIFO.
        :raises InvalidParameter: if a member is unknown or out of range, with its name.
        """
        check_name(name)
        fifo = is_fifo(name)
        values: dict[str, Any] = {} if base is None else attrs.asdict(base, recurse=False)
        values["fifo"] = fifo
        for member, value in members.items():
            if member == "type":
                if value not in (None, "fifo" if fifo else "standard"):
                    _parse_choice("type", value, "standard", "fifo")
                    raise InvalidParameter("type must be fifo if, and only if, the name ends in .fifo")
            elif member not in _DEFAULTS or member == "fifo":
                raise InvalidParameter(f"{member} is not a member of a queue's configuration")
            elif value is None:
                values[member] = _DEFAULTS[member]
            elif member in RANGES:
                values[member] = check_range(member, value, *RANGES[member])
            elif member == "dead_letter":
                values[member] = _parse_dead_letter(value)
            elif member == "dead_letter_allow":
                values[member] = _parse_allow(value)
            elif member == "content_dedup":
                values[member] = _parse_flag(member, value)
            elif member in ("dedup_scope", "throughput_limit"):
                values[member] = _parse_choice(member, value, "queue", "group")
            elif member == "tags":
                values[member] = _parse_texts(member, value, 128, 256, MAX_TAGS)
            else:
                values[member] = _parse_texts(member, value, 64, 64 * 1024, 16)
        config = cls(**values)
        if not fifo and (config.content_dedup or (config.dedup_scope, config.throughput_limit) != ("queue", "queue")):
            raise InvalidParameter("content_dedup, dedup_scope and throughput_limit are for FIFO queues only")
        if config.throughput_limit == "group" and config.dedup_scope != "group":
            raise InvalidParameter("throughput_limit group needs dedup_scope group")
        if config.dead_letter is not None and is_fifo(config.dead_letter.queue) != fifo:
            raise InvalidParameter("the dead-letter queue of a FIFO queue is FIFO, that of a standard queue is not")
        return config

    def members(self) -> dict[str, object]:
        """The configuration as JSON members, as :meth:`parse` reads it."""
        members: dict[str, object] = {"type": "fifo" if self.fifo else "standard"}
        for name in RANGES:
            members[name] = getattr(self, name)
        dead, allow = self.dead_letter, self.dead_letter_allow
        members["dead_letter"] = None if dead is None else {"queue": dead.queue, "max_receives": dead.max_receives}
        members["dead_letter_allow"] = list(allow) if isinstance(allow, tuple) else allow
        if self.fifo:
            members["content_dedup"] = self.content_dedup
            members["dedup_scope"] = self.dedup_scope
            members["throughput_limit"] = self.throughput_limit
        members["tags"] = dict(self.tags)
        if self.aws:
            members["aws"] = dict(self.aws)
        return members

    def takes_dead_letters_of(self, name: str) -> bool:
        """Whether the queue ``name`` may have this one as its dead-letter queue."""
        allow = self.dead_letter_allow
        return allow == "all" if isinstance(allow, str) else name in allow


_DEFAULTS: Final = attrs.asdict(QueueConfig(), recurse=False)


class Configured(Enum):
    """What became of a wish for a configuration."""

    CREATED = "created"
    SAME = "same"


@attrs.frozen(slots=True)
class QueueDescription:
    """A queue that exists.

    :ivar created_at: seconds since 1970 UTC.
    :ivar modified_at: seconds since 1970 UTC.
    :ivar subscriptions: full topic filters whose messages are sent to the queue.
    """

    name: str
    config: QueueConfig
    created_at: int
    modified_at: int
    subscriptions: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class QueueStats:
    """What a queue holds now: counts of messages, their bytes, and the age of the oldest in seconds."""

    visible: int
    in_flight: int
    delayed: int
    bytes: int
    oldest_age_seconds: float


# -- messages


@attrs.frozen(slots=True)
class Attribute:
    """A message attribute.

    :ivar type: ``String``, ``Number`` or ``Binary``, perhaps with a label: ``Number.int``.
    :ivar value: the text; of a binary one its base64.
    """

    type: str
    value: str

    @property
    def binary(self) -> bool:
        return self.type.startswith("Binary")

    def raw(self) -> bytes:
        """The value as it is counted and digested."""
        return base64.b64decode(self.value) if self.binary else self.value.encode()


Attributes: TypeAlias = Mapping[str, Attribute]


def check_attributes(attributes: Attributes) -> None:
    """Check message attributes: number, names, types, values.

    :raises InvalidAttribute: with the reason.
    """
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidAttribute(f"a message has at most {MAX_ATTRIBUTES} attributes")
    for name, attribute in attributes.items():
        if not _ATTRIBUTE_NAME.match(name) or _RESERVED.match(name):
            raise InvalidAttribute(
                "the name of an attribute is 1 to 256 of A-Z, a-z, 0-9, '_', '-' and '.'; no '.' at its ends or "
                "beside another, and it does not begin with 'AWS.' or 'Amazon.'"
            )
        if len(attribute.type) > 256 or not _ATTRIBUTE_TYPE.match(attribute.type):
            raise InvalidAttribute(f"the type of the attribute {name} is not String, Number or Binary")
        if not attribute.value:
            raise InvalidAttribute(f"the attribute {name} is empty")
        if attribute.binary:
            try:
                base64.b64decode(attribute.value, validate=True)
            except ValueError:
                raise InvalidAttribute(f"the attribute {name} is not base64") from None
        elif _FORBIDDEN.search(attribute.value):
            raise InvalidAttribute(f"the attribute {name} holds characters that are not allowed")
        elif attribute.type.startswith("Number") and not _NUMBER.match(attribute.value):
            raise InvalidAttribute(f"the attribute {name} is not a number")


def check_body(body: str) -> bytes:
    """Check the body of a message.

    :returns: its UTF-8.
    :raises InvalidParameter: if it is empty.
    :raises InvalidCharacters: if it holds what XML 1.0 does not allow, as Amazon SQS has it.
    """
    if not body:
        raise InvalidParameter("the body of a message has at least one character")
    if _FORBIDDEN.search(body):
        raise InvalidCharacters("allowed are tab, LF, CR and U+0020 to U+D7FF, U+E000 to U+FFFD, U+10000 to U+10FFFF")
    return body.encode()


def attributes_bytes(attributes: Attributes) -> int:
    """What attributes count for in a message's size: names, types and values."""
    return sum(len(name.encode()) + len(one.type.encode()) + len(one.raw()) for name, one in attributes.items())


def md5_of(body: bytes) -> str:
    """The digest of a body that SQS clients compare: 32 hexadecimal digits."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def md5_of_attributes(attributes: Attributes) -> str:
    """The digest of attributes that SQS clients compare; empty for none.

    By name, each: length and name, length and type, 1 or 2 (binary), length and value; lengths as four bytes.
    """
    if not attributes:
        return ""
    digest = hashlib.md5(usedforsecurity=False)
    for name in sorted(attributes):
        one = attributes[name]
        for part in (name.encode(), one.type.encode()):
            digest.update(len(part).to_bytes(4, "big") + part)
        value = one.raw()
        digest.update((b"\2" if one.binary else b"\1") + len(value).to_bytes(4, "big") + value)
    return digest.hexdigest()


@attrs.frozen(slots=True)
class Outgoing:
    """A message that somebody wants to send.

    :ivar delay: seconds; ``None``: as the queue is configured.
    :ivar group: needed on a FIFO queue; on a standard queue it is handed out fairly among groups.
    :ivar dedup_id: FIFO only.
    :ivar sender: who sends it: an API key's id.
    :ivar trace: an ``AWSTraceHeader``.
    """

    body: str
    attributes: Attributes = attrs.field(factory=dict)
    delay: int | None = None
    group: str | None = None
    dedup_id: str | None = None
    sender: str = ""
    trace: str | None = None


@attrs.frozen(slots=True)
class Sent:
    """A message that a queue has stored.

    :ivar id: a UUID.
    :ivar md5: of the body.
    :ivar md5_attributes: empty if there are none.
    :ivar md5_system: of the trace header as an attribute; empty without one.
    :ivar sequence: 20 digits, growing within the queue.
    :ivar duplicate: whether a message with the same deduplication id had been stored before: this is its answer.
    """

    id: str
    md5: str
    md5_attributes: str
    md5_system: str
    sequence: str
    duplicate: bool = False


@attrs.frozen(slots=True)
class ReceivedMessage:
    """A message as its receiver sees it.

    :ivar receipt: names this receive, for delete and change of visibility; empty for a peek.
    :ivar receive_count: how often it was handed out, this time included.
    :ivar sent_at: when it was stored, in milliseconds since 1970 UTC.
    :ivar first_received_at: likewise; 0 if it was never received.
    :ivar dead_letter_source: on a dead-letter queue: the queue that it comes from.
    """

    id: str
    receipt: str
    body: str
    attributes: Attributes
    receive_count: int
    sent_at: int
    first_received_at: int
    sequence: str
    sender: str
    group: str | None
    dedup_id: str | None
    trace: str | None
    dead_letter_source: str | None

    @property
    def md5(self) -> str:
        """Of the body."""
        return md5_of(self.body.encode())


@attrs.frozen(slots=True)
class Redrive:
    """A task that moves the messages of a dead-letter queue.

    :ivar id: names it.
    :ivar status: ``running``, ``completed``, ``cancelling``, ``cancelled``, ``failed``.
    :ivar destination: the queue that they go to; ``None``: each to the one that it came from.
    :ivar max_per_second: ``None``: as fast as it goes.
    :ivar started_at: milliseconds since 1970 UTC.
    :ivar moved: messages moved so far.
    :ivar to_move: messages that there were when it began.
    :ivar failure: why it failed, or nothing.
    """

    id: str
    status: str
    destination: str | None
    max_per_second: int | None
    started_at: int
    moved: int
    to_move: int
    failure: str = ""


def check_size(size: int, config: QueueConfig) -> None:
    """Check the size of a message, body and attributes together.

    :raises MessageTooLarge: if the queue takes only smaller ones.
    """
    if size > config.max_message_bytes:
        raise MessageTooLarge(f"the queue takes messages of at most {config.max_message_bytes} bytes")


def check_batch(sizes: Sequence[int]) -> None:
    """Check the size of a batch.

    :raises MessageTooLarge: if it is too much together.
    """
    if sum(sizes) > MAX_BATCH_BYTES:
        raise MessageTooLarge(f"the messages of a batch have at most {MAX_BATCH_BYTES} bytes together")
