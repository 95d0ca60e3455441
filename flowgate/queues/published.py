"""What is published, as a queue that has subscribed to it gets it."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Final

from flowgate.errors import InvalidParameter
from flowgate.queues.model import (
    Attribute,
    InvalidAttribute,
    InvalidCharacters,
    Outgoing,
    attributes_bytes,
    check_attributes,
    check_body,
    check_token,
)
from flowgate.topics import Namespace, Topic

_BASE64: Final = {"ContentEncoding": Attribute("String", "base64")}
_BASE64_BYTES: Final = attributes_bytes(_BASE64)


class Former:
    """Makes the messages of one topic into those of one queue.

    The body is the text of the payload.  If the payload is no UTF-8, or has characters that SQS clients cannot be
    shown, it is the payload's base64, and the attribute ``ContentEncoding`` says so.  An empty payload is an empty
    body, which only these messages can have.  The attribute ``topic`` is the topic's name, short if it is in the
    queue's own namespace, and ``id`` the message's place in history; a name with such characters is a binary attribute.

    In a FIFO queue the topic's name is the message group, or its SHA-256 if it is longer than a group may be or has
    characters that a group cannot have; the id is the deduplication id.
    """

    __slots__ = ("_bytes", "_epoch", "_group", "_topic")

    def __init__(self, topic: Topic, home: Namespace, epoch: str, fifo: bool) -> None:
        """Prepare.

        :param home: the queue's namespace.
        :param epoch: of the topics' stream.
        """
        shown = topic.shown(topic.namespace != home)
        self._topic, self._bytes = _topic_attribute(shown)
        self._group = _group(shown) if fifo else None
        self._epoch = epoch

    def __call__(self, payload: bytes, sequence: int) -> tuple[Outgoing, str, int]:
        """Make one message.

        :param sequence: its place in history.
        :returns: the message, its origin, and the bytes that it counts for.
        """
        origin = f"{self._epoch}-{sequence}"
        attributes = {"topic": self._topic, "id": Attribute("String", origin)}
        size = self._bytes + len(origin)
        try:
            body = payload.decode()
            if body:
                check_body(body)
            size += len(payload)
        except (UnicodeDecodeError, InvalidCharacters):
            body = base64.b64encode(payload).decode()
            attributes.update(_BASE64)
            size += len(body) + _BASE64_BYTES
        group = self._group
        return Outgoing(body, attributes, group=group, dedup_id=None if group is None else origin), origin, size


@lru_cache(maxsize=1024)
def _topic_attribute(topic: str) -> tuple[Attribute, int]:
    """A topic's name as an attribute, and what it counts for with the name and type of ``id``."""
    attribute = Attribute("String", topic)
    try:
        check_attributes({"topic": attribute})
    except InvalidAttribute:
        attribute = Attribute("Binary", base64.b64encode(topic.encode()).decode())
    return attribute, attributes_bytes({"topic": attribute, "id": Attribute("String", "")})


@lru_cache(maxsize=1024)
def _group(topic: str) -> str:
    try:
        return check_token("group", topic)
    except InvalidParameter:
        return hashlib.sha256(topic.encode()).hexdigest()
