"""The operations on messages that are in a queue: receive, delete, change of visibility."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from flowgate.errors import NotFound, ReceiptInvalid, Refused
from flowgate.queues.model import (
    MAX_RECEIVE,
    MAX_VISIBILITY,
    MAX_WAIT,
    ReceiptExpired,
    ReceivedMessage,
    is_fifo,
    md5_of_attributes,
)
from flowgate.queues.service import Queues, VisibilityTotal
from flowgate.sqs.attributes import KNOWN, unknown_attribute
from flowgate.sqs.batches import Entry, check_batch, failure
from flowgate.sqs.call import Call
from flowgate.sqs.refusals import BAD_RECEIPT, in_words_of_sqs
from flowgate.sqs.sending import WRONG_KIND, read_token
from flowgate.sqs.wire import SqsError, invalid_value, missing

_BAD_VISIBILITY: Final = f"VisibilityTimeout must be >= 0 and <= {MAX_VISIBILITY}."
_SYSTEM: Final[Mapping[str, Callable[[Call, ReceivedMessage], str | None]]] = {
    "SenderId": lambda call, one: one.sender or call.naming.account,
    "SentTimestamp": lambda _, one: str(one.sent_at),
    "ApproximateReceiveCount": lambda _, one: str(one.receive_count),
    "ApproximateFirstReceiveTimestamp": lambda _, one: str(one.first_received_at),
    "SequenceNumber": lambda _, one: one.sequence,
    "MessageDeduplicationId": lambda _, one: one.dedup_id,
    "MessageGroupId": lambda _, one: one.group,
    "AWSTraceHeader": lambda _, one: one.trace,
    "DeadLetterQueueSourceArn": lambda call, one: (
        call.naming.arn(one.dead_letter_source, call.region) if one.dead_letter_source else None
    ),
}


def _wants(names: Collection[str]) -> Callable[[str], bool]:
    """Whether a message attribute is among those asked for: by name, ``All``, or by the beginning of its name."""
    if "All" in names or ".*" in names:
        return lambda _: True
    prefixes = tuple(name[:-2] for name in names if name.endswith(".*"))
    return lambda name: name in names or name.startswith(prefixes)


class Receiving:
    """Translates between SQS and the queues, which check all values themselves."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    async def receive_message(self, call: Call) -> dict[str, object]:
        name = call.queue("receive")
        arguments = call.arguments
        limit = call.ranged("MaxNumberOfMessages", 1, MAX_RECEIVE, 1)
        wait = call.ranged("WaitTimeSeconds", 0, MAX_WAIT, None, f"Must be >= 0 and <= {MAX_WAIT}, if provided.")
        visibility = call.ranged("VisibilityTimeout", 0, MAX_VISIBILITY, None)
        attempt = read_token("ReceiveRequestAttemptId", arguments.get("ReceiveRequestAttemptId"))
        if attempt is not None and not is_fifo(name):
            raise invalid_value(attempt, "ReceiveRequestAttemptId", WRONG_KIND)
        system = {*arguments.get("AttributeNames", ()), *arguments.get("MessageSystemAttributeNames", ())}
        if not system <= _SYSTEM.keys():
            for asked in sorted(system):
                if asked not in _SYSTEM and asked not in KNOWN and asked != "All":
                    raise unknown_attribute(asked)
        received = await self._queues.receive(
            call.home, name, 1 if limit is None else limit, wait, visibility, attempt, call.principal
        )
        if not received:
            return {}
        fifo = is_fifo(name)
        shown = [
            (asked, read)
            for asked, read in _SYSTEM.items()
            if ("All" in system or asked in system) and (fifo or asked != "SequenceNumber")
        ]
        wanted = arguments.get("MessageAttributeNames", ())
        wants = _wants(wanted) if wanted else None
        messages = []
        for one in received:
            message: dict[str, object] = {
                "MessageId": one.id,
                "ReceiptHandle": one.receipt,
                "MD5OfBody": one.md5,
                "Body": one.body,
            }
            if system:
                values = ((asked, read(call, one)) for asked, read in shown)
                message["Attributes"] = {asked: value for asked, value in values if value is not None}
            if wants is not None and one.attributes:
                chosen = {key: value for key, value in one.attributes.items() if wants(key)}
                if chosen:
                    message["MD5OfMessageAttributes"] = md5_of_attributes(chosen)
                    message["MessageAttributes"] = {
                        key: {"BinaryValue" if value.binary else "StringValue": value.value, "DataType": value.type}
                        for key, value in chosen.items()
                    }
            messages.append(message)
        return {"Messages": messages}

    # -- receipts

    async def delete_message(self, call: Call) -> None:
        name = call.queue("receive")
        receipt = call.arguments["ReceiptHandle"]
        [result] = await self._queues.delete(call.home, name, [receipt])
        if result is not None:
            raise _of_receipt(receipt, result, False)

    async def delete_message_batch(self, call: Call) -> Mapping[str, object]:
        name = call.queue("receive")
        entries = call.arguments.get("Entries", ())
        try:
            check_batch(entries, "DeleteMessageBatchRequestEntry")
        except SqsError:
            await self._queues.describe(call.home, name)
            raise
        results = await self._queues.delete(call.home, name, [entry["ReceiptHandle"] for entry in entries])
        return _outcomes(entries, results)

    async def change_message_visibility(self, call: Call) -> None:
        name = call.queue("receive")
        receipt, seconds = call.arguments["ReceiptHandle"], call.arguments["VisibilityTimeout"]
        if not 0 <= seconds <= MAX_VISIBILITY:
            raise invalid_value(seconds, "VisibilityTimeout", _BAD_VISIBILITY)
        [result] = await self._queues.change_visibility(call.home, name, [(receipt, seconds)])
        if result is not None:
            raise _of_receipt(receipt, result, False, seconds)

    async def change_message_visibility_batch(self, call: Call) -> dict[str, object]:
        name = call.queue("receive")
        entries = call.arguments.get("Entries", ())
        try:
            check_batch(entries, "ChangeMessageVisibilityBatchRequestEntry")
        except SqsError:
            await self._queues.describe(call.home, name)
            raise
        failed = []
        changing = []
        for entry in entries:
            seconds = entry.get("VisibilityTimeout")
            if seconds is None:
                failed.append(failure(entry, missing("VisibilityTimeout")))
            elif not 0 <= seconds <= MAX_VISIBILITY:
                failed.append(failure(entry, invalid_value(seconds, "VisibilityTimeout", _BAD_VISIBILITY)))
            else:
                changing.append(entry)
        outcomes = _outcomes(
            changing,
            await self._queues.change_visibility(
                call.home, name, [(entry["ReceiptHandle"], entry["VisibilityTimeout"]) for entry in changing]
            )
            if changing
            else (),
        )
        return {"Successful": outcomes["Successful"], "Failed": [*failed, *outcomes["Failed"]]}


def _outcomes(entries: Sequence[Entry], results: Sequence[Refused | None]) -> dict[str, list[dict[str, object]]]:
    successful: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    for entry, result in zip(entries, results, strict=True):
        if result is None:
            successful.append({"Id": entry["Id"]})
        else:
            error = _of_receipt(entry["ReceiptHandle"], result, True, entry.get("VisibilityTimeout"))
            failed.append(failure(entry, error))
    return {"Successful": successful, "Failed": failed}


def _of_receipt(receipt: str, refused: Refused, in_batch: bool, seconds: int | None = None) -> SqsError:
    """The error for a receipt with which nothing was done."""
    shown = receipt[:1024]
    if isinstance(refused, ReceiptInvalid):
        text = f'The input receipt handle "{shown}" is not a valid receipt handle.' if in_batch else BAD_RECEIPT
        return SqsError("ReceiptHandleIsInvalid", text)
    if isinstance(refused, ReceiptExpired):
        return invalid_value(shown, "ReceiptHandle", "The receipt handle has expired.")
    if isinstance(refused, NotFound):
        reason = "Message does not exist or is not available for visibility timeout change."
        return invalid_value(shown, "ReceiptHandle", reason)
    if isinstance(refused, VisibilityTotal):
        reason = f"Total VisibilityTimeout for the message is beyond the limit [{MAX_VISIBILITY} seconds]"
        return invalid_value(seconds, "VisibilityTimeout", reason)
    return in_words_of_sqs(refused)
