"""The SQS protocol as values and bytes: operations, errors, and AWS JSON 1.0.

The older query protocol carries the same structures; :data:`OPERATIONS` tells which.  Arguments and results are dicts
with the names of the JSON protocol, whatever the client speaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import attrs
import orjson

JSON_TYPE: Final = b"application/x-amz-json-1.0"

_TARGET: Final = "AmazonSQS."

# -- errors

FAULTS: Final[Mapping[str, tuple[str, int]]] = {
    # Of the service's model; the older protocol has longer names for some.
    "QueueDoesNotExist": ("AWS.SimpleQueueService.NonExistentQueue", 400),
    "QueueNameExists": ("QueueAlreadyExists", 400),
    "EmptyBatchRequest": ("AWS.SimpleQueueService.EmptyBatchRequest", 400),
    "TooManyEntriesInBatchRequest": ("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", 400),
    "BatchEntryIdsNotDistinct": ("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", 400),
    "BatchRequestTooLong": ("AWS.SimpleQueueService.BatchRequestTooLong", 400),
    "InvalidBatchEntryId": ("AWS.SimpleQueueService.InvalidBatchEntryId", 400),
    "UnsupportedOperation": ("AWS.SimpleQueueService.UnsupportedOperation", 400),
    "ReceiptHandleIsInvalid": ("ReceiptHandleIsInvalid", 400),
    "InvalidAttributeName": ("InvalidAttributeName", 400),
    "InvalidAttributeValue": ("InvalidAttributeValue", 400),
    "InvalidMessageContents": ("InvalidMessageContents", 400),
    "ResourceNotFoundException": ("ResourceNotFoundException", 400),
    "OverLimit": ("OverLimit", 403),
    "RequestThrottled": ("RequestThrottled", 403),
    # Common to all services.
    "InvalidParameterValue": ("InvalidParameterValue", 400),
    "MissingParameter": ("MissingParameter", 400),
    "SerializationException": ("MalformedInput", 400),
    "UnknownOperationException": ("InvalidAction", 400),
    "MissingAction": ("MissingAction", 400),
    "MissingAuthenticationToken": ("MissingAuthenticationToken", 403),
    "IncompleteSignature": ("IncompleteSignature", 400),
    "InvalidClientTokenId": ("InvalidClientTokenId", 403),
    "SignatureDoesNotMatch": ("SignatureDoesNotMatch", 403),
    "RequestExpired": ("RequestExpired", 400),
    "AccessDenied": ("AccessDenied", 403),
    "InternalFailure": ("InternalFailure", 500),
    "ServiceUnavailable": ("ServiceUnavailable", 503),
}
"""Every error that is ever told, by its name in the JSON protocol: its code in the query protocol, and the status."""

_MODELLED: Final = frozenset(list(FAULTS)[: list(FAULTS).index("InvalidParameterValue")])


class SqsError(Exception):
    """An error in SQS's own words.

    :ivar name: a key of :data:`FAULTS`.
    :ivar message: what SDKs show, and some compare.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name, message)
        self.name = name
        self.message = message

    @property
    def code(self) -> str:
        """The code of the query protocol, which SDKs show in the JSON protocol too."""
        return FAULTS[self.name][0]

    @property
    def status(self) -> int:
        return FAULTS[self.name][1]

    @property
    def senders_fault(self) -> bool:
        return self.status < 500


def invalid_value(value: object, parameter: str, reason: str) -> SqsError:
    """The error for a parameter that is out of range, as SQS words it."""
    return SqsError("InvalidParameterValue", f"Value {value} for parameter {parameter} is invalid. Reason: {reason}")


def missing(parameter: str) -> SqsError:
    """The error for a parameter that is not there."""
    return SqsError("MissingParameter", f"The request must contain the parameter {parameter}.")


# -- shapes


@attrs.frozen(slots=True)
class Text:
    """A string; a blob as well, as its base64."""


@attrs.frozen(slots=True)
class Number:
    """A whole number."""


@attrs.frozen(slots=True)
class Flag:
    """``true`` or ``false``."""


@attrs.frozen(slots=True)
class List:
    """A list; ``item`` names one in the query protocol."""

    of: Shape
    item: str


@attrs.frozen(slots=True)
class Map:
    """Values by name; ``item`` and ``key`` name an entry and its name in the query protocol."""

    of: Shape
    item: str
    key: str = "Name"


@attrs.frozen(slots=True)
class Structure:
    """Members by name; some have to be there."""

    members: Mapping[str, Shape]
    required: tuple[str, ...] = ()


Shape: TypeAlias = Text | Number | Flag | List | Map | Structure


@attrs.frozen(slots=True)
class Operation:
    """:ivar gives: ``None`` if there is no result."""

    takes: Structure
    gives: Structure | None = None


TEXT, NUMBER, FLAG = Text(), Number(), Flag()


def _takes(required: str = "", **members: Shape) -> Structure:
    return Structure(members, tuple(required.split()))


_VALUE = _takes("DataType", DataType=TEXT, StringValue=TEXT, BinaryValue=TEXT)
_ATTRIBUTES = Map(_VALUE, "MessageAttribute")
_SYSTEM_ATTRIBUTES = Map(_VALUE, "MessageSystemAttribute")
_QUEUE_ATTRIBUTES = Map(TEXT, "Attribute")
_TAGS = Map(TEXT, "Tag", "Key")
_URLS = List(TEXT, "QueueUrl")
_OUTGOING: Mapping[str, Shape] = {
    "MessageBody": TEXT,
    "DelaySeconds": NUMBER,
    "MessageAttributes": _ATTRIBUTES,
    "MessageSystemAttributes": _SYSTEM_ATTRIBUTES,
    "MessageDeduplicationId": TEXT,
    "MessageGroupId": TEXT,
}
_SENT: Mapping[str, Shape] = {
    "MessageId": TEXT,
    "MD5OfMessageBody": TEXT,
    "MD5OfMessageAttributes": TEXT,
    "MD5OfMessageSystemAttributes": TEXT,
    "SequenceNumber": TEXT,
}
_RECEIVED = _takes(
    MessageId=TEXT,
    ReceiptHandle=TEXT,
    MD5OfBody=TEXT,
    Body=TEXT,
    Attributes=_QUEUE_ATTRIBUTES,
    MD5OfMessageAttributes=TEXT,
    MessageAttributes=_ATTRIBUTES,
)
_TASK = _takes(
    TaskHandle=TEXT,
    Status=TEXT,
    SourceArn=TEXT,
    DestinationArn=TEXT,
    MaxNumberOfMessagesPerSecond=NUMBER,
    ApproximateNumberOfMessagesMoved=NUMBER,
    ApproximateNumberOfMessagesToMove=NUMBER,
    FailureReason=TEXT,
    StartedTimestamp=NUMBER,
)
_FAILED = List(_takes(Id=TEXT, SenderFault=FLAG, Code=TEXT, Message=TEXT), "BatchResultErrorEntry")


def _batch(verb: str, required: str, **members: Shape) -> Structure:
    entry = Structure({"Id": TEXT, **members}, ("Id", required))
    return _takes("QueueUrl", QueueUrl=TEXT, Entries=List(entry, f"{verb}BatchRequestEntry"))


def _outcomes(verb: str, **members: Shape) -> Structure:
    return _takes(Successful=List(Structure({"Id": TEXT, **members}), f"{verb}BatchResultEntry"), Failed=_FAILED)


def _of_queue(required: str = "", **members: Shape) -> Structure:
    return _takes(f"QueueUrl {required}", QueueUrl=TEXT, **members)


OPERATIONS: Final[Mapping[str, Operation]] = {
    "AddPermission": Operation(
        _of_queue(
            "Label Actions AWSAccountIds",
            Label=TEXT,
            AWSAccountIds=List(TEXT, "AWSAccountId"),
            Actions=List(TEXT, "ActionName"),
        )
    ),
    "CancelMessageMoveTask": Operation(
        _takes("TaskHandle", TaskHandle=TEXT), _takes(ApproximateNumberOfMessagesMoved=NUMBER)
    ),
    "ChangeMessageVisibility": Operation(
        _of_queue("ReceiptHandle VisibilityTimeout", ReceiptHandle=TEXT, VisibilityTimeout=NUMBER)
    ),
    "ChangeMessageVisibilityBatch": Operation(
        _batch("ChangeMessageVisibility", "ReceiptHandle", ReceiptHandle=TEXT, VisibilityTimeout=NUMBER),
        _outcomes("ChangeMessageVisibility"),
    ),
    "CreateQueue": Operation(
        _takes("QueueName", QueueName=TEXT, Attributes=_QUEUE_ATTRIBUTES, tags=_TAGS), _takes(QueueUrl=TEXT)
    ),
    "DeleteMessage": Operation(_of_queue("ReceiptHandle", ReceiptHandle=TEXT)),
    "DeleteMessageBatch": Operation(
        _batch("DeleteMessage", "ReceiptHandle", ReceiptHandle=TEXT), _outcomes("DeleteMessage")
    ),
    "DeleteQueue": Operation(_of_queue()),
    "GetQueueAttributes": Operation(
        _of_queue(AttributeNames=List(TEXT, "AttributeName")), _takes(Attributes=_QUEUE_ATTRIBUTES)
    ),
    "GetQueueUrl": Operation(_takes("QueueName", QueueName=TEXT, QueueOwnerAWSAccountId=TEXT), _takes(QueueUrl=TEXT)),
    "ListDeadLetterSourceQueues": Operation(
        _of_queue(NextToken=TEXT, MaxResults=NUMBER), _takes(queueUrls=_URLS, NextToken=TEXT)
    ),
    "ListMessageMoveTasks": Operation(
        _takes("SourceArn", SourceArn=TEXT, MaxResults=NUMBER),
        _takes(Results=List(_TASK, "ListMessageMoveTasksResultEntry")),
    ),
    "ListQueueTags": Operation(_of_queue(), _takes(Tags=_TAGS)),
    "ListQueues": Operation(
        _takes(QueueNamePrefix=TEXT, NextToken=TEXT, MaxResults=NUMBER), _takes(QueueUrls=_URLS, NextToken=TEXT)
    ),
    "PurgeQueue": Operation(_of_queue()),
    "ReceiveMessage": Operation(
        _of_queue(
            AttributeNames=List(TEXT, "AttributeName"),
            MessageSystemAttributeNames=List(TEXT, "MessageSystemAttributeName"),
            MessageAttributeNames=List(TEXT, "MessageAttributeName"),
            MaxNumberOfMessages=NUMBER,
            VisibilityTimeout=NUMBER,
            WaitTimeSeconds=NUMBER,
            ReceiveRequestAttemptId=TEXT,
        ),
        _takes(Messages=List(_RECEIVED, "Message")),
    ),
    "RemovePermission": Operation(_of_queue("Label", Label=TEXT)),
    "SendMessage": Operation(Structure({"QueueUrl": TEXT, **_OUTGOING}, ("QueueUrl", "MessageBody")), Structure(_SENT)),
    "SendMessageBatch": Operation(_batch("SendMessage", "MessageBody", **_OUTGOING), _outcomes("SendMessage", **_SENT)),
    "SetQueueAttributes": Operation(_of_queue("Attributes", Attributes=_QUEUE_ATTRIBUTES)),
    "StartMessageMoveTask": Operation(
        _takes("SourceArn", SourceArn=TEXT, DestinationArn=TEXT, MaxNumberOfMessagesPerSecond=NUMBER),
        _takes(TaskHandle=TEXT),
    ),
    "TagQueue": Operation(_of_queue("Tags", Tags=_TAGS)),
    "UntagQueue": Operation(_of_queue("TagKeys", TagKeys=List(TEXT, "TagKey"))),
}


# -- the JSON protocol

_EXPECTED: Final[Mapping[type, tuple[type, str]]] = {
    Text: (str, "a string"),
    Number: (int, "a whole number"),
    Flag: (bool, "true or false"),
    List: (list, "a list"),
    Map: (dict, "an object"),
    Structure: (dict, "an object"),
}


def read(value: Any, shape: Shape, path: str) -> Any:
    """Check a value and take from it what is known.

    :param path: what it is called in errors.
    :raises SqsError: if something has another type, or is missing.
    """
    kind, expected = _EXPECTED[type(shape)]
    given_kind = type(value)
    if given_kind is not kind:  # a bool is no number
        raise SqsError("SerializationException", f"{path or 'The body'} has to be {expected}.")
    if isinstance(shape, Structure):
        found = {}
        prefix = f"{path}." if path else ""
        for name, member in shape.members.items():
            given = value.get(name)
            if given is not None:
                # A body, as most members, is a string: no call for it.
                found[name] = given if member is TEXT and type(given) is str else read(given, member, prefix + name)
        for name in shape.required:
            if name not in found:
                raise missing(prefix + name)
        return found
    if isinstance(shape, List):
        return [read(item, shape.of, f"{path}.{index}") for index, item in enumerate(value, 1)]
    if isinstance(shape, Map):
        # A null is as good as absent, as everywhere in this protocol.
        return {name: read(item, shape.of, f"{path}.{name}") for name, item in value.items() if item is not None}
    return value


def operation_of_target(target: bytes) -> str:
    """The operation that ``X-Amz-Target`` names.

    :raises SqsError: if there is no such one.
    """
    name = target.decode("latin-1")
    operation = name[len(_TARGET) :] if name.startswith(_TARGET) else ""
    if operation not in OPERATIONS:
        raise SqsError("UnknownOperationException", "The operation that is asked for is not one of Amazon SQS.")
    return operation


def read_json(operation: str, body: bytes) -> dict[str, Any]:
    """The arguments in a body of the JSON protocol; members that are not known are ignored.

    :raises SqsError: if it is no JSON, a member has another type, or one is missing.
    """
    try:
        value = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        raise SqsError("SerializationException", "The body is not JSON.") from None
    arguments: dict[str, Any] = read(value, OPERATIONS[operation].takes, "")
    return arguments


def write_json(result: Mapping[str, Any] | None) -> bytes:
    """The body of an answer; that of an operation without result is empty."""
    return b"" if result is None else orjson.dumps(result)


def write_json_error(error: SqsError) -> bytes:
    """The body of an error; its headers are :func:`error_headers`."""
    space = "com.amazonaws.sqs" if error.name in _MODELLED else "com.amazon.coral.service"
    return orjson.dumps({"__type": f"{space}#{error.name}", "message": error.message})


def error_headers(error: SqsError) -> tuple[tuple[bytes, bytes], ...]:
    """What tells SDKs the code that the query protocol has for an error."""
    fault = "Sender" if error.senders_fault else "Receiver"
    return ((b"x-amzn-query-error", f"{error.code};{fault}".encode()),)
