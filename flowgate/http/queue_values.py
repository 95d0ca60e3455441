"""Queues and their messages as JSON, both ways."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import orjson

from flowgate.errors import InvalidParameter, MissingField
from flowgate.http.bodies import Members
from flowgate.queues.model import (
    Attribute,
    Attributes,
    InvalidAttribute,
    Outgoing,
    QueueDescription,
    ReceivedMessage,
    Redrive,
    Sent,
    md5_of_attributes,
)

_SHOWN = 40
"""How much of a client's own text is repeated in an error."""

_EXACT = 2**53
"""Whole numbers up to here survive every JSON parser."""

_ENCODING = "ContentEncoding"
_BASE64 = Attribute("String", "base64")

MESSAGE = ("body", "body_base64", "attributes", "delay", "group", "dedup_id")
"""The members of a message that is sent."""


def whole(body: Members, name: str) -> int | None:
    """A whole number, whose range is the service's affair, or ``None`` if it is not there or null."""
    value = body.value(name) if name in body else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParameter(f"the member {name!r} must be a whole number")
    return value


# -- messages on their way in


def read_attributes(values: Mapping[str, object] | None) -> dict[str, Attribute]:
    """Message attributes: a text, a number, or ``{"type", "value"}``.

    :raises InvalidAttribute: if one is something else.
    """
    return {name: _attribute(name, value) for name, value in values.items()} if values else {}


def _attribute(name: str, value: object) -> Attribute:
    if isinstance(value, str):
        return Attribute("String", value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) > _EXACT:
            raise InvalidAttribute(
                f"the attribute {name[:_SHOWN]!r} is a number that JSON does not carry exactly: "
                'write it as {"type": "Number", "value": "…"}'
            )
        return Attribute("Number", orjson.dumps(value).decode())
    if (
        isinstance(value, dict)
        and value.keys() == {"type", "value"}
        and all(isinstance(v, str) for v in value.values())
    ):
        return Attribute(value["type"], value["value"])
    raise InvalidAttribute(
        f'the attribute {name[:_SHOWN]!r} must be a text, a number, or {{"type": "…", "value": "…"}} of texts'
    )


def read_message(body: Members, sender: str, dedup_id: str | None = None) -> Outgoing:
    """A message that is to be sent; its values are the service's affair.

    :param dedup_id: the deduplication id if there is no such member.
    :raises MissingField, InvalidParameter: if a member is not there, or of another type.
    """
    attributes = read_attributes(body.mapping("attributes"))
    if "body_base64" not in body:
        text = body.text("body")
    elif "body" in body:
        raise InvalidParameter("a message has a 'body' or a 'body_base64', not both")
    else:
        text = body.text("body_base64")
        try:
            base64.b64decode(text.encode(), validate=True)
        except ValueError:
            raise InvalidParameter("the member 'body_base64' must be base64") from None
        if attributes.setdefault(_ENCODING, _BASE64) != _BASE64:
            raise InvalidAttribute(f"the attribute {_ENCODING} of a 'body_base64' is always base64")
    own = body.optional_text("dedup_id")
    if own is not None and dedup_id not in (None, own):
        raise InvalidParameter("the header Idempotency-Key and the member 'dedup_id' say different things")
    return Outgoing(
        text,
        attributes,
        delay=whole(body, "delay"),
        group=body.optional_text("group"),
        dedup_id=own if own is not None else dedup_id,
        sender=sender,
    )


def shown_sent(sent: Sent, id_member: str = "id") -> dict[str, object]:
    """What a sender is told of a message that was stored."""
    shown: dict[str, object] = {id_member: sent.id, "md5": sent.md5}
    if sent.md5_attributes:
        shown["md5_attributes"] = sent.md5_attributes
    shown["sequence"] = sent.sequence
    if sent.duplicate:
        shown["duplicate"] = True
    return shown


# -- messages on their way out


def shown_attribute(attribute: Attribute) -> object:
    """An attribute in its shortest form that :func:`read_attributes` reads as the very same."""
    if attribute.type == "String":
        return attribute.value
    if attribute.type == "Number":
        try:
            number: object = orjson.loads(attribute.value)
        except orjson.JSONDecodeError:
            number = None
        if (
            isinstance(number, int | float)
            and abs(number) <= _EXACT
            and orjson.dumps(number).decode() == attribute.value
        ):
            return number
    return {"type": attribute.type, "value": attribute.value}


def shown_attributes(attributes: Attributes) -> dict[str, object]:
    return {name: shown_attribute(one) for name, one in attributes.items()}


def _holds_base64(message: ReceivedMessage) -> bool:
    if message.attributes.get(_ENCODING) != _BASE64:
        return False
    try:
        base64.b64decode(message.body, validate=True)
    except ValueError:  # another client's attribute, with a meaning of its own
        return False
    return True


def shown_message(message: ReceivedMessage) -> dict[str, object]:
    """A received message; what is not known of it is left out."""
    shown: dict[str, object] = {"id": message.id}
    if message.receipt:
        shown["receipt"] = message.receipt
    attributes = message.attributes
    shown["body_base64" if attributes and _holds_base64(message) else "body"] = message.body
    shown["md5"] = message.md5
    shown["attributes"] = shown_attributes(attributes)
    if attributes:
        shown["md5_attributes"] = md5_of_attributes(attributes)
    shown["receive_count"] = message.receive_count
    shown["sent_at"] = message.sent_at
    if message.first_received_at:
        shown["first_received_at"] = message.first_received_at
    shown["sequence"] = message.sequence
    for name, value in (
        ("sender", message.sender),
        ("group", message.group),
        ("dedup_id", message.dedup_id),
        ("trace", message.trace),
        ("dead_letter_source", message.dead_letter_source),
    ):
        if value:
            shown[name] = value
    return shown


# -- queues


def shown_queue(described: QueueDescription) -> dict[str, object]:
    return {
        "name": described.name,
        "config": described.config.members(),
        "created_at": described.created_at,
        "modified_at": described.modified_at,
    }


def shown_redrive(redrive: Redrive) -> dict[str, object]:
    shown: dict[str, object] = {
        "task": redrive.id,
        "status": redrive.status,
        "destination": redrive.destination,
        "max_per_second": redrive.max_per_second,
        "started_at": redrive.started_at,
        "moved": redrive.moved,
        "to_move": redrive.to_move,
    }
    if redrive.failure:
        shown["failure"] = redrive.failure
    return shown


def merged_tags(tags: Mapping[str, str], patch: Mapping[str, object]) -> dict[str, object]:
    """Tags after a merge patch (RFC 7396): what is null in it goes."""
    return {name: value for name, value in {**tags, **patch}.items() if value is not None}


def required(value: int | None, name: str) -> int:
    """:raises MissingField: if a member that has to be there is not."""
    if value is None:
        raise MissingField(f"the member {name!r} is missing")
    return value
