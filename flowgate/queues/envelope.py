"""A message as a queue stores it: a line of JSON, then the body as it is."""

from __future__ import annotations

from typing import Any

import attrs
import orjson

from flowgate.queues.model import Attribute, Attributes


@attrs.frozen(slots=True)
class Envelope:
    """A message with what belongs to it; see :class:`~flowgate.queues.model.ReceivedMessage`.

    :ivar source: on a dead-letter queue: the queue that it comes from.
    """

    id: str
    body: bytes
    attributes: Attributes = attrs.field(factory=dict)
    sender: str = ""
    group: str | None = None
    dedup_id: str | None = None
    trace: str | None = None
    source: str | None = None

    def encode(self) -> bytes:
        attributes = {name: (one.type, one.value) for name, one in self.attributes.items()}
        values: list[Any] = [
            self.id,
            self.sender,
            attributes or None,
            self.group,
            self.dedup_id,
            self.trace,
            self.source,
        ]
        while values[-1] is None:
            values.pop()
        return orjson.dumps(values) + b"\n" + self.body

    @classmethod
    def decode(cls, blob: bytes) -> Envelope:
        head, _, body = blob.partition(b"\n")
        values = orjson.loads(head)
        values += [None] * (7 - len(values))
        id_, sender, attributes, group, dedup_id, trace, source = values
        found = {name: Attribute(*one) for name, one in attributes.items()} if attributes else {}
        return cls(id_, body, found, sender, group, dedup_id, trace, source)
