"""Idempotency keys: what is published again under its key is stored once, and nothing else passes for it.

JetStream decides which message under a key is the first one, so that holds on all nodes and after restarts, and there
is no table of our own.  It compares nothing, so what it stored is read and compared here whenever a key comes again.
"""

from __future__ import annotations

from flowgate.errors import IdempotencyInProgress, IdempotencyKeyReused
from flowgate.message import Run
from flowgate.topics import Namespace, Topic


def check_same(first: Run | None, topic: Topic, payload: bytes, retain: bool) -> None:
    """Check that a message is the one that its key was used for first.

    :param first: what is stored; ``None`` if history no longer has it, and nothing is left to compare.
    :raises IdempotencyKeyReused: if it is another one.
    """
    if first is not None and (first.topic, first.payloads[0], first.retain) != (topic, payload, retain):
        raise IdempotencyKeyReused()


class Keys:
    """The keys of messages that are on their way from this node into the stream.

    Which message a key belongs to is not known before one is stored: another node may be faster.  So another one is
    told to come again as well as the same.
    """

    def __init__(self) -> None:
        # At most as many as the bus lets be under way.
        self._under_way: set[tuple[Namespace, str]] = set()

    def begin(self, topic: Topic, message_id: str) -> None:
        """Note that a message goes on its way; :meth:`end` is to be called when it has come to an end.

        :raises IdempotencyInProgress: if one is under way with this key.
        """
        key = topic.namespace, message_id
        if key in self._under_way:
            raise IdempotencyInProgress()
        self._under_way.add(key)

    def end(self, topic: Topic, message_id: str) -> None:
        self._under_way.discard((topic.namespace, message_id))
