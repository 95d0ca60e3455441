"""The operations that send messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from flowgate.allowances import Allowance
from flowgate.auth.permissions import Principal
from flowgate.errors import InvalidParameter, MessageTooLarge, Refused
from flowgate.queues.model import (
    MAX_ATTRIBUTES,
    MAX_DELAY,
    Attribute,
    InvalidAttribute,
    Outgoing,
    Sent,
    check_attributes,
    check_token,
    is_fifo,
)
from flowgate.queues.paying import send_paid
from flowgate.queues.service import Queues
from flowgate.sqs.batches import Entry, check_batch, failure
from flowgate.sqs.call import Call
from flowgate.sqs.refusals import in_words_of_sqs
from flowgate.sqs.wire import SqsError, invalid_value, missing

WRONG_KIND: Final = "The request include parameter that is not valid for this queue type."

_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")
_RESERVED = re.compile(r"(?:aws|amazon)\.", re.IGNORECASE)
_NO_DEDUP: Final = (
    "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly"
)
_TRACE: Final = "AWSTraceHeader"


def read_attributes(given: Mapping[str, Mapping[str, str]]) -> dict[str, Attribute]:
    """Read message attributes.

    :raises SqsError: if one is not as it should be.
    """
    if len(given) > MAX_ATTRIBUTES:
        raise SqsError(
            "InvalidParameterValue",
            f"Number of message attributes [{len(given)}] exceeds the allowed maximum [{MAX_ATTRIBUTES}].",
        )
    found = {}
    for name, value in given.items():
        kind = value["DataType"]
        text = value.get("BinaryValue" if kind.startswith("Binary") else "StringValue", "")
        found[name] = Attribute(kind, text)
        try:
            check_attributes({name: found[name]})
        except InvalidAttribute as refused:
            raise SqsError("InvalidParameterValue", _why(name, found[name]) or refused.detail) from None
    return found


def _why(name: str, attribute: Attribute) -> str:
    """Amazon's words for the commonest faults of an attribute."""
    if not _ATTRIBUTE_NAME.match(name):
        return (
            f"The message attribute name '{name}' is invalid. Attribute name can contain A-Z, a-z, 0-9, "
            "underscore (_), hyphen (-), and period (.) characters."
        )
    if _RESERVED.match(name):
        return (
            "You can't use message attribute names beginning with 'AWS.' or 'Amazon.'. "
            "These strings are reserved for internal use."
        )
    if not attribute.type:
        return f"The message attribute '{name}' must contain non-empty message attribute type."
    if attribute.type.partition(".")[0] not in ("String", "Number", "Binary"):
        return (
            f"The message attribute '{name}' has an invalid message attribute type, the set of supported type "
            "prefixes is Binary, Number, and String."
        )
    if not attribute.value:
        return (
            f"The message attribute '{name}' must contain non-empty message attribute value for message attribute "
            f"type '{attribute.type}'."
        )
    if attribute.type.startswith("Number"):
        return f"Can't cast the value of message (user) attribute '{name}' to a number."
    return ""


def _read_trace(given: Mapping[str, Mapping[str, str]]) -> str | None:
    for name, value in given.items():
        if name != _TRACE:
            raise SqsError("InvalidParameterValue", f"Message system attribute name '{name[:80]}' is invalid.")
        if value["DataType"] != "String" or not value.get("StringValue"):
            raise SqsError("InvalidParameterValue", f"The message system attribute '{_TRACE}' must be a String.")
        return value["StringValue"]
    return None


def read_token(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return check_token(name, value)
    except InvalidParameter:
        raise invalid_value(
            value[:200],
            name,
            f"{name} can only include alphanumeric and punctuation characters. 1 to 128 in length.",
        ) from None


class Sending:
    """Translates between SQS and the queues, which check all values themselves."""

    def __init__(self, queues: Queues, allowance: Callable[[Principal], Allowance]) -> None:
        """Be ready.

        :param allowance: finds who pays.
        """
        self._queues = queues
        self._allowance = allowance

    async def _send(self, call: Call, name: str, messages: Sequence[Outgoing]) -> list[Sent | Refused]:
        allowance = self._allowance(call.principal)
        return await send_paid(allowance, messages, lambda some: self._queues.send(call.home, name, some))

    async def send_message(self, call: Call) -> dict[str, object]:
        name = call.queue("send")
        await self._check_fifo(call, name, [call.arguments])
        outgoing = self._outgoing(call, name, call.arguments)
        try:
            [result] = await self._send(call, name, [outgoing])
        except MessageTooLarge as refused:
            result = refused
        if isinstance(result, Refused):
            raise await self._not_sent(call, name, result)
        return _sent(result, name)

    async def send_message_batch(self, call: Call) -> dict[str, object]:
        name = call.queue("send")
        entries = call.arguments.get("Entries", ())
        try:
            check_batch(entries, "SendMessageBatchRequestEntry", lambda: _size(entries))
        except SqsError:
            await self._queues.describe(call.home, name)  # that there is no such queue goes before
            raise
        await self._check_fifo(call, name, entries)
        failed: list[dict[str, object]] = []
        sending: list[tuple[Entry, Outgoing]] = []
        for entry in entries:
            try:
                sending.append((entry, self._outgoing(call, name, entry)))
            except SqsError as error:
                failed.append(failure(entry, error))
        successful = []
        if sending:
            results = await self._send(call, name, [outgoing for _, outgoing in sending])
            for (entry, _), result in zip(sending, results, strict=True):
                if isinstance(result, Refused):
                    failed.append(failure(entry, await self._not_sent(call, name, result)))
                else:
                    successful.append({"Id": entry["Id"], **_sent(result, name)})
        else:
            await self._queues.describe(call.home, name)
        return {"Successful": successful, "Failed": failed}

    async def _check_fifo(self, call: Call, name: str, entries: Sequence[Entry]) -> None:
        """:raises SqsError: if what every message of a FIFO queue has to have is missing."""
        if not is_fifo(name):
            return
        config = (await self._queues.describe(call.home, name)).config
        for entry in entries:
            if not entry.get("MessageGroupId"):
                raise missing("MessageGroupId")
            if not config.content_dedup and not entry.get("MessageDeduplicationId"):
                raise SqsError("InvalidParameterValue", _NO_DEDUP)

    def _outgoing(self, call: Call, name: str, entry: Entry) -> Outgoing:
        """:raises SqsError: if something of the message is not as it should be."""
        if not entry["MessageBody"]:
            raise missing("MessageBody")
        fifo = is_fifo(name)
        delay = entry.get("DelaySeconds")
        if delay and fifo:
            raise invalid_value(delay, "DelaySeconds", WRONG_KIND)
        if delay is not None and not 0 <= delay <= MAX_DELAY:
            raise invalid_value(delay, "DelaySeconds", f"DelaySeconds must be >= 0 and <= {MAX_DELAY}.")
        dedup_id = read_token("MessageDeduplicationId", entry.get("MessageDeduplicationId"))
        if dedup_id is not None and not fifo:
            raise invalid_value(dedup_id, "MessageDeduplicationId", WRONG_KIND)
        attributes = entry.get("MessageAttributes")
        system = entry.get("MessageSystemAttributes")
        return Outgoing(
            body=entry["MessageBody"],
            attributes=read_attributes(attributes) if attributes else {},
            delay=None if fifo else delay,
            group=read_token("MessageGroupId", entry.get("MessageGroupId")),
            dedup_id=dedup_id,
            sender=call.principal.key_id,
            trace=_read_trace(system) if system else None,
        )

    async def _not_sent(self, call: Call, name: str, refused: Refused) -> SqsError:
        if isinstance(refused, MessageTooLarge):
            config = (await self._queues.describe(call.home, name)).config
            return SqsError(
                "InvalidParameterValue",
                "One or more parameters are invalid. Reason: Message must be shorter than "
                f"{config.max_message_bytes} bytes.",
            )
        return in_words_of_sqs(refused)


def _size(entries: Sequence[Entry]) -> int:
    """What the messages of a batch count together; whether each is as it should be is not looked at yet."""
    size = 0
    for entry in entries:
        size += len(entry["MessageBody"].encode())
        for name, value in entry.get("MessageAttributes", {}).items():
            size += len(name.encode()) + len(value["DataType"].encode())
            size += len(value.get("StringValue", "").encode()) + len(value.get("BinaryValue", "")) * 3 // 4
    return size


def _sent(sent: Sent, name: str) -> dict[str, object]:
    answer: dict[str, object] = {"MessageId": sent.id, "MD5OfMessageBody": sent.md5}
    if sent.md5_attributes:
        answer["MD5OfMessageAttributes"] = sent.md5_attributes
    if sent.md5_system:
        answer["MD5OfMessageSystemAttributes"] = sent.md5_system
    if is_fifo(name):
        answer["SequenceNumber"] = sent.sequence
    return answer
