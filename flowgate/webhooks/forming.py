"""What a webhook's receiver gets, and what a dead-letter queue gets."""

from __future__ import annotations

import base64
from urllib.parse import quote

import attrs
import orjson

from flowgate.message import Cursor
from flowgate.payloads import members
from flowgate.queues.model import Attribute, Outgoing, ReceivedMessage, is_fifo
from flowgate.queues.published import Former
from flowgate.topics import Namespace, Topic
from flowgate.webhooks.model import Webhook

_HEADER = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


@attrs.frozen(slots=True)
class Published:
    """A message as it was published, read from a webhook's queue."""

    topic: Topic
    cursor: Cursor
    payload: bytes

    @classmethod
    def read(cls, message: ReceivedMessage) -> Published:
        """The inverse of :class:`Former` for a queue outside of the topic's namespace: it has the full name."""
        attribute = message.attributes["topic"]
        user, app, name = attribute.raw().decode().split("_", 2)
        cursor = Cursor.parse(message.attributes["id"].value)
        payload = message.body.encode()
        if "ContentEncoding" in message.attributes:
            payload = base64.b64decode(payload)
        return cls(Topic(Namespace(user, app), name), cursor, payload)

    def body(self, full: bool) -> bytes:
        """The body of the request.

        :param full: whether the topic has its full name.
        """
        topic = orjson.dumps(self.topic.shown(full))
        return b'{"id":"%b","topic":%b,%b}' % (str(self.cursor).encode(), topic, members(self.payload))

    def headers(self, full: bool) -> dict[str, str]:
        """What the head of the request says of the message: what is no ASCII is percent-encoded."""
        return {"Flow-Id": str(self.cursor), "Flow-Topic": quote(self.topic.shown(full), _HEADER)}

    def dead_letter(self, webhook: Webhook, queue: str, reason: str) -> Outgoing:
        """The message as it goes into a queue at the webhook's home: as if that had subscribed, and why it is there."""
        former = Former(self.topic, webhook.home, self.cursor.epoch, is_fifo(queue))
        message, _, _ = former(self.payload, self.cursor.sequence)
        why = {"webhook": Attribute("String", webhook.name), "reason": Attribute("String", reason)}
        return attrs.evolve(message, attributes={**message.attributes, **why})
